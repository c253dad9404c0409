"""The rules of the claims on rank: evidence in, finding out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pandas as pd

from lorabook.claims import regime
from lorabook.claims.claim import claim
from lorabook.claims.decisions import (
    FAILS,
    OPEN,
    PERCENT,
    RATIO,
    UNTESTED,
    At,
    Finding,
    Limit,
    combine,
    decide,
    exactly,
    over_seeds,
    paired,
)
from lorabook.claims.evidence import Evidence
from lorabook.claims.regime import regime_of
from lorakit.analysis.curves import (
    COMMON,
    arms,
    best_rate_by_validation,
    common_curve,
    departure_by_seed,
    departure_step,
    losses_at,
    pointwise_minimum,
)
from lorakit.analysis.statistics import Interval, paired_difference

MARGIN = 0.05  # of full fine-tuning's improvement over the base
PER_CENT = 100 * MARGIN
HIGH_RANK = 16
EARLY_STEPS = 10
DISTINCT = 3  # steps of leaving, fewer are no trend
DENSE = 1.5  # factor between neighbouring evaluations where ranks part, at most
UNFINISHED = 0.05  # of the base's loss: what the best arm must still have left to learn at the end
FLOOR = 0.01  # of the improvement: gaining less than this over the last doubling of steps is standing still
BEYOND_CAPACITY = "random-associations"
CONTROL = "new-skills"

ARTICLE = "schulman2025lora"

EQUAL = Limit("test loss minus full fine-tuning's, in % of its improvement over the base", (-PER_CENT, PER_CENT),
              PERCENT)
TREND = Limit("Spearman's correlation of rank with the step of leaving", (0, math.inf),
              replace(RATIO, form=".2f", signed=True))
LATER = Limit("steps by which the highest rank leaves later than the lowest", (0, math.inf), replace(RATIO, form=".0f"),
              outside=(1, math.inf))
STEPS_OF_LEAVING = Limit("distinct steps at which ranks leave", (DISTINCT - 1, math.inf), replace(RATIO, form=".0f"))
MOVING = Limit("change of test loss over the last doubling of steps of an arm that left, in % of the improvement",
               (-math.inf, 0), PERCENT, outside=(-math.inf, -100 * FLOOR), fails_first=True)
SAME_START = Limit("test loss minus the highest rank's, in % of the improvement that it has made by the last early "
                   "step", (-PER_CENT, PER_CENT), replace(PERCENT, words="% of the improvement so far"))


@claim("C1", source=ARTICLE, chapter="02-rank", experiments=("rank", "rank-replay"), limits=[EQUAL],
       written="2026-11-22T00:02", changed=regime.CHANGED, why=regime.WHY,
       scope="Post-training on instruction and reasoning data, Llama 3 and Qwen3 models of 1B to 30B parameters.")
def equal_to_full(evidence: Evidence) -> Finding:
    """LoRA of high rank ends at the test loss of full fine-tuning on small and medium-sized datasets

    Data: every dataset of the experiments but {BEYOND_CAPACITY} (made to exceed capacity) and {CONTROL} (a labelled
    control), where the regime gate says post-training. Every LoRA rank of {HIGH_RANK} or more against full fine-tuning,
    each arm at its own best learning rate, chosen by mean validation loss, read on test data at the last step, paired
    by seed; full fine-tuning's mean improvement is taken as fixed. Inconclusive also if that improvement is not clearly
    above zero. Outside post-training: not tested.
    """
    limits, regimes, outside = [], [], []
    for dataset in evidence.datasets:
        name = dataset.partition("@")[0]
        if _beyond_capacity(dataset) or name == CONTROL:
            continue
        curves, metrics = (plain(frame) for frame in evidence.of(dataset))
        gate = regime_of(curves, metrics, evidence.peak_learning_rate)
        regimes.append(f"{name}: {gate}")
        if gate.name != "post-training":
            outside.append(f"{name} is {gate}.")
            continue
        best = best_rate_by_validation(curves)
        full = by_seed(best, "full")
        gain = improvement(full, metrics)
        if gain.low <= 0:
            why = (f"On {name} full fine-tuning's improvement over the base, {gain.mean:.3g} nats a token, is not "
                   "clearly above zero, so there is nothing to be equal to.")
            return Finding(OPEN, why, regime="; ".join(regimes))
        limits += [EQUAL.measured(f"{name}, {arm} − full", paired(by_seed(best, arm), full, 100 / gain.mean))
                   for rank, arm in by_rank(best).items() if rank >= HIGH_RANK]
    described = "; ".join(regimes) or None
    if not limits:
        why = " ".join(outside) or f"No dataset of this claim was run with a rank of {HIGH_RANK} or more."
        return Finding(UNTESTED, why, regime=described)
    found = decide(limits, after=" ".join(outside), regime=described)
    if found.outcome == FAILS and found.interval:
        side = "full fine-tuning" if found.interval.mean > 0 else "LoRA"
        found = replace(found, reason=f"{found.reason} The clearest difference is in {side}'s favour.")
    return found


@claim("C2", source=ARTICLE, chapter="02-rank", experiments=("rank",), limits=[TREND, LATER, MOVING], corrected=False,
       scope="Datasets that exceed what the adapter can hold.", written="2026-11-22T00:02", changed="2026-11-26T12:30",
       why="Ranks that leave at one and the same evaluated step order nothing, nor do ranks that come back because the "
       "best arm finishes the data: the rule now asks for distinct steps, unfinished data and dense evaluations, since "
       "12:30 UTC from the one before the first step of leaving on.")
def rank_sets_departure(evidence: Evidence) -> Finding:
    """past its capacity LoRA leaves the common loss curve at a step that grows with its rank, and from there learns
    more slowly instead of stopping at a floor

    Data: {BEYOND_CAPACITY}. The common curve is the arm with the least mean validation loss at each step, each arm at
    its best learning rate for that step, read on test data. An arm leaves it at the first evaluated step from which on
    the whole 95 % interval over seeds of (arm − common) lies above {PER_CENT:g} % of the common curve's final
    improvement over the base. An arm that never leaves counts as latest; correlations are computed per seed. Judged
    only where ranks leave at {DISTINCT} distinct steps or more, the lowest rank among them, where the best arm ends
    with {UNFINISHED:.0%} of the base's loss or more still to be learnt, and where evaluations, from the one before the
    first step of leaving to the last such step, lie at most a factor of {DENSE:g} apart. Otherwise inconclusive.
    """
    return combine({dataset: _departures(*evidence.of(dataset)) for dataset in evidence.datasets
                    if _beyond_capacity(dataset)})


def _beyond_capacity(dataset: str) -> bool:
    """Whether a dataset is random associations, however many."""
    return dataset.partition("@")[0].startswith(BEYOND_CAPACITY)


def _departures(frame: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    lora = [arm for arm in arms(frame) if arm != "full"]
    if len(lora) < 3:
        return Finding(OPEN, f"A trend over ranks needs three or more, the records have {len(lora)}.")
    best_rate_by_validation(frame)  # raises where a final best rate is at its grid's edge
    curves = pointwise_minimum(frame)
    last = int(curves["step"].max())
    common = common_curve(curves)
    gain = improvement(by_seed(common[common["step"] == last], COMMON), metrics)
    if gain.low <= 0:
        return Finding(OPEN, "No arm clearly improved on the base.")
    margin, never = MARGIN * gain.mean, last + 1
    steps = {arm: departure_step(curves, arm, margin=margin) for arm in lora}
    left = sorted({step for step in steps.values() if step is not None})
    reason = f"Leaving the common curve ({last} steps in all): {_leaving(steps, left)}."
    gone = [arm for arm in lora if steps[arm] is not None]
    if not gone:
        return Finding(OPEN, f"{reason} No rank ran out of capacity, so nothing was tested.")
    by_arm = [departure_by_seed(curves, arm, margin=margin) for arm in lora]
    trend = TREND.measured("", over_seeds([
        _spearman(list(by_rank(frame)), [never if one[seed] is None else int(one[seed] or 0) for one in by_arm])
        for seed in by_arm[0]]))
    first, latest = steps[lora[0]], steps[lora[-1]] or never
    limits = [trend, *(MOVING.measured(arm, _tail(curves, arm, 100 / gain.mean)) for arm in gone)]
    if first is not None:
        limits.append(LATER.measured(f"{lora[-1]} after {lora[0]}", exactly(latest - first)))
    wanting = _wanting(curves, left, float(common.loc[common["step"] == last, "test_loss"].mean()),
                       float(metrics["base_test_loss"].mean()))
    if first is None:
        wanting.append("The lowest rank did not leave.")
    if wanting:
        return Finding(OPEN, " ".join((reason, *wanting)), STEPS_OF_LEAVING.measured("", exactly(len(left))))
    return decide(limits, corrected=False, before=reason)


def _leaving(steps: dict[str, int | None], left: list[int]) -> str:
    """Which arms left when: `rank 1, rank 2 at step 135; rank 4 never`."""
    at = {f"at step {step}": [arm for arm in steps if steps[arm] == step] for step in left}
    at["never"] = [arm for arm, step in steps.items() if step is None]
    return "; ".join(f"{', '.join(names)} {when}" for when, names in at.items() if names)


def _wanting(curves: pd.DataFrame, left: list[int], end: float, base: float) -> list[str]:
    """What keeps departures from being judged, in sentences."""
    found = []
    if len(left) < DISTINCT:
        found.append(f"That is {len(left)} distinct step{'s' * (len(left) > 1)} of leaving, and a trend takes "
                     f"{DISTINCT}.")
    if end < UNFINISHED * base:
        found.append(f"The best arm finished the data, with {100 * end / base:.1f} % of the base's loss left, so that "
                     "other ranks can catch up, which does not count as leaving.")
    every = sorted(curves["step"].unique())
    before = max((step for step in every if step < left[0]), default=left[0])
    near = [step for step in every if before <= step <= left[-1]]
    gap = max((b / a for a, b in pairwise(near)), default=1.0)
    if gap > DENSE:
        found.append(f"Evaluations there lie a factor of {gap:.2g} apart, more than {DENSE:g}.")
    return found


@claim("C4", source=ARTICLE, chapter="02-rank", experiments=("rank",), limits=[SAME_START], written="2026-11-22T00:02",
       scope="LoRA with the scale alpha / rank, alpha the same for all ranks.")
def same_first_steps(evidence: Evidence) -> Finding:
    """at one learning rate the first steps are the same for every rank

    Data: every dataset of the experiments. One learning rate for all ranks: the best one of the highest rank by mean
    validation loss at the last step. Each rank against the highest at every evaluated step from 1 to {EARLY_STEPS},
    paired by seed, in per cent of the improvement that the highest has made by the last of these steps: not of the
    whole run's, which would make early equality easy. Inconclusive also with fewer than two such steps, or if that
    improvement is not clearly above zero.
    """
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
    gain = improvement(by_seed(at[steps[-1]], top), metrics)
    if gain.low <= 0:
        return Finding(OPEN, f"By step {steps[-1]} {top} has not clearly improved on the base.")
    limits = [SAME_START.measured(f"{arm} at step {step} − {top}", paired(
        by_seed(at[step], arm), by_seed(at[step], top), 100 / gain.mean)) for arm in names[:-1] for step in steps]
    return decide(limits, before=f"At learning rate {rate:g}, steps {steps[0]} to {steps[-1]}, {len(names)} ranks.")


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Full fine-tuning, and LoRA of any rank with everything else at its default."""
    return frame[frame["plain"].astype(bool)]


