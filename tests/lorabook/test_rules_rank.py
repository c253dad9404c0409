import math
import re

import pytest
from synthetic_records import BASE, curve_loss, jitter, make

from lorabook.claims.decisions import PERCENT, Finding, Limit, combine, decide, exactly, over_seeds, paired
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import equal_to_full, rank_sets_departure, same_first_steps
from lorakit.analysis.frames import runs, tidy

ASSOCIATIONS = "random-associations@1"


def evidence(records, peak=1e-2):
    return Evidence("cpu", "base@1", tidy(records), runs(records), peak_learning_rate=peak)


def shifted(shift, only=lambda rank: rank is not None and rank >= 16):
    """`curve_loss` with LoRA's loss raised by `shift` (of an improvement of 1.5) times a factor by seed."""
    def loss(rank, rate, seed, step):
        return curve_loss(rank, rate, seed, step) + (shift(seed) if only(rank) else 0.0)
    return loss


def test_c1_holds_where_high_ranks_equal_full_and_low_ones_may_not():
    found = equal_to_full(evidence(make(shifted(lambda seed: 0.4, only=lambda rank: rank == 1))))
    assert found.outcome == "holds"
    assert abs(found.interval.mean) < 1
    assert "rank 16" in found.reason
    assert "rank 1:" not in found.reason
    assert found.regime.startswith("reworded-skills: post-training")


def test_c1_fails_in_either_direction_and_says_whose_favour():
    worse = equal_to_full(evidence(make(shifted(lambda seed: 0.3))))
    better = equal_to_full(evidence(make(shifted(lambda seed: -0.3))))
    assert worse.outcome == better.outcome == "does not hold"
    assert worse.interval.mean == pytest.approx(20, abs=1)
    assert "full fine-tuning's favour" in worse.reason
    assert "LoRA's favour" in better.reason


def test_c1_is_inconclusive_where_seeds_disagree():
    found = equal_to_full(evidence(make(shifted(lambda seed: 0.2 * (seed - 2)))))
    assert found.outcome == "inconclusive"


def test_c1_one_rank_that_differs_is_enough():
    found = equal_to_full(evidence(make(shifted(lambda seed: 0.3, only=lambda rank: rank == 16))))
    assert found.outcome == "does not hold"
    assert found.effect.startswith("reworded-skills, rank 16")


def test_c1_is_not_tested_outside_post_training():
    found = equal_to_full(evidence(make(metrics={"delta_norm": 0.4})))
    assert found.outcome == "not tested"
    assert "new-skill regime" in found.reason
    assert "‖ΔW‖/‖W‖ 0.4" in found.reason
    assert equal_to_full(evidence(make(), peak=1e-3)).outcome == "not tested"


def test_c1_leaves_out_data_made_to_exceed_capacity_and_the_control():
    bad = shifted(lambda seed: 0.3)
    records = make() + make(bad, dataset=ASSOCIATIONS) + make(bad, dataset="new-skills@1")
    assert equal_to_full(evidence(records)).outcome == "holds"
    assert equal_to_full(evidence(make(dataset=ASSOCIATIONS))).outcome == "not tested"


def test_c1_needs_an_improvement_to_compare_with():
    found = equal_to_full(evidence(make(lambda *run: BASE + 0.1 + abs(math.log10(run[1]) + 3) / 10)))
    assert found.outcome == "inconclusive"
    assert "not clearly above zero" in found.reason


DENSE = tuple(sorted({round(1.3**n) for n in range(1, 20)}))  # to step 146


def memorise(leaves, slope=0.15, fall=0.3):
    """Loss falls with log2 steps; a rank falls more slowly after `leaves[rank]` steps."""
    def loss(rank, rate, seed, step):
        common = BASE - fall * math.log2(1 + step) + (math.log10(rate) + 3) ** 2 / 10
        late = max(0.0, math.log2((1 + step) / (1 + leaves.get(rank, 10_000)))) * (fall - slope)
        return common + late + 0.01 * seed + jitter(rank or 500, seed, step)
    return loss


def departures(leaves, slope=0.15, ranks=(None, 1, 4, 16, 64), steps=DENSE, fall=0.3):
    return rank_sets_departure(evidence(make(memorise(leaves, slope, fall), ranks=ranks, dataset=ASSOCIATIONS,
                                             steps=steps)))


