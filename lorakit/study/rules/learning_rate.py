"""The rules of the claims on learning rates, fixed before their records were looked at: evidence in, finding out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lorakit.study.curves import arms, best_rate_by_validation, losses_at, optima
from lorakit.study.evidence import FAILS, HOLDS, OPEN, UNTESTED, Evidence, Finding, Outcome, combine
from lorakit.study.palette import arm_rank
from lorakit.study.regime import regime_of
from lorakit.study.statistics import Interval, Optimum, mean_interval, paired_difference, ratio_interval

TEN, ABOUT = 10.0, 1.5
HIGH_RANK, MIDDLE_RANK = 16, 4
SHIFT = 2.0
SHORT = 100

C3_RULE = (
    "Data: every dataset of the experiment where the regime gate says post-training, runs with alpha 32. An arm's "
    "best rate is the minimum of its U-curve of validation loss at the last step, seed by seed; ratios of best "
    "rates are geometric means over seeds with paired 95 % intervals. Three parts. (a) For every rank of "
    f"{HIGH_RANK} or more, LoRA's best rate over full fine-tuning's: the interval lies within a factor {ABOUT:g} "
    f"of {TEN:g}. (b) The best rate of the highest rank over that of the lowest rank of {MIDDLE_RANK} or more: the "
    f"interval lies below {SHIFT:g}. (c) The best rate of rank 1 over that of the highest rank: the interval lies "
    "below 1. Holds if all parts do on every such dataset. Does not hold if on one dataset the interval of a part "
    "lies wholly outside, at 95 % after Bonferroni's correction over all its intervals. Otherwise inconclusive, also "
    "where the ranks that a part needs were not trained. No dataset in post-training: not tested."
)
C14_RULE = (
    "Data: every dataset of the experiment where the regime gate says post-training, the highest rank with alpha "
    f"32. (a) The ratio of best rates, LoRA over full fine-tuning, at the last evaluated step up to {SHORT}, over "
    "the same ratio at the last step, seed by seed: the 95 % interval lies above 1. (b) At the last step, at the "
    "best trained rate, the spectral norm of B over that of A, each a mean over layers: the interval lies above "
    "1. Holds if both do on every such dataset, does not hold if an interval lies wholly below 1, otherwise "
    f"inconclusive; also if the runs are shorter than {2 * SHORT} steps, or a best rate at step {SHORT} is an end "
    "of its grid. No dataset in post-training: not tested."
)
A1_STEPS = 2
A1_RULE = (
    "Written after the pilot, which hinted at it, and before the records. Data: every dataset of the experiment, "
    "runs with alpha 32, full fine-tuning and the highest rank. Each arm at its best trained rate by mean "
    f"validation loss, and at the rate {A1_STEPS} places further up the same grid (a factor of about 3), final "
    "test loss, paired by seed: the rise in per cent of the arm's own improvement over the base. Holds if the 95 "
    "% interval of LoRA's rise minus full fine-tuning's lies above zero on every dataset, does not hold if one "
    "lies wholly below zero; otherwise inconclusive, also where a grid ends too early."
)


@dataclass(frozen=True)
class Part:
    """One condition: the ratio of two best rates lies between `low` and `high`."""

    label: str
    a: Optimum
    b: Optimum
    low: float
    high: float

    def ratio(self, confidence: float = 0.95) -> Interval:
        """a / b with its interval."""
        return ratio_interval(self.a, self.b, confidence)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Full fine-tuning, and LoRA of any rank with everything else at its default."""
    return frame[frame["arm"].str.fullmatch(r"full|rank \d+")]


def ratio_text(interval: Interval) -> str:
    """`3.2 (2.9 to 3.6)`.

    >>> ratio_text(Interval(3.2, 2.91, 3.6, 5))
    '3.2 (2.9 to 3.6)'
    """
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def _in_post_training(evidence: Evidence, judge: Callable[[pd.DataFrame, pd.DataFrame], Finding]) -> Finding:
    """`judge` on every dataset inside the gate, combined; the regimes of all in words."""
    findings, regimes = {}, []
    for dataset in evidence.datasets:
        curves, metrics = (plain(frame) for frame in evidence.of(dataset))
        gate = regime_of(curves, metrics, evidence.peak_learning_rate)
        regimes.append(f"{dataset.partition('@')[0]}: {gate}")
        if gate.name == "post-training":
            findings[dataset] = judge(curves, metrics)
        else:
            findings[dataset] = Finding(UNTESTED, f"{gate}.")
    return replace(combine(findings), regime="; ".join(regimes))


def ten_times(evidence: Evidence) -> Finding:
    """C3, by `C3_RULE`."""
    return _in_post_training(evidence, _ten_times)


