"""Bits stored by passes, what rounding loses, and the test of a predicted rank."""

import math

import pytest
from synthetic_records import make

from lorabook.claims import forecast, storing
from lorabook.claims.associations import BITS
from lorakit.analysis.sweep import Sweep

COUNT, LEARNT = 24, 0.5  # strings, and the share of their bits that is stored at the end
UNKNOWN = math.log(64)


def strings(count=COUNT, **metrics):
    """Runs that store nothing before step 64 and `LEARNT` at the end; the middle rate is the best."""
    def loss(rank, rate, seed, step):
        return UNKNOWN * (1 - LEARNT * (step > 64)) + 0.1 * abs(math.log10(rate / 1e-3))

    return Sweep(make(loss, ranks=(1,), dataset=f"random-strings-{count}@1", seeds=range(3), metrics=metrics))


def test_bits_a_weight_grow_with_the_logarithm_of_passes():
    rows = storing.largest_sets(strings())
    passes = 128 * 4 / COUNT
    held = LEARNT * COUNT * 63 * 6 / 360_000
    assert storing.per_weight(rows, passes).mean == pytest.approx(held, rel=1e-3)
    assert storing.per_weight(rows, passes / math.sqrt(2)).mean == pytest.approx(held / 2, rel=1e-3)
    assert "rank 1" in repr(storing.table(rows))
    assert "–" in repr(storing.table(rows)), "no run had 100 passes"


def test_of_two_sets_the_larger_is_taken():
    both = Sweep([*strings(12), *strings(24)])
    assert set(storing.largest_sets(both)["strings"]) == {24}


def test_rounding_is_counted_in_bits_a_weight():
    end = UNKNOWN * (1 - LEARNT)
    worse = strings(validation_loss=end, test_loss=end, validation_loss_bf16=end + 0.1, test_loss_bf16=end + 0.3)
    lost = storing.lost_by_rounding(worse, storing.largest_sets(worse))
    assert lost["rank 1"].mean == pytest.approx(0.2 * COUNT * 63 / math.log(2) / 360_000, rel=1e-3)


@pytest.mark.parametrize(("rank", "word", "constant"), [(1, "too low", True), (2, "too low", True), (4, "right", True),
                                                        (8, "right", True), (16, "too high", True)])
def test_a_rank_is_right_between_what_is_too_low_and_what_is_equal(rank, word, constant):
    one = forecast.Forecast(1e4, 1e3, rank, 1, too_low=2, equal=8)
    assert (one.word, one.constant_fits) == (word, constant)
    assert not forecast.Forecast(1e4, 1e3, rank, 1, too_low=8, equal=None).constant_fits


def test_a_forecast_compares_the_ranks_of_known_bits_with_those_that_were_needed():
    def loss(rank, rate, seed, step):
        behind = {1: 0.5, 4: 0.2}.get(rank, 0.0)
        return 3 - (1 - behind) * math.log(1 + step) / 5 + 0.1 * abs(math.log10(rate / 1e-3))

    records = make(loss, ranks=(None, 1, 4, 16), dataset="random-associations@1")
    found = forecast.forecast(Sweep(records, strict=True), "tiny")
    assert (found.bits, found.rank, found.too_low, found.equal) == (BITS, 1, 4, 16)
    assert found.word == "too low"
    text = make(loss, ranks=(None, 1, 4, 16), metrics={"test_loss": 2.0})
    lengths = forecast.forecast(Sweep(text, strict=True), "tiny")
    assert lengths.learnt < lengths.bits < 3 * 128 * 256 / math.log(2)
    assert "reworded" in repr(forecast.table({"reworded": lengths}))
