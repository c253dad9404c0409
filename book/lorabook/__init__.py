"""The book's own package: its experiments, claims, data and pages; it stands on lorakit."""
