"""The packed engine: K configurations share one forward and one backward pass."""
