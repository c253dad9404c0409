"""C8, C3-RL, C6-RL, O1, O2, T1 and P1 on RL records whose answer is known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas
import pytest
from synthetic_records import make

from lorabook.claims.decisions import decide
from lorabook.claims.evidence import Evidence
from lorabook.claims.grpo import (
    AS_MANY,
    at_a_multiple,
    behind_at_its_own_rate,
    behind_at_the_same_rate,
    equal_in_a_wider_band,
    mlp_carries_it_in_rl,
    rank_one_is_a_bottleneck,
    ten_times_at_rank_one,
    ten_times_in_rl,
)
from lorabook.claims.layers import pairs
from lorabook.claims.rl_tasks import (
    accuracies,
    between_heaps,
    deficits,
    fates,
    gain_over_base,
    good_rates,
    more_good_rates,
)
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import GridEdgeError, share_difference
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record
from lorakit.specs import LoRASpec

BASE, TOP = 0.2, 0.9
FULL, RANK_1, RANK_64 = None, LoRASpec(rank=1), LoRASpec(rank=64)
PLAIN = (FULL, RANK_1, RANK_64)
ATTENTION, MLP, BOTH = LoRASpec(rank=18, targets="attention"), LoRASpec(rank=16, targets="mlp"), LoRASpec(rank=16)
WEIGHTS = {"attention": 2048, "mlp": 2304, "all-linear": 4352}
GRID = [10 ** (k / 3) for k in range(-12, -5)]  # 1e-4 to 1e-2
WIDE, NARROW = 0.04, 0.4  # accuracy lost a decade away from the best rate


def best_at(rate, width=WIDE, top=TOP):
    """Accuracy as a function of (rate, seed): a parabola, its top moved by a fifth of a point from seed to seed."""
    return lambda lr, seed: max(0.0, top - width * math.log10(lr / rate) ** 2 + 0.002 * (seed - 2))


def spread(accuracy, points):
    """The same with `points` hundredths between neighbouring seeds."""
    return lambda lr, seed: accuracy(lr, seed) + points / 100 * (seed - 2)


LORA, FULL_AT_A_TENTH = best_at(1e-3), best_at(1e-4, NARROW)


def evidence(full=FULL_AT_A_TENTH, rank_1=LORA, rank_64=LORA, task="copy@1", arms=PLAIN, told=500, problems=1024,
             **more):
    """Runs of each arm over its grid; full fine-tuning's lies a decade lower. The rewards told `told` bits."""
    curves = dict(zip(PLAIN, (full, rank_1, rank_64), strict=True)) | more.get("accuracy", {})
    records = []
    for lora in arms:
        for rate in [value / 10 for value in GRID] if lora is None else GRID:
            for seed in range(5):
                spec = GRPOSpec(model="base@1", task=task, lora=lora, learning_rate=rate, steps=20, seed=seed,
                                evaluation_problems=problems)
                last = curves[lora](rate, seed)
                weights = 393_856 if lora is None else lora.rank * WEIGHTS[lora.targets]
                column = [BASE, last]
                records.append(Record.from_run(
                    spec, "ok", {"base_test_accuracy": BASE, "parameters": weights},
                    {"step": [1, 20], "tokens": [100, 2000], "validation_accuracy": column, "test_accuracy": column,
                     "episodes": [50, 1000], "reward_entropy": [told / 1000] * 2,
                     "advantage_entropy": [told / 1000] * 2},
                    {"date": "2026-01-01"}))
    return Evidence("cpu", "base@1", tidy(records), runs(records))


def together(*pieces):
    return replace(pieces[0], curves=pandas.concat([p.curves for p in pieces]),
                   metrics=pandas.concat([p.metrics for p in pieces]))


