import math

import pytest
from synthetic_records import BASE, make

from lorakit.analysis.frames import tidy
from lorakit.analysis.rates import best_by_length, ratios, regret

RATES = [10 ** (exponent / 2) for exponent in range(-8, -2)]  # 1e-4 to 3.2e-2


def loss(rank, rate, seed, step):
    """Full fine-tuning's best rate is 1e-3; LoRA's is 1e-2 for runs of 10 steps and 3.16e-3 for runs of 100."""
    best = 1e-3 if rank is None else {1: 1.0, 10: 1e-2, 100: 10**-2.5}[step]
    return 2.0 - math.log10(step) / 2 + math.log10(rate / best) ** 2 / 10


CURVES = tidy(make(loss, ranks=(None, 8), rates=RATES, steps=(1, 10, 100)))


def test_the_ratio_follows_the_run_length_and_leaves_out_the_edge_of_a_grid():
    found = ratios(best_by_length(CURVES)).groupby("step")["ratio"].agg(["mean", "count"])
    assert found.index.tolist() == [10, 100], "at step 1 LoRA's optimum lies above the grid"
    assert found["mean"].tolist() == pytest.approx([10, 10**0.5])
    assert found["count"].tolist() == [5, 5]


def test_regret_is_a_share_of_the_improvement_read_between_trained_rates():
    assert regret(CURVES, "full", 1e-3, BASE) == 0
    assert regret(CURVES, "full", 1e-2, BASE) == pytest.approx(0.1 / (BASE - 1.0))
    assert regret(CURVES, "full", 10**-2.25, BASE) == pytest.approx((0.025 + 0.1) / 2 / (BASE - 1.0))
    assert regret(CURVES, "rank 8", 1e-2, BASE, step=10) == 0


def test_no_regret_is_known_outside_the_grid_or_beside_a_diverged_run():
    assert math.isnan(regret(CURVES, "full", 1.0, BASE))
    lost = tidy(make(lambda rank, rate, *at: math.inf if rate > 5e-3 else loss(rank, rate, *at), ranks=(None,),
                     rates=RATES, steps=(1, 10, 100)))
    assert math.isnan(regret(lost, "full", 8e-3, BASE))
    assert regret(lost, "full", 1e-3, BASE) == 0