def test_c2_holds_where_higher_ranks_leave_later_and_keep_learning():
    found = departures({1: 4, 4: 16, 16: 32})
    assert found.outcome == "holds", found.reason
    assert re.search(r"with the step of leaving \(limit: above 0\): \+[01]\.", found.reason)
    assert "rank 1 at step 8" in found.reason
    assert "rank 64 never" in found.reason


def test_c2_fails_where_higher_ranks_leave_first():
    assert departures({1: 32, 4: 16, 16: 8, 64: 4}).outcome == "does not hold"


def test_c2_fails_at_a_floor():
    found = departures({1: 4, 4: 16, 16: 32}, slope=0.0)
    assert found.outcome == "does not hold"
    assert re.search(r"Change of test loss over the last doubling.*: rank 1 [+−]0\.\d %[^;]*, outside", found.reason)


@pytest.mark.parametrize(("change", "words"), [
    ({"leaves": {1: 8, 4: 8, 16: 8, 64: 8}}, "64 at step 14. That is 1 distinct step of leaving, and a trend takes 3."),
    ({"leaves": {1: 4, 4: 16}}, "That is 2 distinct steps of leaving"),
    ({"fall": 0.405}, "The best arm finished the data"),
    ({"steps": (1, 2, 4, 8, 16, 32, 64, 128)}, "a factor of 2 apart, more than 1.5."),
    ({"leaves": {4: 4, 16: 16, 64: 32}}, "The lowest rank did not leave."),
])
def test_c2_is_inconclusive_without_what_a_trend_takes(change, words):
    found = departures(**{"leaves": {1: 4, 4: 16, 16: 32}} | change)
    assert found.outcome == "inconclusive"
    assert words in found.reason
    assert "correlation" not in found.reason, "what is not judged is not printed"
    assert found.effect == "distinct steps at which ranks leave"


def test_c2_asks_for_an_evaluation_near_before_the_first_step_of_leaving():
    assert [step for step in DENSE if step < 11][-4:] == [4, 5, 6, 8]
    thinned = tuple(step for step in DENSE if step not in (5, 6))
    assert "a factor of 2 apart" in departures({1: 4, 4: 16, 16: 32}, steps=thinned).reason


def test_c2_is_inconclusive_where_nothing_ran_out_or_too_few_ranks():
    assert "No rank ran out of capacity" in departures({}).reason
    assert departures({}).outcome == "inconclusive"
    assert departures({1: 4}, ranks=(None, 1, 4)).outcome == "inconclusive"


def test_c2_looks_only_at_random_associations():
    assert rank_sets_departure(evidence(make())).outcome == "not tested"


def first(offset):
    """A common early curve, with a rank's own offset as a fraction of the improvement so far."""
    def loss(rank, rate, seed, step):
        gain = 0.5 * math.log10(1 + step) * (1 - (math.log10(rate) + 3) ** 2 / 10)
        return BASE - gain * (1 + offset(rank, seed)) + 0.001 * jitter(rank, rate, seed, step)
    return loss


@pytest.mark.parametrize(
    ("offset", "outcome"),
    [(lambda rank, seed: 0.001 * (seed - 2), "holds"),
     (lambda rank, seed: 0.2 if rank == 1 else 0.0, "does not hold"),
     (lambda rank, seed: -0.2 if rank == 1 else 0.0, "does not hold"),
     (lambda rank, seed: 0.1 * (seed - 2) if rank == 1 else 0.0, "inconclusive")],
)
def test_c4_outcomes(offset, outcome):
    found = same_first_steps(evidence(make(first(offset), ranks=(1, 16, 64))))
    assert found.outcome == outcome
    assert "rank 64" in found.effect


def test_c4_margin_is_of_the_improvement_so_far_not_of_the_run():
    def loss(rank, rate, seed, step):  # 20 % apart at step 8, which is 3 % of what the whole run gains
        gain = 0.02 * step * (0.8 if rank == 1 and step <= 8 else 1) - (math.log10(rate) + 3) ** 2 / 1000
        return BASE - gain + 0.0001 * jitter(rank, seed, step)

    assert same_first_steps(evidence(make(loss, ranks=(1, 16)))).outcome == "does not hold"


