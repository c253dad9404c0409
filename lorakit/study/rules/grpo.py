"""The rules of the claims on reinforcement learning, each fixed before its records: evidence in, finding out.

Accuracy is the share of held-out problems answered rightly, greedily; differences are in points (hundredths).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from lorakit.study.curves import arms, best_rate_by_validation, losses_at, optima
from lorakit.study.evidence import FAILS, HOLDS, OPEN, UNTESTED, Evidence, Finding, Outcome, combine
from lorakit.study.rules.layers import pairs
from lorakit.study.rules.learning_rate import ABOUT, TEN, Part, plain, ratio_text
from lorakit.study.statistics import Interval, Size, mean_interval, paired_difference

MARGIN = 2.0  # points of accuracy
BAND = 5.0  # points below an arm's best within which a rate is good
BEHIND = 10.0  # points: far behind
SAME = 0.02  # rates of two grids that differ by less, through rounding, are one

_OWN_RATE = (
    "Each arm at its own best learning rate by mean validation accuracy at the last step, read on test accuracy "
    "there, paired by seed."
)
_GAIN = "Inconclusive also where full fine-tuning's gain in accuracy over the base is not clearly above zero."
C8_RULE = (
    f"Data: every RL task of the experiments, runs with alpha 32 on every linear layer. {_OWN_RATE} (a) Test "
    f"accuracy of every rank minus full fine-tuning's; margin: {MARGIN:g} points. (b) The band of good rates: for "
    f"each seed, how many rates of the grid (equally dense in all arms) end within {BAND:g} points of the arm's best "
    "mean validation accuracy; every rank minus full fine-tuning. Holds if every 95 % interval of (a) lies within "
    "the margin and every one of (b) above zero. Does not hold if, at 95 % after Bonferroni's correction over all "
    "these intervals, one of (a) lies wholly beyond the margin on LoRA's bad side, or one of (b) below zero. "
    f"Otherwise inconclusive. {_GAIN}"
)
C3_RL_RULE = (
    "Data: every RL task of the experiments. An arm's best rate is the minimum of its U-curve of validation error "
    "at the last step, seed by seed. For every rank, its best rate over full fine-tuning's: geometric mean over "
    f"seeds with its paired 95 % interval. Holds if every interval lies within a factor {ABOUT:g} of {TEN:g}; does "
    "not hold if one lies wholly outside, at 95 % after Bonferroni's correction; otherwise inconclusive."
)
C6_RL_RULE = (
    f"Data: every RL task of the experiments. {_OWN_RATE} (a) Attention alone minus the MLP alone, with equally many "
    f"adapter weights; (b) attention and MLP minus the MLP alone, at the same rank. Margin: {MARGIN:g} points. Holds "
    "if every 95 % interval of (a) lies below zero and every one of (b) below the margin. Does not hold if, at 95 % "
    "after Bonferroni's correction, one of (a) lies above minus the margin while its 95 % interval reaches zero "
    "(attention is as good, or better), or one of (b) lies above the margin. Otherwise inconclusive."
)
O1_RULE = (
    "Data: every RL task of the experiments. The highest rank at full fine-tuning's best learning rate (best by "
    "mean validation accuracy at the last step) and full fine-tuning at the same rate, equal steps and rewards: "
    f"test accuracy of LoRA minus full, paired by seed. Holds if every 95 % interval lies below −{BEHIND:g} points; "
    f"does not hold if one lies wholly above it; otherwise inconclusive. {_GAIN}"
)
O2_RULE = (
    f"Data: every RL task of the experiments. {_OWN_RATE} The highest rank minus full fine-tuning. Holds if every 95 "
    f"% interval lies below −{MARGIN:g} points; does not hold if one lies wholly above it; otherwise inconclusive. "
    f"{_GAIN}"
)
T1_RULE = (
    "Data: every RL task of the experiments. Rank 1 at ten times full fine-tuning's best learning rate (best by mean "
    "validation accuracy at the last step) and full fine-tuning at that best rate, equal steps and rewards: test "
    f"accuracy of LoRA minus full, paired by seed; margin: {MARGIN:g} points. Holds if every 95 % interval lies above "
    f"−{MARGIN:g} points; does not hold if one lies wholly below it; otherwise inconclusive. {_GAIN}"
)
P1_RULE = (
    f"Data: every RL task of the experiments, alpha 32. {_OWN_RATE} Rank 1 minus the highest rank. Holds if every 95 "
    f"% interval lies below −{MARGIN:g} points; does not hold if one lies wholly above it; otherwise inconclusive."
)


@dataclass(frozen=True)
class Difference:
    """Two arms' test accuracies by seed: `a` minus `b`, in points."""

    label: str
    a: dict[int, float]
    b: dict[int, float]

    def interval(self, confidence: float = 0.95) -> Interval:
        """Of a − b, in points."""
        return paired_difference(self.a, self.b, confidence).scaled(100)

    def __str__(self) -> str:
        return f"{self.label} {points_text(self.interval())}"


