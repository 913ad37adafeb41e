"""Data for training and evaluation, read from disk."""