@pytest.mark.parametrize(("change", "outcome", "words"), [
    ({}, "holds", "rank 64 − full +0.0 % (+0.0 to +0.0)"),
    ({"rank_1": best_at(1e-3, top=TOP - 0.03)}, "holds", "rank 1 − full −4.3 %"),  # of a gain of 70 points
    ({"rank_1": best_at(1e-3, top=TOP - 0.05)}, "does not hold", "rank 1 − full −7.1 %"),
    ({"rank_1": best_at(1e-3, top=TOP + 0.05)}, "inconclusive", "rank 1 − full +7.1 %"),  # better is not equal
    ({"rank_64": best_at(1e-3, 2.0)}, "does not hold", "rank 64 − full −"),  # as good, in a narrower band
    ({"told": 5000}, "holds", "rank 1 1.74, rank 64 111.41"),  # rank 1 has no room, and is not judged
    ({"told": 5000, "rank_1": best_at(1e-3, top=0.3)}, "holds", "rank 64 − full +0.0 %"),
    ({"told": 1e6}, "not tested", "No rank has that room."),
    ({"problems": 1023}, "inconclusive", "Needs 1,024 test problems, the runs had 1023."),
    ({"full": best_at(1e-4)}, "inconclusive", "rank 64 − full +0.0 (+0.0 to +0.0), undecided"),  # equal bands
    ({"rank_1": spread(LORA, 4)}, "inconclusive", "rank 1"),
])
def test_c8_outcomes(change, outcome, words):
    found = equal_in_a_wider_band(evidence(**change))
    assert found.outcome == outcome
    assert words in found.reason
    assert outcome == "not tested" or found.effect.endswith(("% of full's gain in accuracy", "good rates"))


@pytest.mark.parametrize(("task", "outcome"), [(0, "holds"), (1, "does not hold")])
def test_c8_what_is_shown_is_what_decided(task, outcome):
    found = equal_in_a_wider_band(evidence(rank_64=best_at(1e-3, (WIDE, 2.0)[task])))
    assert found.outcome == outcome
    assert found.limit.state(1 - 0.05 / 4) == outcome


def lucky(rate, wins, width=NARROW):
    """A seed below `wins` finds the answer near the best rate, others stay at the base."""
    return lambda lr, seed: BASE + 0.7 * (seed < wins) * max(0.0, 1 - width * math.log10(lr / rate) ** 2)


@pytest.mark.parametrize(("full", "lora", "outcome"), [
    (5, 1, "inconclusive"), (4, 2, "inconclusive"), (4, 4, "inconclusive")])  # five seeds show no equality
def test_c8_counts_seeds_where_accuracies_lie_in_two_heaps(full, lora, outcome):
    ranks = {"rank_1": lucky(1e-3, lora, WIDE), "rank_64": lucky(1e-3, 4, WIDE)}
    found = equal_in_a_wider_band(evidence(full=lucky(1e-4, full), **ranks))
    assert found.outcome == outcome
    assert f"rank 1 − full, {lora} of 5 and {full} of 5 seeds" in found.reason
    assert "% of its gain" not in found.reason


@pytest.mark.parametrize(("lora", "outcome"), [(1, "does not hold"), (9, "inconclusive")])
def test_a_share_of_seeds_is_decided_like_any_limit(lora, outcome):
    won, all_won = [i < lora for i in range(10)], [True] * 10
    assert decide([AS_MANY.measured("", lambda c: share_difference(won, all_won, c))]).outcome == outcome
    many = [True] * 900 + [False] * 100
    assert decide([AS_MANY.measured("", lambda c: share_difference(many, many, c))]).outcome == "holds"


def test_two_heaps_are_none_where_accuracies_spread():
    def parted(*arms):
        return between_heaps([dict(enumerate(arm)) for arm in arms], 0.2)

    assert parted([0.2, 0.9], [0.2, 0.85]) == pytest.approx(0.55)
    assert parted([0.2, 0.2], [0.9, 0.85]) is None, "an arm that is low as a whole"
    assert parted([0.2, 0.5], [0.9, 0.6]) is None
    assert parted([0.9, 0.85], [0.8, 0.95]) is None
    assert parted([0.2, 0.2, 0.2]) is None


@pytest.mark.parametrize("rule", [equal_in_a_wider_band, behind_at_the_same_rate, behind_at_its_own_rate,
                                  ten_times_at_rank_one])
def test_without_a_gain_of_full_fine_tuning_there_is_nothing_to_compare_with(rule):
    found = rule(evidence(full=spread(best_at(1e-4, NARROW, top=BASE), 3)))
    assert found.outcome == "inconclusive"
    assert "did not clearly improve" in found.reason