def _ten_times(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    best = optima(curves)
    ranks = {arm_rank(arm) or 0: optimum for arm, optimum in best.items() if arm != "full"}
    high = [rank for rank in ranks if rank >= HIGH_RANK]
    middle = [rank for rank in ranks if rank >= MIDDLE_RANK]
    if "full" not in best or not high:
        return Finding(UNTESTED, f"Needs full fine-tuning and a rank of {HIGH_RANK} or more.")
    top = max(high)
    parts = [Part(f"rank {r} / full", ranks[r], best["full"], TEN / ABOUT, TEN * ABOUT) for r in sorted(high)]
    if min(middle) < top:
        parts.append(Part(f"rank {top} / rank {min(middle)}", ranks[top], ranks[min(middle)], 0, SHIFT))
    if 1 in ranks:
        parts.append(Part(f"rank 1 / rank {top}", ranks[1], ranks[top], 0, 1))
    strict = 1 - 0.05 / len(parts)
    spans = [part.ratio() for part in parts]
    inside = [p.low < span.low and span.high < p.high for p, span in zip(parts, spans, strict=True)]
    outside = [p.ratio(strict).low > p.high or p.ratio(strict).high < p.low for p in parts]
    words = "; ".join(f"{p.label} {ratio_text(span)}{', outside' if out else '' if ok else ', undecided'}"
                      for p, span, ok, out in zip(parts, spans, inside, outside, strict=True))
    whole = min(middle) < top and 1 in ranks
    outcome: Outcome = FAILS if any(outside) else HOLDS if all(inside) and whole else OPEN
    return Finding(outcome, f"Ratios of best rates: {words}.", f"best rate of rank {top} / full", spans[len(high) - 1])


def shorter_means_more(evidence: Evidence) -> Finding:
    """C14, by `C14_RULE`."""
    return _in_post_training(evidence, _shorter_means_more)


def _shorter_means_more(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    lora = [arm for arm in arms(curves) if arm != "full"]
    last = int(curves["step"].max())
    if not lora or last < 2 * SHORT:
        return Finding(OPEN, f"Needs LoRA runs of {2 * SHORT} steps or more.")
    top, early = lora[-1], int(curves.loc[curves["step"] <= SHORT, "step"].max())
    pair = curves[curves["arm"].isin(["full", top])]
    ratios = []
    for step in (early, last):
        best = optima(pair, step=step)
        ratios.append({seed: math.log(rate / best["full"].per_seed[seed]) for seed, rate in best[top].per_seed.items()})
    fall = _exp(paired_difference(ratios[0], ratios[1]))
    ends = norms_at_best(curves, top)
    growth = _exp(mean_interval(list(np.log(ends["norm_b"] / ends["norm_a"]))))
    reason = (f"The ratio of best rates, {top} over full, at step {early} is {ratio_text(fall)} times that at step "
              f"{last}. At the end B's norm is {ratio_text(growth)} times A's.")
    parts = (fall, growth)
    outcome: Outcome = FAILS if any(p.high < 1 for p in parts) else HOLDS if all(p.low > 1 for p in parts) else OPEN
    return Finding(outcome, reason, f"ratio at step {early} / ratio at step {last}", fall)


def norms_at_best(curves: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Rows of the last step at the arm's best trained rate, one a seed, with `norm_a` and `norm_b`."""
    one = curves[curves["arm"] == arm]
    best = float(best_rate_by_validation(one)["learning_rate"].iloc[0])
    return one[(one["learning_rate"] == best) & (one["step"] == one["step"].max())]


def more_sensitive(evidence: Evidence) -> Finding:
    """A1, by `A1_RULE`."""
    return combine({dataset: _more_sensitive(*(plain(frame) for frame in evidence.of(dataset)))
                    for dataset in evidence.datasets})


def _more_sensitive(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    names = arms(curves)
    if len(names) < 2 or names[0] != "full":
        return Finding(UNTESTED, "Needs full fine-tuning and LoRA.")
    base = float(metrics["base_test_loss"].mean())
    lora, full = (rise_above_best(curves, arm, base) for arm in (names[-1], "full"))
    if lora is None or full is None:
        return Finding(OPEN, f"A grid ends less than {A1_STEPS} places above its best rate.")
    span = paired_difference(lora, full)
    means = [mean_interval(list(rise.values())).mean for rise in (lora, full)]
    reason = (f"{A1_STEPS} places above its best rate {names[-1]} loses {means[0]:.1f} % of its improvement, full "
              f"fine-tuning {means[1]:.1f} %.")
    outcome: Outcome = HOLDS if span.low > 0 else FAILS if span.high < 0 else OPEN
    return Finding(outcome, reason, f"{names[-1]}'s loss minus full fine-tuning's, % of the improvement", span)


def rise_above_best(curves: pd.DataFrame, arm: str, base: float, places: int = A1_STEPS) -> dict[int, float] | None:
    """What training above the best rate costs, by seed, in per cent of the arm's improvement; None off the grid.

    Args:
        base: test loss of the untrained base; a run that diverged counts as no better than that.
        places: how far up the grid of trained rates.
    """
    ends = losses_at(curves[curves["arm"] == arm])
    validation = ends.pivot(index="seed", columns="learning_rate", values="validation_loss")
    test = ends.pivot(index="seed", columns="learning_rate", values="test_loss").clip(upper=base)
    best = int(validation.mean().to_numpy().argmin())
    if best + places >= len(test.columns):
        return None
    gain = base - float(test.iloc[:, best].mean())
    rise = 100 * (test.iloc[:, best + places] - test.iloc[:, best]) / gain
    return {int(seed): float(value) for seed, value in rise.items()}


def _exp(interval: Interval) -> Interval:
    return Interval(math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high), interval.n)
