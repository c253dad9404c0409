"""Base models: loaded, checked, and what is peculiar to their families."""
