"""Bytes and seconds that others measured on GPUs, against `estimate`, read by `benchmarks/public_estimates.py`."""

import statistics
import sys
from pathlib import Path

import pytest

from lorabook.page.public import kept

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "lorabook" / "benchmarks"))
import public_estimates  # noqa: E402

sys.path.pop(0)
pytestmark = pytest.mark.skipif(not (public_estimates.DATA / "peers_memory.csv").is_file(),
                                reason="the public tables are not here (LORAKIT_DATA names their folder)")


def test_the_kept_summaries_are_what_the_tables_give():
    found, there = kept(ROOT / "book" / "results")["estimates"], public_estimates.kept()
    assert {name: pytest.approx(part) for name, part in there.items()} == found


@pytest.fixture(scope="module")
def measured():
    return public_estimates.memory_rows()


def test_memory_is_what_others_measured(measured):
    ratios = [bytes_ / float(row["measured_gb"]) for row, bytes_, _ in measured]
    assert len(ratios) == 31
    assert 0.97 < statistics.median(ratios) < 1.05
    assert 0.95 < min(ratios) < max(ratios) < 1.15
    assert sum(abs(ratio - 1) < 0.1 for ratio in ratios) >= 28


def test_a_card_a_little_too_small_does_not_fit(measured):
    assert [row["setting"] for row, _, it in measured if it.fits] == []


def test_with_what_stands_beside_the_tensors_fitted_on_the_other_sources(measured):
    beside, ratios = {}, []
    for row, _, it in measured:
        one = (float(row["measured_gb"]), it.peak / 1e9, "allocated" in row["source"])
        beside.setdefault(row["source"], []).append(one)
    for left_out, rows in beside.items():
        others = statistics.median(size - tensors for name, there in beside.items() if name != left_out
                                   for size, tensors, allocated in there if not allocated)
        assert 0.3 < others < 1.8  # in GB; 2 are taken, to err on the side of "does not fit"
        ratios += [(tensors + others * (not allocated)) / size for size, tensors, allocated in rows]
    assert 0.97 < statistics.median(ratios) < 1.05
    assert sum(abs(ratio - 1) < 0.15 for ratio in ratios) >= 27  # four of Qwen's smallest would be too low


def test_seconds_are_within_a_factor_of_one_and_a_half():
    ratios = public_estimates.time_ratios()
    assert len(ratios) == 34
    assert 0.95 < statistics.median(ratios.values()) < 1.1
    assert min(ratios.values()) > 1 / 1.5
    assert max(ratios.values()) < 1.5
