"""The rules of the claims, each fixed before its records were looked at: evidence in, finding out."""

from __future__ import annotations

import pandas as pd

from lorakit.study.curves import (
    COMMON,
    arms,
    best_rate_by_validation,
    common_curve,
    departure_by_seed,
    departure_step,
    losses_at,
    pointwise_minimum,
)
from lorakit.study.evidence import (
    FAILS,
    HOLDS,
    OPEN,
    UNTESTED,
    Comparison,
    Evidence,
    Finding,
    all_equal,
    combine,
    percent_text,
)
from lorakit.study.regime import regime_of
from lorakit.study.statistics import Interval, mean_interval, paired_difference

MARGIN = 0.05  # of full fine-tuning's improvement over the base
HIGH_RANK = 16
EARLY_STEPS = 10
FLOOR = 0.01  # of the improvement: gaining less than this over the last doubling of steps is standing still
BEYOND_CAPACITY = "random-associations"
CONTROL = "new-skills"

C1_RULE = (
    f"Data: every dataset of the experiments but {BEYOND_CAPACITY} (made to exceed capacity) and {CONTROL} (a labelled "
    "control), where the regime gate says post-training. Each arm at its own best learning rate, chosen by mean "
    "validation loss, read on test data at the last step, paired by seed. Margin: "
    f"{MARGIN:.0%} of full fine-tuning's mean improvement over the base, taken as fixed. Holds if for every LoRA rank "
    f"of {HIGH_RANK} or more the 95 % interval of (LoRA − full) lies within ± the margin. Does not hold if one lies "
    "wholly beyond it, on either side, at 95 % after Bonferroni's correction. Otherwise inconclusive, also if full "
    "fine-tuning's own improvement is not clearly above zero. Outside post-training: not tested."
)
C2_RULE = (
    f"Data: {BEYOND_CAPACITY}. The common curve is the arm with the least mean validation loss at each step, each arm "
    "at its best learning rate for that step, read on test data. An arm leaves it at the first evaluated step from "
    "which on the whole 95 % interval over seeds of (arm − common) lies above "
    f"{MARGIN:.0%} of the common curve's final improvement over the base. Holds if all three do: (a) the lowest rank "
    "leaves, and the highest later or never; (b) Spearman's correlation of rank with the step of leaving, computed per "
    "seed, an arm that never leaves counting as latest, has a 95 % interval above zero; (c) no arm that leaves stands "
    "still: over the last doubling of steps the 95 % interval of its change of test loss lies below zero. Does not "
    "hold if (b)'s interval lies at or below zero, if the highest rank leaves no later than the lowest, or if an arm "
    f"stands still: the interval of its gain lies below {FLOOR:.0%} of the common curve's improvement. Otherwise "
    "inconclusive; also if no rank leaves, since then no capacity was exceeded, or with fewer than three ranks."
)
C4_RULE = (
    "Data: every dataset of the experiments. One learning rate for all ranks: the best one of the highest rank by mean "
    f"validation loss at the last step. At every evaluated step from 1 to {EARLY_STEPS}, each rank's test loss against "
    "that of the highest rank, paired by seed. Margin: "
    f"{MARGIN:.0%} of the improvement over the base that the highest rank has made by the last of these steps: not of "
    "the whole run's, which would make early equality easy. Holds if every 95 % interval lies within ± the margin; "
    "does not hold if one lies wholly beyond it at 95 % after Bonferroni's correction; otherwise inconclusive, also "
    "with fewer than two such steps, or if that improvement is not clearly above zero."
)


