"""The book's own package: its experiments, claims, data and pages; it stands on lorakit."""

from lorakit.sources import add_source

add_source("lorabook.source:SOURCE")
