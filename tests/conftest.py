"""Marks as slow what `make test-fast` leaves out: files that import torch or what stands on it, and those in `LONG`."""

import re
from functools import cache
from pathlib import Path

import pytest

TRAINS = re.compile(r"^(?:from|import) (?:torch|transformers|peft|trl|golden|plain_training|toy_rl|test_rollout|"
                    r"lorakit\.(?:packed|reference|rl|sweep|bases|adapters))\b", flags=re.MULTILINE)

LONG = {"test_browser", "test_distribution", "test_readme", "test_recomputed", "test_store_kill"}


@cache
def slow(path: Path) -> bool:
    return path.stem in LONG or TRAINS.search(path.read_text(encoding="utf-8")) is not None


def pytest_collection_modifyitems(items):
    for item in items:
        if slow(item.path):
            item.add_marker(pytest.mark.slow)