def equal_to_full(evidence: Evidence) -> Finding:
    """C1, by `C1_RULE`."""
    comparisons, regimes, outside = [], [], []
    for dataset in evidence.datasets:
        name = dataset.partition("@")[0]
        if name.startswith((BEYOND_CAPACITY, CONTROL)):
            continue
        curves, metrics = evidence.of(dataset)
        gate = regime_of(curves, metrics, evidence.peak_learning_rate)
        regimes.append(f"{name}: {gate}")
        if gate.name != "post-training":
            outside.append(f"{name} is {gate}.")
            continue
        best = best_rate_by_validation(curves)
        full = _by_seed(best, "full")
        gain = _gain(full, _base_loss(metrics))
        if gain.low <= 0:
            why = (f"On {name} full fine-tuning's improvement over the base, {gain.mean:.3g} nats a token, is not "
                   "clearly above zero, so there is nothing to be equal to.")
            return Finding(OPEN, why, regime="; ".join(regimes))
        comparisons += [
            Comparison(f"{name}, {arm}", _by_seed(best, arm), full, MARGIN * gain.mean, gain.mean)
            for arm in arms(best) if _rank(best, arm) >= HIGH_RANK
        ]
    described = "; ".join(regimes) or None
    if not comparisons:
        why = " ".join(outside) or f"No dataset of this claim was run with a rank of {HIGH_RANK} or more."
        return Finding(UNTESTED, why, regime=described)
    outcome, worst, words = all_equal(comparisons)
    interval = worst.percent()
    side = ""
    if outcome == FAILS:
        side = f" The clearest difference is in {'full fine-tuning' if interval.mean > 0 else 'LoRA'}'s favour."
    reason = (f"Test loss above full fine-tuning's, in % of its improvement over the base (margin ±{MARGIN:.0%}): "
              f"{words}.{side} {' '.join(outside)}").strip()
    return Finding(outcome, reason, f"{worst.label} − full, % of full's improvement", interval, described)


def rank_sets_departure(evidence: Evidence) -> Finding:
    """C2, by `C2_RULE`."""
    datasets = [d for d in evidence.datasets if d.startswith(BEYOND_CAPACITY)]
    return combine({dataset: _departures(*evidence.of(dataset)) for dataset in datasets})