@pytest.mark.parametrize("rule", [ten_times_at_rank_one, rank_one_is_a_bottleneck])
@pytest.mark.parametrize(("change", "outcome", "words"), [
    ({"told": 5000}, "not tested", "less room than the source supposes, so that this judges nothing: rank 1"),
    ({"problems": 256}, "inconclusive", "Needs 1,024 test problems, the runs had 256."),
])
def test_rank_one_is_judged_with_room_and_enough_problems(rule, change, outcome, words):
    found = rule(evidence(**change))
    assert found.outcome == outcome
    assert words in found.reason


@pytest.mark.parametrize("rule", [equal_in_a_wider_band, ten_times_in_rl, behind_at_the_same_rate,
                                  behind_at_its_own_rate, ten_times_at_rank_one, rank_one_is_a_bottleneck])
def test_what_was_not_run_is_not_tested(rule):
    assert rule(evidence(arms=(RANK_64,))).outcome == "not tested"
    supervised = make(ranks=(None, 1, 64))
    assert rule(Evidence("cpu", "base@1", tidy(supervised), runs(supervised))).outcome == "not tested"


def test_one_task_that_disagrees_is_enough_and_all_must_hold():
    good, bad = evidence(), evidence(rank_1=best_at(1e-3, top=TOP - 0.05), task="other@1")
    found = equal_in_a_wider_band(together(good, bad))
    assert found.outcome == "does not hold"
    assert "On copy: " in found.reason
    assert "On other: " in found.reason
    assert equal_in_a_wider_band(together(good, evidence(task="other@1"))).outcome == "holds"


def test_good_rates_are_counted_seed_by_seed_against_the_mean():
    found = evidence(full=spread(best_at(1e-4, NARROW), 1))
    gain = gain_over_base(found.curves, found.metrics)
    assert gain == pytest.approx(0.7)
    counts = good_rates(found.curves, 0.5)
    # a third of a decade beside the best rate costs 4.4 points, and the seeds lie up to 2.4 points beside their mean
    assert counts["full"] == {0: 1, 1: 1, 2: 3, 3: 3, 4: 3}
    worse = evidence(rank_1=best_at(1e-3, top=TOP - 0.2))
    assert set(good_rates(worse.curves, gain)["rank 1"].values()) == {0}, "one threshold for all arms"
    assert set(counts["rank 1"].values()) == {len(GRID)}


def test_more_good_rates_pair_each_seed_with_full_fine_tuning():
    ran = evidence(full=best_at(1e-4, NARROW), rank_1=best_at(1e-3, WIDE), rank_64=best_at(1e-3, NARROW))
    sweep = SimpleNamespace(curves=ran.curves, runs=ran.metrics, arms=["full", "rank 1", "rank 64"])
    found = more_good_rates(sweep)
    assert found["rank 1"].mean > 1 > abs(found["rank 64"].mean)


def test_fates_are_the_answer_the_form_or_neither():
    ran = evidence(arms=[RANK_1])
    last = ran.curves["step"] == 20
    curves = ran.curves[last & (ran.curves["learning_rate"] == GRID[0])].assign(
        test_accuracy=[0.9, 0.5, 0.2, 0.0, 0.0], reward_format_line=[3.0, 3.0, 2.9, 1.5, 0.0])
    found = fates(SimpleNamespace(curves=curves, arms=["rank 1"]))
    assert found.loc["rank 1"].to_dict() == {"the answer": 1, "the form only": 2, "not even the form": 2}


def test_accuracy_is_read_at_the_rate_that_validation_chose():
    curves = evidence().curves.copy()
    last = curves["step"] == 20
    curves.loc[last, "test_accuracy"] = 0.6
    curves.loc[last & (curves["learning_rate"] / 1e-3 - 1).abs().lt(1e-6), "test_accuracy"] = 0.7
    reached = accuracies(curves)
    assert set(reached["rank 1"].values()) == {0.7}
    assert set(reached["full"].values()) == {0.6}


