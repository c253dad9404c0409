"""Adapters: attached, inspected, exported."""