def test_c4_ignores_late_steps_and_compares_at_one_rate():
    def loss(rank, rate, seed, step):
        late = 0.5 if rank == 1 and step > 10 else 0.0
        own_rate = 0.3 * abs(math.log10(rate) + 3) if rank == 1 else 0.0
        return first(lambda *_: 0.0)(rank, rate, seed, step) + late + own_rate

    assert same_first_steps(evidence(make(loss, ranks=(1, 16)))).outcome == "holds"


def test_c4_needs_two_ranks_two_steps_and_the_common_rate():
    assert same_first_steps(evidence(make(ranks=(None, 16)))).outcome == "not tested"
    assert same_first_steps(evidence(make(ranks=(1, 16), steps=(8, 64, 128)))).outcome == "inconclusive"
    apart = make(first(lambda *_: 0.0), ranks=(16,)) + make(first(lambda *_: 0.0), ranks=(1,), rates=[2e-4, 2e-3])
    assert "Not run at learning rate 0.001: rank 1" in same_first_steps(evidence(apart)).reason


def test_many_comparisons_do_not_refute_by_chance():
    limit = Limit("the gap", (-5.55, 5.55), PERCENT)
    one = limit.measured("a", paired(dict(enumerate([6.0, 6.2, 6.4, 6.6, 7.8])), dict.fromkeys(range(5), 0.0)))
    equal = limit.measured("b", over_seeds([0.0, 0.0]))
    assert decide([one]).outcome == "does not hold"
    assert decide([one, *[equal] * 9]).outcome == "inconclusive"
    assert decide([one, *[equal] * 9], corrected=False).outcome == "does not hold"
    with pytest.raises(ValueError, match="at least one"):
        decide([])
    with pytest.raises(ValueError, match="nothing was measured"):
        decide([limit])


def test_verdict_sentence_and_effect_come_from_one_list():
    gap = Limit("the gap", (-5, 5), PERCENT)
    rate = Limit("the ratio", (2, math.inf), outside=(1, math.inf))
    limits = [gap.measured("rank 1", exactly(1.0)), gap.measured("rank 4", exactly(-7.0)),
              rate.measured("", over_seeds([1.4, 1.6]))]
    found = decide(limits, before="Before.", after="After.")
    assert found.outcome == "does not hold"
    assert (found.effect, found.interval.mean) == ("rank 4, % of full's improvement", -7.0)
    assert found.reason == ("Before. The gap (limit: within −5 % to 5 %): rank 1 +1.0 %; rank 4 −7.0 %, outside. "
                            "The ratio (limit: above 2): 1.5 (0.2 to 2.8), undecided. After.")
    many = decide([gap.measured(f"step {n}", exactly(n)) for n in range(13)])
    assert "of 13 (5 inside) furthest out is step 12 +12.0 %, outside" in many.reason
    assert many.interval.mean == 12


@pytest.mark.parametrize(("change", "span", "outcome"), [
    ({}, (6, 7), "does not hold"), ({"outside": (-5, math.inf)}, (6, 7), "inconclusive"),
    ({}, (-4, 4), "holds"), ({"can_hold": False}, (-4, 4), "inconclusive"), ({}, (4, 6), "inconclusive"),
    ({"least_mean": 1}, (-4, 4), "inconclusive"), ({"outside": (3, 5)}, (1, 2), "holds"),
    ({"outside": (3, 5), "fails_first": True}, (1, 2), "does not hold"),
])
def test_a_limit_holds_inside_and_fails_wholly_outside(change, span, outcome):
    measured = Limit("the gap", (-5, 5), PERCENT).measured("a", exactly(sum(span) / 2, *span), **change)
    assert decide([measured]).outcome == outcome


def test_combined_findings():
    holds, fails, unsure = Finding("holds", "a"), Finding("does not hold", "b"), Finding("inconclusive", "c")
    untested = Finding("not tested", "d")
    assert combine({"x": holds, "y": unsure}).outcome == "inconclusive"
    assert combine({"x": holds, "y": unsure, "z": fails}).outcome == "does not hold"
    assert combine({"x": holds, "y": untested}).outcome == "holds"
    assert combine({"y": untested}).outcome == "not tested"
    assert combine({}).outcome == "not tested"