@pytest.mark.parametrize(("full", "outcome"), [
    (best_at(1e-4, NARROW), "holds"),  # ten
    (best_at(3.2e-4, NARROW), "does not hold"),  # three
    (best_at(3.2e-5, NARROW), "does not hold"),  # thirty
    (lambda lr, seed: best_at(1e-4 * 10 ** (0.15 * (seed - 2)), NARROW)(lr, seed), "inconclusive"),
])
def test_c3_rl_outcomes(full, outcome):
    found = ten_times_in_rl(evidence(full=full))
    assert found.outcome == outcome
    assert "rank 1 / full" in found.reason
    assert found.effect == "best rate of rank 1 / full", "the first that decided"


def test_c3_rl_does_not_ask_for_a_gain():
    assert ten_times_in_rl(evidence(full=best_at(1e-4, NARROW, top=BASE))).outcome == "holds"


def layers(attention, mlp, both):
    return evidence(arms=(ATTENTION, MLP, BOTH), accuracy={ATTENTION: attention, MLP: mlp, BOTH: both})


@pytest.mark.parametrize(("attention", "mlp", "both", "outcome"), [
    (best_at(1e-3, top=0.7), LORA, LORA, "holds"),
    (best_at(1e-3, top=0.7), LORA, best_at(1e-3, top=0.91), "holds"),  # adds less than the margin
    (LORA, LORA, LORA, "does not hold"),  # attention is as good
    (best_at(1e-3, top=0.95), LORA, LORA, "does not hold"),
    (best_at(1e-3, top=0.5), best_at(1e-3, top=0.7), LORA, "does not hold"),  # attention adds to the MLP
    (spread(LORA, 4), LORA, LORA, "inconclusive"),
    (best_at(1e-3, top=0.7), LORA, spread(LORA, 4), "inconclusive"),
])
def test_c6_rl_outcomes(attention, mlp, both, outcome):
    found = mlp_carries_it_in_rl(layers(attention, mlp, both))
    assert found.outcome == outcome
    assert "rank 18, attention − rank 16, mlp" in found.reason


def test_c6_rl_depends_on_the_task_where_tasks_contradict():
    one = {ATTENTION: best_at(1e-3, top=0.7), MLP: LORA, BOTH: LORA}
    arms = (ATTENTION, MLP, BOTH)
    worse = evidence(arms=arms, accuracy=one, task="words@1")
    alike = evidence(arms=arms, accuracy=dict.fromkeys(arms, LORA))
    assert mlp_carries_it_in_rl(together(worse, alike)).outcome == "depends on the data"


def test_c6_rl_needs_equally_many_weights_and_both_questions():
    assert {question for question, *_ in pairs(layers(LORA, LORA, LORA).metrics)} == {"apart", "added"}
    for arms in ((MLP, BOTH), (replace(ATTENTION, rank=24), MLP, BOTH), PLAIN):
        found = mlp_carries_it_in_rl(evidence(arms=arms, accuracy=dict.fromkeys(arms, LORA)))
        assert found.outcome == "not tested"


@pytest.mark.parametrize(("rank_64", "outcome"), [
    (best_at(1e-2, NARROW / 2), "holds"),  # at a hundredth of its best rate
    (best_at(3.2e-4), "does not hold"),
    (spread(best_at(1e-3, 0.08), 4), "inconclusive"),  # 10 points behind at full's rate, give or take 8
])
def test_o1_outcomes(rank_64, outcome):
    # the grids overlap between 1e-4 and 1e-3
    found = behind_at_the_same_rate(evidence(full=best_at(1e-4, NARROW, top=0.92), rank_64=rank_64))
    if outcome == "holds":  # its own best rate is at the edge of its grid, and does not matter here
        with pytest.raises(GridEdgeError):
            behind_at_its_own_rate(evidence(rank_64=rank_64))
    assert found.outcome == outcome
    assert "rank 64 at 0.0001 − full at 0.0001" in found.reason


def test_o1_compares_at_the_rate_of_full_alone():
    gap = at_a_multiple(evidence(rank_64=best_at(1e-3, 0.1)).curves, "rank 64", 1)
    assert gap is not None
    label, lora, full = gap
    assert label == "rank 64 at 0.0001 − full at 0.0001"
    assert lora[0] - full[0] == pytest.approx(-0.1)
    assert at_a_multiple(evidence(full=best_at(3.2e-5, NARROW)).curves, "rank 64", 1) is None
    assert behind_at_the_same_rate(evidence(full=best_at(3.2e-5, NARROW))).outcome == "not tested"


