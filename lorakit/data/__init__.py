"""Datasets and tasks: rows, splits, tokens."""
