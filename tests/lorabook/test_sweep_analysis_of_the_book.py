"""What the book makes of `sweep_analysis`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import lorakit as lk
from lorakit.records import Store

RESULTS = Path(__file__).parents[2] / "book" / "results"


def test_recorded_runs_give_the_numbers_of_the_ledger():
    """C1's gaps under replay, as the ledger has them: per cent of full fine-tuning's improvement."""
    from lorabook.claims.ledger import on_first_runs, verdict

    store = Store(RESULTS)
    effect = on_first_runs(verdict("C1", store), "tiny")
    found = lk.Sweep(store.records("cpu", "rank-replay"), strict=True).compare()
    assert effect.interval is not None
    ledger = (effect.interval.mean, effect.interval.low, effect.interval.high)
    same = [arm for arm, gap in found.items() if (gap.mean, gap.low, gap.high) == pytest.approx(ledger)]
    assert same == [effect.effect.partition(" −")[0].partition(", ")[2]]


def test_recorded_rank_runs_answer_as_the_chapter_says():
    sweep = lk.Sweep(Store(RESULTS).records("cpu", "rank"), strict=True).only("reworded-skills")
    gaps = sweep.compare()
    assert gaps["rank 1"].word == "worse"
    assert [gaps[arm].word for arm in ("rank 8", "rank 16", "rank 128")] == ["equal", "open", "equal"]
    assert isinstance(sweep.compare().frame, pd.DataFrame)