@pytest.mark.parametrize(("rank_1", "outcome"), [
    (LORA, "holds"),  # at ten times the rate of full fine-tuning, its own best one
    (best_at(1e-3, top=TOP - 0.03), "holds"),  # 4.3 % of the gain
    (best_at(1e-3, top=0.95), "holds"),
    (best_at(3.2e-4, 0.2), "does not hold"),  # half a decade above its best rate
    (spread(LORA, 4), "inconclusive"),
])
def test_t1_outcomes(rank_1, outcome):
    found = ten_times_at_rank_one(evidence(rank_1=rank_1))
    assert found.outcome == outcome
    assert "rank 1 at 0.001 − full at 0.0001" in found.reason


def test_t1_needs_that_rate_at_rank_one():
    found = evidence()
    there = (found.curves["learning_rate"] / 1e-3 - 1).abs() < 1e-6
    thinned = replace(found, curves=found.curves[~(there & (found.curves["arm"] == "rank 1"))])
    assert ten_times_at_rank_one(thinned).outcome == "not tested"
    assert ten_times_at_rank_one(evidence(arms=(FULL, RANK_64))).outcome == "not tested"


@pytest.mark.parametrize(("rank_64", "outcome"), [
    (best_at(1e-3, top=0.8), "holds"), (LORA, "does not hold"), (best_at(1e-3, top=0.95), "does not hold"),
    (best_at(1e-3, top=0.885), "does not hold"), (spread(LORA, 4), "inconclusive"),
])
def test_o2_outcomes(rank_64, outcome):
    found = behind_at_its_own_rate(evidence(rank_64=rank_64))
    assert found.outcome == outcome
    assert "rank 64 − full" in found.reason


@pytest.mark.parametrize(("rank_1", "outcome"), [
    (best_at(1e-3, top=0.8), "holds"), (LORA, "does not hold"), (spread(LORA, 4), "inconclusive")])
def test_p1_outcomes(rank_1, outcome):
    found = rank_one_is_a_bottleneck(evidence(rank_1=rank_1))
    assert found.outcome == outcome
    assert "rank 1 − rank 64" in found.reason


def test_p1_needs_full_fine_tuning_whose_rewards_are_counted():
    assert rank_one_is_a_bottleneck(evidence(arms=(RANK_1, RANK_64))).outcome == "not tested"


def test_other_alphas_and_layers_do_not_count():
    odd = LoRASpec(rank=1, alpha=2)
    mixed = evidence(arms=(*PLAIN, odd, BOTH, ATTENTION), accuracy={
        odd: best_at(1e-3, top=0.3), BOTH: LORA, ATTENTION: best_at(1e-3, top=0.3)})
    assert equal_in_a_wider_band(mixed).outcome == "holds"
    assert "alpha 2" not in equal_in_a_wider_band(mixed).reason


def test_a_best_rate_at_the_edge_is_refused():
    with pytest.raises(GridEdgeError, match="highest"):
        equal_in_a_wider_band(evidence(rank_1=best_at(1e-1)))


def test_deficits_are_in_per_cent_of_the_gain_beside_the_room():
    given = evidence(rank_1=best_at(1e-3, top=TOP - 0.07), told=5000)
    found = deficits(SimpleNamespace(curves=given.curves, runs=given.metrics)).set_index("arm")
    assert found.loc["rank 1", "mean"] == pytest.approx(10)  # 7 points of a gain of 70
    assert found.loc["rank 64", "mean"] == pytest.approx(0, abs=1e-9)
    assert found["room"].tolist() == pytest.approx([2 * 4352 / 5000, 2 * 64 * 4352 / 5000])


def test_the_chart_of_room_has_a_dot_for_each_rank_and_the_articles_condition():
    vl_convert = pytest.importorskip("vl_convert")
    from lorabook.page.room_chart import deficits_by_room

    given = evidence(told=5000)
    chart = deficits_by_room({"copying": SimpleNamespace(curves=given.curves, runs=given.metrics)}, "By room")
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    assert ">64</text>" in drawn
    assert "the article's condition" in drawn.replace("&#39;", "'")
    assert "copying, rank 1: +0 % at 1.7 times" in chart.to_dict()["description"]
