"""Batch sizes: best rates, what a larger batch costs in samples, and what an old rate loses there."""

import math
from dataclasses import replace

import pytest
from synthetic_records import RATES, make

from lorabook.experiments.results import Results
from lorabook.page import batches
from lorakit.records import Record
from lorakit.specs import read_spec


def loss(best):
    """A U around `best` that falls with the logarithm of the steps."""
    return lambda rank, rate, seed, step: (3 - 0.3 * math.log(1 + step) * (1 - 0.2 * math.log10(rate / best) ** 2)
                                           + 0.001 * seed)


def of_batch(size, steps, best):
    for record in make(loss(best), ranks=(None, 16), rates=RATES, seeds=range(2), steps=steps):
        spec = replace(read_spec(record.spec), batch_size=size)
        yield Record.from_run(spec, "ok", record.metrics, record.curve, record.provenance)


@pytest.fixture(scope="module")
def parts():
    records = [*of_batch(4, (1, 4, 16, 64), 1e-3), *of_batch(16, (1, 4, 16), 2e-3)]
    return batches.by_batch(Results("b", "cpu", "record", (), records))


def test_the_best_rate_follows_the_root_that_was_put_in(parts):
    assert list(parts) == [4, 16]
    found = batches.powers(batches.best_rates(parts))
    assert found["full"].mean == pytest.approx(0.5, abs=0.03)


def test_the_line_of_the_root_starts_at_full_fine_tuning_and_doubles_with_four_times_the_batch(parts):
    rates = batches.best_rates(parts)
    root = batches.by_the_root(rates).set_index("batch_size")["learning_rate"]
    assert root[4] == pytest.approx(rates.query("arm == 'full' and batch_size == 4")["learning_rate"].mean(), rel=1e-2)
    assert root[16] / root[4] == pytest.approx(2)


def test_a_larger_batch_ends_where_as_many_steps_of_the_small_one_ended(parts):
    row = batches.brackets(parts).loc["rank 16", 16]
    assert row["low"] < row["measured"]
    assert row["measured"] == pytest.approx(row["high"], abs=0.02)
    assert row["samples"] == pytest.approx(4, rel=0.1), "sixteen steps of 16 for what sixteen steps of 4 reached"


def test_an_old_rate_left_alone_costs_what_the_curve_says(parts):
    lost = batches.left_alone(parts, "full", 16)
    assert lost > 0
    assert batches.left_alone(parts, "full", 4) == pytest.approx(0)