def points_text(interval: Interval) -> str:
    """`+1.2 points (−0.3 to +2.8)`.

    >>> points_text(Interval(1.2, -0.31, 2.8, 5))
    '+1.2 points (−0.3 to +2.8)'
    """
    mean, low, high = (f"{value:+.1f}".replace("-", "−") for value in (interval.mean, interval.low, interval.high))
    return f"{mean} points ({low} to {high})"


def accuracies(curves: pd.DataFrame, size: Size = "record") -> dict[str, dict[int, float]]:
    """Test accuracy at the last step of every arm at its best rate, by arm and seed.

    Args:
        curves: of `tidy`, RL runs of one task.

    Raises:
        GridEdgeError: at the record size, a best rate at the edge of its grid.
    """
    best = best_rate_by_validation(curves, size)
    return {arm: dict(zip(rows["seed"], 1 - rows["test_loss"], strict=True)) for arm, rows in best.groupby("arm")}


def good_rates(curves: pd.DataFrame) -> dict[str, dict[int, int]]:
    """How many rates of each arm end within `BAND` points of the arm's best mean validation accuracy, by seed."""
    rows = losses_at(curves)
    counts: dict[str, dict[int, int]] = {}
    for arm, runs in rows.groupby("arm"):
        table = runs.pivot(index="seed", columns="learning_rate", values="validation_loss")
        limit = float(table.mean().min()) + BAND / 100
        counts[str(arm)] = {int(seed): int(n) for seed, n in (table <= limit).sum(axis=1).items()}
    return counts


def equal_in_a_wider_band(evidence: Evidence) -> Finding:
    """C8, by `C8_RULE`."""
    return _on_each(evidence, _equal_in_a_wider_band)


