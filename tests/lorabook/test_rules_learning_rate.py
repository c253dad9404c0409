import math
from dataclasses import replace

import pytest
from synthetic_records import BASE, jitter, make

from lorabook.claims.evidence import Evidence
from lorabook.claims.learning_rate import (
    b_outgrows_a,
    more_sensitive,
    rise_above_best,
    shorter_means_more,
    ten_times,
)
from lorabook.claims.rank import plain
from lorakit.analysis.frames import runs, tidy
from lorakit.specs import LoRASpec, SFTSpec

GRID = [10 ** (exponent / 4) for exponent in range(-16, -6)]  # 1e-4 to 1.8e-2, four a decade
STEPS = (10, 80, 160, 320)
FULL = 3e-4


def evidence(records, peak=1e-2):
    return Evidence("cpu", "base@1", tidy(records), runs(records), peak_learning_rate=peak)


def u_curves(ratios, *, early=1.0, curvature=0.2, full_curvature=0.2):
    """Losses with the best rate of full fine-tuning at `FULL` and each rank's at `ratios[rank]` times that.

    `early` multiplies LoRA's best rate at all steps but the last.
    """
    def loss(rank, rate, seed, step):
        best = FULL * (ratios[rank] if rank else 1) * (early if rank and step < STEPS[-1] else 1)
        bend = curvature if rank else full_curvature
        wander = 1 + jitter(rank or 500, seed, size=0.05)
        return BASE - 0.3 * math.log2(1 + step) / 8 * 5 + bend * math.log10(rate / (best * wander)) ** 2 + 0.01 * seed
    return loss


def records(loss, ranks=(None, 1, 4, 16, 64), norm_b=3.0, steps=STEPS, **options):
    made = make(loss, ranks=ranks, rates=GRID, steps=steps, **options)
    length = len(steps) + 1
    return [replace(r, curve={**r.curve, "norm_a": [1.0] * length,
                              "norm_b": [norm_b + 0.1 * r.spec.get("seed", 0)] * length}) for r in made]


TENFOLD = {1: 5, 4: 9, 16: 10, 64: 10.5}


def test_c3_holds_where_high_ranks_want_ten_times_and_rank_1_less():
    found = ten_times(evidence(records(u_curves(TENFOLD))))
    assert found.outcome == "holds", found.reason
    assert found.interval.mean == pytest.approx(10.5, rel=0.05)
    assert "rank 16 / full 10" in found.reason
    assert found.regime.startswith("reworded-skills: post-training")


@pytest.mark.parametrize(("ratios", "words"), [
    ({**TENFOLD, 16: 3, 64: 3.2}, "rank 64 / full 3"),
    ({**TENFOLD, 4: 3, 1: 2}, "rank 64 / rank 4 3"),
    ({**TENFOLD, 1: 20}, "rank 1 / rank 64 1.9"),
])
def test_c3_fails_where_one_part_lies_outside(ratios, words):
    found = ten_times(evidence(records(u_curves(ratios))))
    assert found.outcome == "does not hold"
    assert words in found.reason
    assert ", outside" in found.reason


def test_c3_is_inconclusive_where_an_interval_straddles_the_bound():
    found = ten_times(evidence(records(u_curves({**TENFOLD, 16: 6.67, 64: 10}))))
    assert found.outcome == "inconclusive"
    assert "undecided" in found.reason


def test_c3_judges_post_training_alone():
    found = ten_times(evidence(records(u_curves(TENFOLD), metrics={"delta_norm": 0.4})))
    assert found.outcome == "not tested"
    assert "‖ΔW‖/‖W‖ 0.4" in found.reason
    both = records(u_curves(TENFOLD)) + records(u_curves({1: 1, 4: 1, 16: 1, 64: 1}), dataset="real-text@1",
                                                metrics={"delta_norm": 0.4})
    assert ten_times(evidence(both)).outcome == "holds", "data outside the gate judge nothing"


@pytest.mark.parametrize("ranks", [(None, 1, 16), (None, 4, 16, 64)])
def test_c3_does_not_hold_on_some_of_its_parts_alone(ranks):
    assert ten_times(evidence(records(u_curves(TENFOLD), ranks=ranks))).outcome == "inconclusive"
    assert ten_times(evidence(records(u_curves(dict.fromkeys(TENFOLD, 3)), ranks=ranks))).outcome == "does not hold"


def test_c3_needs_full_fine_tuning_and_a_high_rank():
    assert ten_times(evidence(records(u_curves(TENFOLD), ranks=(None, 1, 4)))).outcome == "not tested"


def test_other_alphas_take_no_part():
    made = records(u_curves(TENFOLD))
    odd = SFTSpec.from_json(made[-1].spec)
    for change in ({"lora": LoRASpec(rank=16, alpha=2)}, {"lora": LoRASpec(rank=8, targets="mlp")},
                   {"lora": None, "full_targets": "all-linear"}):
        spec = replace(odd, **change)
        made.append(replace(made[-1], id=spec.id, spec=spec.to_json()))
    assert set(plain(tidy(made))["arm"]) == {"full", "rank 1", "rank 4", "rank 16", "rank 64"}


@pytest.mark.parametrize(("early", "outcome"), [
    (1.5, "holds"), (0.5, "does not hold"), (1.0, "inconclusive"),
])
def test_c14_asks_for_a_falling_ratio(early, outcome):
    def loss(rank, rate, seed, step):
        shift = 1 + jitter(seed, step, 7, size=0.1)
        return u_curves(TENFOLD, early=early)(rank, rate / shift if rank else rate, seed, step)
    found = shorter_means_more(evidence(records(loss, norm_b=0.3)))
    assert found.outcome == outcome, found.reason
    assert "at step 80" in found.reason


@pytest.mark.parametrize(("norm_b", "steps", "outcome"), [
    (3.0, (10, 1000), "holds"), (0.3, (10, 1000), "does not hold"), (0.8, (10, 1000), "inconclusive"),
    (3.0, (10, 320), "not tested"),
])
def test_c14_b_asks_for_a_grown_b_at_the_end_of_long_runs(norm_b, steps, outcome):
    made = records(u_curves(TENFOLD), ranks=(None, 16), norm_b=norm_b, steps=steps)
    found = b_outgrows_a(evidence(made))
    assert found.outcome == outcome, found.reason
    assert "norm of B / norm of A" in found.reason


def test_c14_needs_runs_longer_than_its_short_ones():
    made = make(u_curves(TENFOLD), ranks=(None, 16), rates=GRID, steps=(10, 80, 160))
    assert shorter_means_more(evidence(made)).outcome == "inconclusive"


def test_a1_compares_what_the_same_factor_costs():
    steep = more_sensitive(evidence(records(u_curves(TENFOLD, curvature=0.4))))
    flat = more_sensitive(evidence(records(u_curves(TENFOLD, full_curvature=0.4))))
    assert (steep.outcome, flat.outcome) == ("holds", "does not hold")
    assert steep.interval.mean > 0 > flat.interval.mean
    assert more_sensitive(evidence(records(u_curves(TENFOLD), ranks=(None,)))).outcome == "not tested"


def test_a_rise_counts_a_diverged_run_as_no_better_than_the_base():
    def loss(rank, rate, seed, step):
        return math.inf if rate > 4e-3 else u_curves(TENFOLD)(rank, rate, seed, step)
    curves = tidy(records(loss))
    assert min(rise_above_best(curves, "rank 64", BASE).values()) > 95
    assert max(rise_above_best(curves, "full", BASE).values()) < 10
    near_the_top = curves[curves["learning_rate"] < 6e-3]
    assert rise_above_best(near_the_top, "rank 64", BASE) is None
