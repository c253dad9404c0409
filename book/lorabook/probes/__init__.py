"""Measurements that the book makes besides those of every run."""