def by_rank(frame: pd.DataFrame) -> dict[int, str]:
    """The LoRA arms of a frame of plain ones, by rank, the lowest first."""
    return {int(frame.loc[frame["arm"] == arm, "rank"].iloc[0]): arm for arm in arms(frame) if arm != "full"}


def by_seed(rows: pd.DataFrame, arm: str, column: str = "test_loss") -> dict[int, float]:
    """One arm's values of a column, by seed."""
    one = rows[rows["arm"] == arm]
    return dict(zip(one["seed"].astype(int), one[column].astype(float), strict=True))


def improvement(losses: dict[int, float], metrics: pd.DataFrame) -> Interval:
    """By how much losses lie below the base's mean test loss, over seeds."""
    return paired_difference(dict.fromkeys(losses, float(metrics["base_test_loss"].mean())), losses)


def _tail(curves: pd.DataFrame, arm: str, unit: float) -> At:
    """Change of an arm's test loss from the last evaluation in the first half of the steps to the end."""
    rows = curves[curves["arm"] == arm]
    last = rows["step"].max()
    half = rows.loc[rows["step"] <= last / 2, "step"].max()
    return paired(by_seed(rows[rows["step"] == last], arm), by_seed(rows[rows["step"] == half], arm), unit)


def _spearman(ranks: list[int], steps: list[int]) -> float:
    """Correlation of the two orders, ties averaged; 0 where every step is the same, which shows no trend."""
    if len(set(steps)) < 2:
        return 0.0
    return float(pd.Series(ranks).rank().corr(pd.Series(steps).rank()))
