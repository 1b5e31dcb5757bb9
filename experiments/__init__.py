"""The engine: typed configuration, runs and their store, sweeps, training and evaluation. See README.md here."""
