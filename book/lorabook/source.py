"""What the book gives to lorakit: its bases, datasets, tasks and rewards."""

from __future__ import annotations

from pathlib import Path

from lorakit.sources import Source

PACKAGE = Path(__file__).parent
SOURCE = Source(
    PACKAGE / "fingerprints.json",
    {"models": "lorabook.bases.smollm2:MODELS", "datasets": "lorabook.data.loaders:DATASETS",
     "tasks": "lorabook.data.loaders:TASKS", "rewards": "lorabook.data.osmosis:SCHEMES"},
    PACKAGE / "bases" / "weights",
    {"osmosis": 2, "osmosis-line": 2})
