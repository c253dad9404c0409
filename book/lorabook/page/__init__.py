"""What a page shows, and how."""
