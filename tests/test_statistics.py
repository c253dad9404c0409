import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lorakit.analysis.statistics import (
    GridEdgeError,
    GridEdgeWarning,
    Interval,
    SeedError,
    equivalent,
    mean_interval,
    optimum,
    paired_difference,
    ratio_interval,
)

RATES = [1e-4, 1e-3, 1e-2, 1e-1]


def test_paired_difference_agrees_with_scipy():
    a = {0: 1.2, 1: 1.5, 2: 0.9, 3: 1.1, 4: 1.7}
    b = {0: 1.0, 1: 1.1, 2: 1.0, 3: 0.8, 4: 1.2}
    reference = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.9)
    found = paired_difference(a, b, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert (found.n, found.confidence) == (5, 0.9)


def test_pairs_by_seed_not_by_position():
    a = pd.Series({1: 2.0, 0: 1.0, 2: 4.0})
    assert paired_difference(a, {0: 1.0, 1: 2.0, 2: 4.0}) == Interval(0.0, 0.0, 0.0, 3)


def test_interval_by_hand():
    # differences 0 and 2: mean 1, s = √2, t(0.975, 1) = 12.7062, half width 12.7062 · √2 / √2
    assert mean_interval([0.0, 2.0]).high == pytest.approx(1 + 12.7062, abs=1e-4)


@pytest.mark.parametrize(
    "b", [{0: 1.0, 2: 1.0}, {0: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, pd.Series([1.0, 2.0, 3.0], [0, 1, 1])]
)
def test_seeds_must_match(b):
    with pytest.raises(SeedError, match="seeds do not pair"):
        paired_difference({0: 1.0, 1: 1.0}, b)


def test_one_seed_is_no_interval():
    with pytest.raises(SeedError, match="at least 2 seeds, got 1"):
        paired_difference({0: 1.0}, {0: 2.0})
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=95)


def test_a_diverged_run_leaves_nothing_concluded():
    found = paired_difference({0: math.inf, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    assert found.mean == math.inf
    assert equivalent(found, 1.0) == "undecided"
    both = paired_difference({0: math.inf, 1: 1.0}, {0: math.inf, 1: 1.0})
    assert equivalent(both, 1.0) == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-0.9, 0.9, "equal"), (-1.0, 1.0, "equal"), (0.2, 0.8, "equal"), (0.5, 1.5, "undecided"), (-2, 2, "undecided"),
     (1.1, 2.0, "different"), (-3.0, -1.1, "different"), (1.0, 2.0, "undecided"), (-math.inf, math.inf, "undecided")],
)
def test_equivalence_is_three_way(low, high, answer):
    assert equivalent(Interval((low + high) / 2, low, high, 5), margin=1.0) == answer


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_a_margin_must_be_positive(margin):
    with pytest.raises(ValueError, match="margin"):
        equivalent(Interval(0, 0, 0, 5), margin)


def parabola(vertex, rates=RATES):
    return [(math.log10(rate) - vertex) ** 2 + 1.0 for rate in rates]


def test_optimum_finds_the_vertex_between_grid_points():
    vertices = [-2.3, -2.1, -2.2]
    found = optimum(RATES, [parabola(v) for v in vertices])
    assert [math.log10(rate) for rate in found.per_seed.values()] == pytest.approx(vertices)
    low, high = stats.t.interval(0.95, 2, loc=-2.2, scale=stats.sem(vertices))
    assert (math.log10(found.low), math.log10(found.high)) == pytest.approx((low, high))
    assert found.learning_rate == pytest.approx(10**-2.2)
    assert (found.grid_rate, found.edge) == (1e-2, None)


def test_optimum_does_not_need_sorted_rates_or_several_seeds():
    order = [2, 0, 3, 1]
    losses = parabola(-2.3)
    found = optimum([RATES[i] for i in order], [[losses[i] for i in order]], seeds=[7])
    assert found.per_seed == pytest.approx({7: 10**-2.3})
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_diverged_rate_counts_as_infinite_and_stays_in_the_grid(broken):
    # without the diverged rate, 1e-2 would be the end of the grid
    found = optimum(RATES, [[3.0, 2.0, 1.0, broken], [3.0, 2.0, 1.0, broken]])
    assert found.edge is None
    assert found.learning_rate == pytest.approx(1e-2)


def test_a_rate_where_one_seed_diverged_is_not_best():
    losses = [[3.0, 2.0, 0.5, math.inf], [3.0, 2.0, math.inf, math.inf]]
    found = optimum(RATES, losses)
    assert found.grid_rate == 1e-3
    assert found.per_seed == pytest.approx({0: 1e-3, 1: 1e-3}), "one window for both"
    assert optimum(RATES, losses, reach=None).per_seed == pytest.approx({0: 1e-2, 1: 1e-3})


def test_flat_floor_stays_on_the_grid():
    assert optimum(RATES, [[2.0, 1.0, 1.0, 1.0]]).learning_rate == pytest.approx(10**-2.5)
    assert optimum([1, 2, 4, 8, 16], [[2.0, 1.0, 1.0, 1.0, 2.0]]).learning_rate == pytest.approx(2**1.5)


@pytest.mark.parametrize(("losses", "side", "more"), [([1, 2, 3, 4], "downwards", "1e-06 and 1e-05"),
                                                      ([4, 3, 2, 1], "upwards", "1 and 10")])
def test_an_optimum_at_the_edge_fails_a_record_and_warns_live(losses, side, more):
    with pytest.raises(GridEdgeError, match=f"rank 4: .*{side}, for example with {more}"):
        optimum(RATES, [losses, losses], arm="rank 4")
    with pytest.warns(GridEdgeWarning, match=side):
        found = optimum(RATES, [losses, losses], size="live")
    assert found.edge == {"downwards": "lowest", "upwards": "highest"}[side]


def test_what_cannot_be_fitted_says_why():
    with pytest.raises(ValueError, match="3 or more different"):
        optimum([1e-3, 1e-2], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="do not fit 4 learning rates"):
        optimum(RATES, [[1.0, 2.0]])
    with pytest.raises(ValueError, match="diverged for some seed"):
        optimum(RATES, np.full((2, 4), np.inf))
    with pytest.raises(ValueError, match="at every learning rate some seed diverged"):
        optimum(RATES, [[1.0, math.inf, 1.0, math.inf], [math.inf, 1.0, math.inf, 1.0]])


def test_ratio_of_optima_is_paired_in_log_space():
    lora = optimum(RATES, [parabola(v) for v in (-1.9, -1.7, -1.8)])
    full = optimum(RATES, [parabola(v) for v in (-2.9, -2.7, -2.8)])
    found = ratio_interval(lora, full)
    assert (found.mean, found.low, found.high) == pytest.approx((10.0, 10.0, 10.0))
    with pytest.raises(SeedError):
        ratio_interval(lora, optimum(RATES, [parabola(-2.9)], seeds=[9]))
