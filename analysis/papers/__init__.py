"""A module for each paper: its figures and tables, drawn from our studies, and its claims with our verdicts on them."""
