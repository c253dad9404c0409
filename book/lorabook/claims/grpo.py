"""The rules of the claims on reinforcement learning: evidence in, finding out.

Accuracy is the share of held-out problems answered rightly, greedily; differences are in points (hundredths).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from lorabook.claims import rl_tasks, window
from lorabook.claims.claim import claim
from lorabook.claims.datasets import by_data
from lorabook.claims.decisions import (
    OPEN,
    POINTS,
    UNTESTED,
    Finding,
    Limit,
    Unit,
    combine,
    decide,
    paired,
    ratio_of,
)
from lorabook.claims.evidence import Evidence
from lorabook.claims.layers import BY_DATA, MADE_UP, pairs
from lorabook.claims.learning_rate import TEN, TENFOLD
from lorabook.claims.rank import ARTICLE, PER_CENT, by_rank, by_seed, plain
from lorabook.claims.rl_tasks import Task, accuracies, gain_over_base, good_rates
from lorakit.analysis.curves import arms, best_rate_by_validation, losses_at, optima
from lorakit.analysis.statistics import paired_difference

MARGIN = 2.0  # points of accuracy
BEHIND = 10.0  # points: far behind
SAME = 0.02  # rates of two grids that differ by less, through rounding, are one
EXPERIMENTS = ("grpo", "grpo-form")
OWN_RATE = ("Each arm at its own best learning rate by mean validation accuracy at the last step, read on test "
            "accuracy there, paired by seed.")
GAIN = "Inconclusive also where full fine-tuning's gain in accuracy over the base is not clearly above zero."

CHANGED = "2026-11-26"
FAIR = (
    "The source asks for room, and rank 1 was judged where its weights hold half of what the rewards told. Margins are "
    "in per cent of full fine-tuning's gain now, lucky seeds are counted as such, and few test problems cannot show "
    "equality.")
GAINED = Unit(" %", "% of full's gain in accuracy", signed=True)
SEEDS = Unit("", "share of seeds", signed=True, form=".2f")

EQUAL = Limit("test accuracy of a rank minus full fine-tuning's, in % of its gain over the base", (-PER_CENT, PER_CENT),
              GAINED, outside=(-PER_CENT, math.inf))
AS_MANY = Limit("share of seeds that get to the upper heap, a rank minus full fine-tuning",
                (-PER_CENT / 100, PER_CENT / 100), SEEDS, outside=(-PER_CENT / 100, math.inf))
WIDER = Limit("good rates of a rank more than full fine-tuning has", (0, math.inf), Unit("", "good rates", signed=True))
IN_RL = replace(TENFOLD, what="best rate of a rank over full fine-tuning's")
APART = Limit("test accuracy of attention alone minus the MLP alone, with equally many adapter weights", (-math.inf, 0),
              POINTS, outside=(-math.inf, -MARGIN))
ADDED = Limit("test accuracy of attention and MLP minus the MLP alone, at the same rank", (-math.inf, MARGIN), POINTS)
FAR_BEHIND = Limit("test accuracy of the highest rank at full fine-tuning's rate minus full fine-tuning's",
                   (-math.inf, -BEHIND), POINTS)
LESS = Limit("test accuracy of the highest rank minus full fine-tuning's", (-math.inf, -MARGIN), POINTS)
AS_WELL = Limit("test accuracy of rank 1 at ten times full fine-tuning's rate minus full fine-tuning's, in % of its "
                "gain over the base", (-PER_CENT, math.inf), GAINED)
AS_OFTEN = Limit("share of seeds that get to the upper heap, rank 1 at that rate minus full fine-tuning",
                 (-PER_CENT / 100, math.inf), SEEDS)
NARROW = Limit("test accuracy of rank 1 minus the highest rank's, in % of full fine-tuning's gain over the base",
               (-math.inf, -PER_CENT), GAINED)
LESS_OFTEN = Limit("share of seeds that get to the upper heap, rank 1 minus the highest rank",
                   (-math.inf, -PER_CENT / 100), SEEDS)

Judge = Callable[[pd.DataFrame, pd.DataFrame], Finding]


@claim("C8", source=ARTICLE, chapter="09-grpo", experiments=EXPERIMENTS, limits=[EQUAL, AS_MANY, WIDER],
       written="2026-11-22T05:49", changed=CHANGED, why=FAIR,
       scope="Policy gradients, the group's mean subtracted; Llama-3.1-8B on MATH and GSM8K, Qwen3-8B on DeepMath.")
def equal_in_a_wider_band(evidence: Evidence) -> Finding:
    """in reinforcement learning LoRA reaches full fine-tuning's accuracy down to rank 1, over a wider band of good
    learning rates

    Data: every RL task of the experiments, runs with alpha 32 on every linear layer. {OWN_RATE} Good rates: for each
    seed, those of the grid (equally dense in all arms) that end within {rl_tasks.BAND:.0%} of full fine-tuning's gain
    of the best arm's mean validation accuracy, one threshold for all arms. {rl_tasks.CONDITION} {GAIN}
    """
    return _on_each(evidence, _equal_in_a_wider_band)


def _equal_in_a_wider_band(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    task, counts = Task(curves, metrics), good_rates(curves, gain_over_base(curves, metrics))
    judged = [arm for arm, times in task.room.items() if times >= rl_tasks.ROOM]
    gaps = [task.compare((EQUAL, AS_MANY), f"{arm} − full", task.reached[arm], task.reached["full"]) for arm in judged]
    bands = [WIDER.measured(f"{arm} − full", paired(counts[arm], counts["full"])) for arm in judged]
    return task.decide([*gaps, *bands], judged)


@claim("C3-RL", source=ARTICLE, chapter="09-grpo", experiments=EXPERIMENTS, limits=[IN_RL],
       written="2026-11-22T05:49", changed=window.CHANGED, why=window.WHY,
       scope="The same runs as C8.")
def ten_times_in_rl(evidence: Evidence) -> Finding:
    """in reinforcement learning, as in supervised training, LoRA's best learning rate is about ten times full
    fine-tuning's

    Data: every RL task of the experiments; the loss is the validation error at the last step. {window.WORDS}
    """
    return _on_each(evidence, _ten_times_in_rl, gain=False)


def _ten_times_in_rl(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    best = optima(curves)
    return decide([IN_RL.measured(f"best rate of {arm} / full", ratio_of(best[arm], best["full"]))
                   for arm in best if arm != "full"])


@claim("C6-RL", source=ARTICLE, chapter="09-grpo", experiments=("grpo-layers",), limits=[APART, ADDED],
       written="2026-11-22T05:49", changed=CHANGED, why=BY_DATA,
       scope="Llama-3.1-8B on MATH.")
def mlp_carries_it_in_rl(evidence: Evidence) -> Finding:
    """in reinforcement learning, too, attention alone does worse than the MLP alone with equally many weights, and
    adding attention to the MLP gains nothing

    Data: every RL task of the experiments. {OWN_RATE} Each task has a verdict; where a limit holds on one and is
    refuted on another, the claim depends on the data; otherwise tasks of natural text decide, where there are any.
    """
    return by_data({name: _layers(*evidence.of(name)) for name in evidence.datasets}, MADE_UP)


def _layers(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    found = list(pairs(metrics))
    if {question for question, *_ in found} != {"apart", "added"}:
        return Finding(UNTESTED, "Attention and MLP were not run with equally many weights, apart and together.")
    reached = accuracies(curves)
    apart = [APART.measured(f"{a} − {b}", paired(reached[a], reached[b], 100)) for q, a, b in found if q == "apart"]
    added = [ADDED.measured(f"{b} − {a}", paired(reached[b], reached[a], 100)) for q, a, b in found if q == "added"]
    return decide([*apart, *added])


@claim("O1", source="osmosis2025limits", chapter="10-disagreement", experiments=EXPERIMENTS, limits=[FAR_BEHIND],
       written="2026-11-22T05:49",
       scope="Qwen3-4B on DAPO-Math-17k, rewards for form and answer, settings kept largely similar.")
def behind_at_the_same_rate(evidence: Evidence) -> Finding:
    """trained by GRPO with the learning rate of full fine-tuning, LoRA stays far behind it

    Data: every RL task of the experiments. The highest rank at full fine-tuning's best learning rate (best by mean
    validation accuracy at the last step) and full fine-tuning at the same rate, equal steps and rewards, paired by
    seed. {GAIN}
    """
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        found = at_a_multiple(curves, arms(curves)[-1], 1)
        if found is None:
            return Finding(UNTESTED, "LoRA was not run at that rate.")
        label, lora, full = found
        return decide([FAR_BEHIND.measured(label, paired(lora, full, 100))])

    return _on_each(evidence, judge)


def at_a_multiple(curves: pd.DataFrame, arm: str,
                  times: float) -> tuple[str, dict[int, float], dict[int, float]] | None:
    """An arm at `times` full fine-tuning's best rate and full fine-tuning at that rate; None if it was not run.

    Returns:
        a label, and the test accuracies of both by seed.
    """
    full = best_rate_by_validation(curves[curves["arm"] == "full"])
    rate = times * float(full["learning_rate"].iloc[0])
    rows = losses_at(curves[curves["arm"] == arm])
    nearest = min(rows["learning_rate"].unique(), key=lambda other: abs(math.log(other / rate)))
    if abs(nearest / rate - 1) > SAME:
        return None
    return (f"{arm} at {nearest:.2g} − full at {rate / times:.2g}",
            by_seed(rows[rows["learning_rate"] == nearest], arm, "test_accuracy"),
            by_seed(full, "full", "test_accuracy"))


@claim("T1", source="trl2025lora", chapter="09-grpo", experiments=EXPERIMENTS, limits=[AS_WELL, AS_OFTEN],
       written="2026-11-22T05:54", changed=CHANGED, why=FAIR,
       scope="SmolLM3-3B, 500 steps on mathematics, training reward of one run.")
def ten_times_at_rank_one(evidence: Evidence) -> Finding:
    """GRPO with LoRA of rank 1, at ten times full fine-tuning's learning rate, does as well as full fine-tuning

    Data: every RL task of the experiments. Rank 1 at ten times full fine-tuning's best learning rate (best by mean
    validation accuracy at the last step) and full fine-tuning at that best rate, equal steps and rewards, paired by
    seed. {rl_tasks.CONDITION} {GAIN}
    """
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        one = by_rank(curves).get(1)
        found = at_a_multiple(curves, one, TEN) if one else None
        if found is None:
            return Finding(UNTESTED, "LoRA was not run at that rate.")
        task = Task(curves, metrics)
        label, lora, full = found
        return task.decide([task.compare((AS_WELL, AS_OFTEN), label, lora, full)],
                           [one] if one and task.room[one] >= rl_tasks.ROOM else [])

    return _on_each(evidence, judge)


@claim("O2", source="osmosis2025limits", chapter="10-disagreement", experiments=EXPERIMENTS, limits=[LESS],
       written="2026-11-22T05:49",
       scope="The source's conclusion from one comparison; judged here with a learning rate chosen for each method.")
def behind_at_its_own_rate(evidence: Evidence) -> Finding:
    """LoRA as such is less effective than full fine-tuning in reinforcement learning

    Data: every RL task of the experiments. {OWN_RATE} {GAIN}
    """
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        reached, top = accuracies(curves), arms(curves)[-1]
        return decide([LESS.measured(f"{top} − full", paired(reached[top], reached["full"], 100))])

    return _on_each(evidence, judge)


@claim("P1", source="yin2025perl", chapter="10-disagreement", experiments=EXPERIMENTS, limits=[NARROW, LESS_OFTEN],
       written="2026-11-22T05:49", changed=CHANGED, why=FAIR,
       scope="PeRL: R1-Distill-Qwen 1.5B and 7B at one rate with alpha = 2 r; verl's manual asks for rank 32.")
def rank_one_is_a_bottleneck(evidence: Evidence) -> Finding:
    """a very small rank is a bottleneck in reinforcement learning

    Data: every RL task of the experiments, alpha 32. {OWN_RATE} Where rank 1 has less room than that, it is a
    bottleneck by the other source's own account, so that the two do not disagree. {rl_tasks.CONDITION} {GAIN}
    """
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        lora = by_rank(curves)
        if 1 not in lora or len(lora) < 2:
            return Finding(UNTESTED, "Needs RL runs of rank 1 and of a higher rank.")
        task, one, top = Task(curves, metrics), lora[1], lora[max(lora)]
        return task.decide([task.compare((NARROW, LESS_OFTEN), f"{one} − {top}", task.reached[one], task.reached[top])],
                           [one] if task.room[one] >= rl_tasks.ROOM else [])

    return _on_each(evidence, judge)


def _on_each(evidence: Evidence, judge: Judge, gain: bool = True) -> Finding:
    """`judge` on plain adapters and full fine-tuning of every task; with `gain`, where the latter clearly gains."""
    findings = {}
    for task in evidence.datasets:
        curves, metrics = (plain(frame) for frame in evidence.of(task))
        if not {"full"} < set(curves["arm"]) or "base_test_accuracy" not in metrics:
            findings[task] = Finding(UNTESTED, "Needs RL runs of LoRA and of full fine-tuning.")
            continue
        full = accuracies(curves[curves["arm"] == "full"])["full"]
        base = dict.fromkeys(full, float(metrics["base_test_accuracy"].mean()))
        if gain and paired_difference(full, base).low <= 0:
            findings[task] = Finding(OPEN, "Full fine-tuning did not clearly improve on the base.")
            continue
        findings[task] = judge(curves, metrics)
    return combine(findings)
