"""The book's datasets and tasks, and those of the papers that it tests."""
