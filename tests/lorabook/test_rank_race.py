"""Rules that predict a rank: what was needed, how far each lies from it, and constants that never saw their test."""

import math

import pytest
from synthetic_records import BASE, make

from lorabook.claims import rank_race
from lorabook.claims.rank_race import Case, by_rows, case_of, errors, fitted, floor, needed, verdict
from lorabook.page.public import needed_ranks
from lorakit.analysis.sweep import Sweep
from lorakit.theory.capacity import recommend_rank

pandas = pytest.importorskip("pandas")


def case(low, high=None, *, bits=1000.0, rows=500.0, unit=100.0):
    return Case("base, data", rows, bits, bits, unit, low, low if high is None else high)


def test_the_needed_rank_is_where_the_deficit_stays_within_the_margin():
    assert needed({1: 3.0, 4: 1.0}, 2.0) == pytest.approx((2.0, 2.0))
    assert needed({1: 1.0, 4: 3.0, 16: 1.0}, 2.0) == pytest.approx((8.0, 8.0)), "a rank that comes back counts"
    assert needed({1: 3.0, 4: 2.5}, 2.0) == (4.0, math.inf)
    assert needed({2: 1.0, 4: 0.0}, 2.0) == (0.0, 2.0)


def test_no_rule_is_wrong_beyond_a_bound():
    assert [case(4.0, math.inf).error(rank) for rank in (2, 4, 64)] == [-1, 0, 0]
    assert [case(0.0, 4.0).error(rank) for rank in (1, 8)] == [0, 1]
    assert case(4.0).error(16) == 2


def test_the_floor_is_the_calculators():
    for bits in (1.0, 8704.0, 17409.0, 200_000.0):
        assert floor(case(4.0, bits=bits, unit=4352.0)) == recommend_rank("tiny", bits=bits).rank


@pytest.mark.parametrize(("rows", "rank"), [(999, 8), (1000, 16), (10_000, 32), (100_000, 64)])
def test_axolotls_rule_goes_by_rows(rows, rank):
    assert by_rows(case(4.0, rows=rows)) == rank


def test_a_constant_is_tested_on_the_half_that_it_was_not_fitted_on():
    cases = [case(rank) for rank in (4.0, 16.0) * 3]  # even places need 4, odd ones 16
    assert list(fitted(cases, rank_race.always(1))) == pytest.approx([2, -2] * 3)


def test_the_floor_wins_only_where_bits_say_more_than_a_constant():
    spread = [case(float(2**k), bits=200.0 * 2**k) for k in (0, 6, 1, 5, 2, 4, 3, 0, 6, 1)]
    assert verdict(spread).outcome == "holds"
    wrong = [case(4.0, bits=200.0 * 2**k) for k in (0, 6, 1, 5, 2, 4, 3, 0, 6, 1)]
    assert verdict(wrong).outcome == "does not hold"
    assert {"always 8", "weights ≥ tokens (primer)", "a fitted constant"} <= set(errors(spread))
    assert "too low, of 10" in rank_race.table({"made up": spread}).rows[0]


def test_a_sweep_is_a_case():
    def loss(rank, rate, seed, step):
        return 1.0 + {None: 0.0, 1: 0.4, 4: 0.2, 16: 0.0}[rank] + 0.1 * math.log10(rate / 1e-3) ** 2 + 0.001 * seed

    found = case_of(Sweep(make(loss, ranks=(None, 1, 4, 16), metrics={"parameters": 64, "test_loss": 1.5})), "made up")
    assert BASE - 1.0 == 2.0, "5 % of the improvement are 0.1 nats: between ranks 4 and 16, half way"
    assert (found.low, found.high) == pytest.approx((8.0, 8.0), rel=0.02)
    assert found.unit == 64


def test_public_models_keep_their_needed_rank_and_no_rows():
    best = pandas.DataFrame([("a", 1, 1.05), ("a", 4, 1.03), ("a", 64, 1.0), ("b", 1, 1.0), ("b", 4, 1.0)],
                            columns=["model", "rank", "loss"])
    found = needed_ranks(best, pandas.Series({"a": 10.0, "b": 10.0}))
    assert list(found) == ["a"], "b was not run with a high rank"
    assert found["a"]["low"] == found["a"]["high"] == pytest.approx(4 * 16 ** (2 / 3), rel=0.01)