def _equal_in_a_wider_band(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    reached, counts = accuracies(curves), good_rates(curves)
    lora = [arm for arm in arms(curves) if arm != "full"]
    gaps = [Difference(arm, reached[arm], reached["full"]) for arm in lora]
    wider = {arm: {seed: float(n - counts["full"][seed]) for seed, n in counts[arm].items()} for arm in lora}
    strict = 1 - 0.05 / (2 * len(lora))
    bands = [mean_interval(list(difference.values())) for difference in wider.values()]
    narrow = [mean_interval(list(difference.values()), strict).high < 0 for difference in wider.values()]
    behind = [gap.interval(strict).high < -MARGIN for gap in gaps]
    equal = all(gap.interval().low > -MARGIN and gap.interval().high < MARGIN for gap in gaps)
    outcome: Outcome = FAILS if any(behind) or any(narrow) else OPEN
    if equal and all(band.low > 0 for band in bands):
        outcome = HOLDS
    numbers = "; ".join(f"{arm} {band.mean:+.1f} ({band.low:+.1f} to {band.high:+.1f})".replace("-", "−")
                        for arm, band in zip(lora, bands, strict=True))
    reason = (f"Test accuracy minus full fine-tuning's: {'; '.join(map(str, gaps))}. Good rates more than full "
              f"fine-tuning has: {numbers}.")
    worst = max(gaps, key=lambda gap: abs(gap.interval().mean))
    return Finding(outcome, reason, f"{worst.label} − full, points of accuracy", worst.interval())


def ten_times_in_rl(evidence: Evidence) -> Finding:
    """C3-RL, by `C3_RL_RULE`."""
    return _on_each(evidence, _ten_times, gain=False)


def _ten_times(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    best = optima(curves)
    parts = [Part(f"{arm} / full", best[arm], best["full"], TEN / ABOUT, TEN * ABOUT)
             for arm in arms(curves) if arm != "full"]
    strict = 1 - 0.05 / len(parts)
    inside = all(part.low < part.ratio().low and part.ratio().high < part.high for part in parts)
    outside = any(part.ratio(strict).low > part.high or part.ratio(strict).high < part.low for part in parts)
    outcome: Outcome = FAILS if outside else HOLDS if inside else OPEN
    words = "; ".join(f"{part.label} {ratio_text(part.ratio())}" for part in parts)
    return Finding(outcome, f"Ratios of best rates: {words}.", f"best rate of {parts[-1].label}", parts[-1].ratio())


def mlp_carries_it_in_rl(evidence: Evidence) -> Finding:
    """C6-RL, by `C6_RL_RULE`."""
    return combine({name: _layers(*evidence.of(name)) for name in evidence.datasets})


def _layers(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    found = list(pairs(metrics))
    if {question for question, *_ in found} != {"apart", "added"}:
        return Finding(UNTESTED, "Attention and MLP were not run with equally many weights, apart and together.")
    reached = accuracies(curves)
    apart = [Difference(f"{a} − {b}", reached[a], reached[b]) for question, a, b in found if question == "apart"]
    added = [Difference(f"{b} − {a}", reached[b], reached[a]) for question, a, b in found if question == "added"]
    strict = 1 - 0.05 / len(found)
    fails = (any(d.interval(strict).low > -MARGIN and d.interval().high >= 0 for d in apart)
             or any(d.interval(strict).low > MARGIN for d in added))
    holds = all(d.interval().high < 0 for d in apart) and all(d.interval().high < MARGIN for d in added)
    outcome: Outcome = FAILS if fails else HOLDS if holds else OPEN
    return Finding(outcome, f"Test accuracy: {'; '.join(map(str, apart + added))}.",
                   f"{apart[0].label}, points of accuracy", apart[0].interval())


def behind_at_the_same_rate(evidence: Evidence) -> Finding:
    """O1, by `O1_RULE`."""
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        gap = at_a_multiple(curves, arms(curves)[-1], 1)
        return _is_behind(gap, BEHIND) if gap else Finding(UNTESTED, "LoRA was not run at that rate.")

    return _on_each(evidence, judge)


def at_a_multiple(curves: pd.DataFrame, arm: str, times: float) -> Difference | None:
    """An arm at `times` full fine-tuning's best rate minus full fine-tuning at that rate; None if it was not run."""
    full = best_rate_by_validation(curves[curves["arm"] == "full"])
    rate = times * float(full["learning_rate"].iloc[0])
    rows = losses_at(curves[curves["arm"] == arm])
    nearest = min(rows["learning_rate"].unique(), key=lambda other: abs(math.log(other / rate)))
    if abs(nearest / rate - 1) > SAME:
        return None
    copied = rows[rows["learning_rate"] == nearest]
    return Difference(f"{arm} at {nearest:.2g} − full at {rate / times:.2g}",
                      dict(zip(copied["seed"], 1 - copied["test_loss"], strict=True)),
                      dict(zip(full["seed"], 1 - full["test_loss"], strict=True)))


def ten_times_at_rank_one(evidence: Evidence) -> Finding:
    """T1, by `T1_RULE`."""
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        gap = at_a_multiple(curves, "rank 1", TEN) if "rank 1" in set(curves["arm"]) else None
        if gap is None:
            return Finding(UNTESTED, "Rank 1 was not run at that rate.")
        span = gap.interval()
        outcome: Outcome = HOLDS if span.low > -MARGIN else FAILS if span.high < -MARGIN else OPEN
        return Finding(outcome, f"Test accuracy: {gap}.", f"{gap.label}, points of accuracy", span)

    return _on_each(evidence, judge)


def behind_at_its_own_rate(evidence: Evidence) -> Finding:
    """O2, by `O2_RULE`."""
    def judge(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
        reached, top = accuracies(curves), arms(curves)[-1]
        return _is_behind(Difference(f"{top} − full", reached[top], reached["full"]), MARGIN)

    return _on_each(evidence, judge)


def rank_one_is_a_bottleneck(evidence: Evidence) -> Finding:
    """P1, by `P1_RULE`."""
    def judge(curves: pd.DataFrame) -> Finding:
        lora = [arm for arm in arms(curves) if arm != "full"]
        if "rank 1" not in lora[:-1] or "test_accuracy" not in curves:
            return Finding(UNTESTED, "Needs RL runs of rank 1 and of a higher rank.")
        reached = accuracies(curves)
        return _is_behind(Difference(f"rank 1 − {lora[-1]}", reached["rank 1"], reached[lora[-1]]), MARGIN)

    return combine({task: judge(plain(evidence.of(task)[0])) for task in evidence.datasets})


def _is_behind(gap: Difference, margin: float) -> Finding:
    span = gap.interval()
    outcome: Outcome = HOLDS if span.high < -margin else FAILS if span.low > -margin else OPEN
    return Finding(outcome, f"Test accuracy: {gap}.", f"{gap.label}, points of accuracy", span)


def _on_each(evidence: Evidence, judge: Callable[[pd.DataFrame, pd.DataFrame], Finding], gain: bool = True) -> Finding:
    """`judge` on plain adapters and full fine-tuning of every task; with `gain`, where the latter clearly gains."""
    findings = {}
    for task in evidence.datasets:
        curves, metrics = (plain(frame) for frame in evidence.of(task))
        if not {"full"} < set(curves["arm"]) or "base_test_accuracy" not in metrics:
            findings[task] = Finding(UNTESTED, "Needs RL runs of LoRA and of full fine-tuning.")
            continue
        full = accuracies(curves[curves["arm"] == "full"])["full"]
        if gain and paired_difference(full, _base(full, metrics)).low <= 0:
            findings[task] = Finding(OPEN, "Full fine-tuning did not clearly improve on the base.")
            continue
        findings[task] = judge(curves, metrics)
    return combine(findings)


def _base(seeds: Sequence[int] | dict[int, float], metrics: pd.DataFrame) -> dict[int, float]:
    return dict.fromkeys(seeds, float(metrics["base_test_accuracy"].mean()))