def _departures(frame: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    lora = [arm for arm in arms(frame) if arm != "full"]
    ranks = [_rank(frame, arm) for arm in lora]
    if len(lora) < 3:
        return Finding(OPEN, f"A trend over ranks needs three or more, the records have {len(lora)}.")
    best_rate_by_validation(frame)  # raises where a final best rate is at its grid's edge
    curves = pointwise_minimum(frame)
    last = int(curves["step"].max())
    common = common_curve(curves)
    gain = _gain(_by_seed(common[common["step"] == last], COMMON), _base_loss(metrics))
    if gain.low <= 0:
        return Finding(OPEN, "No arm clearly improved on the base.")
    margin = MARGIN * gain.mean
    steps = {arm: departure_step(curves, arm, margin=margin) for arm in lora}
    words = ", ".join(f"{arm} {'never' if step is None else f'at step {step}'}" for arm, step in steps.items())
    reason = f"Leaving the common curve ({last} steps in all): {words}."
    gone = [arm for arm in lora if steps[arm] is not None]
    if not gone:
        return Finding(OPEN, f"{reason} No rank ran out of capacity, so nothing was tested.")
    by_seed = [departure_by_seed(curves, arm, margin=margin) for arm in lora]
    never = last + 1
    trend = mean_interval([
        _spearman(ranks, [step if (step := one[seed]) is not None else never for one in by_seed]) for seed in by_seed[0]
    ])
    effect = "Spearman's correlation of rank with the step of leaving"
    reason += f" Correlation of that step with rank {trend.mean:.2f} ({trend.low:.2f} to {trend.high:.2f})."
    latest = {arm: never if step is None else step for arm, step in steps.items()}
    tails = {arm: _tail(curves, arm) for arm in gone}
    still = [arm for arm, change in tails.items() if change.low > -FLOOR * gain.mean]
    falling = all(change.high < 0 for change in tails.values())
    if still:
        return Finding(FAILS, f"{reason} Standing still at the end, as at a floor: {', '.join(still)}.", effect, trend)
    if trend.high <= 0 or (steps[lora[0]] is not None and latest[lora[-1]] <= latest[lora[0]]):
        return Finding(FAILS, f"{reason} A higher rank does not leave later.", effect, trend)
    if trend.low > 0 and steps[lora[0]] is not None and falling:
        return Finding(HOLDS, f"{reason} Every rank that left still improves at the end: no floor.", effect, trend)
    return Finding(OPEN, f"{reason} The seeds do not settle it.", effect, trend)


def same_first_steps(evidence: Evidence) -> Finding:
    """C4, by `C4_RULE`."""
    return combine({dataset: _first_steps(*evidence.of(dataset)) for dataset in evidence.datasets})


def _first_steps(frame: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    lora = frame[frame["method"] == "lora"]
    names = arms(lora)
    if len(names) < 2:
        return Finding(UNTESTED, "Fewer than two ranks were run.")
    steps = sorted(int(step) for step in lora["step"].unique() if 1 <= step <= EARLY_STEPS)
    if len(steps) < 2:
        return Finding(OPEN, f"Fewer than two evaluations up to step {EARLY_STEPS}.")
    top = names[-1]
    best = best_rate_by_validation(lora[lora["arm"] == top])
    rate = float(best["learning_rate"].iloc[0])
    lora = lora[lora["learning_rate"] == rate]
    absent = sorted(set(names) - set(lora["arm"]))
    if absent:
        return Finding(OPEN, f"Not run at learning rate {rate:g}: {', '.join(absent)}.")
    at = {step: losses_at(lora, step) for step in steps}
    gain = _gain(_by_seed(at[steps[-1]], top), _base_loss(metrics))
    if gain.low <= 0:
        return Finding(OPEN, f"By step {steps[-1]} {top} has not clearly improved on the base.")
    margin = MARGIN * gain.mean
    comparisons = [
        Comparison(f"{arm} at step {step}", _by_seed(at[step], arm), _by_seed(at[step], top), margin, gain.mean)
        for arm in names[:-1] for step in steps
    ]
    outcome, worst, _ = all_equal(comparisons)
    interval = worst.percent()
    reason = (f"At learning rate {rate:g}, steps {steps[0]} to {steps[-1]}, {len(names)} ranks: of {len(comparisons)} "
              f"differences from {top} the one furthest out is {worst.label}, {percent_text(interval)} of the "
              f"improvement that {top} has made by step {steps[-1]} (margin ±{MARGIN:.0%}).")
    return Finding(outcome, reason, f"{worst.label} − {top}, % of the improvement so far", interval)


def _by_seed(rows: pd.DataFrame, arm: str) -> dict[int, float]:
    one = rows[rows["arm"] == arm]
    return dict(zip(one["seed"].astype(int), one["test_loss"].astype(float), strict=True))


def _rank(rows: pd.DataFrame, arm: str) -> float:
    return float(rows.loc[rows["arm"] == arm, "rank"].iloc[0])


def _base_loss(metrics: pd.DataFrame) -> float:
    return float(metrics["base_test_loss"].mean())


def _gain(losses: dict[int, float], base: float) -> Interval:
    return paired_difference(dict.fromkeys(losses, base), losses)


def _tail(curves: pd.DataFrame, arm: str) -> Interval:
    """Change of an arm's test loss from the last evaluation in the first half of the steps to the end."""
    rows = curves[curves["arm"] == arm]
    last = rows["step"].max()
    half = rows.loc[rows["step"] <= last / 2, "step"].max()
    return paired_difference(_by_seed(rows[rows["step"] == last], arm), _by_seed(rows[rows["step"] == half], arm))


def _spearman(ranks: list[float], steps: list[int]) -> float:
    """Correlation of the two orders, ties averaged; 0 where every step is the same, which shows no trend."""
    if len(set(steps)) < 2:
        return 0.0
    return float(pd.Series(ranks).rank().corr(pd.Series(steps).rank()))

