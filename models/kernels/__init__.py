"""Parameter-free functions on tensors ``[B, H, T, d]``."""
