"""RL runs of one task as rules on equality read them: accuracies, good rates, room for what the rewards told, heaps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import pandas as pd

from lorabook.claims.decisions import OPEN, UNTESTED, Finding, Limit, decide, paired
from lorabook.claims.rank import by_seed
from lorabook.claims.reward import at_best_rate, told
from lorakit.analysis.curves import arms, best_rate_by_validation, losses_at
from lorakit.analysis.palette import arm_rank
from lorakit.analysis.statistics import Interval, Size, over_seeds, paired_difference, share_difference
from lorakit.analysis.sweep import Sweep
from lorakit.theory.capacity import BITS_PER_PARAMETER

BAND = 0.1  # of full fine-tuning's gain: how far below the best arm's mean a rate is still good
ROOM = 2.0  # bits held over bits told, the least with which a rank is judged
PROBLEMS = 1024  # of the test set, at least
FORM_PAID = 3.0  # by `osmosis-line`
FATES = ("the answer", "the form only", "not even the form")
CONDITION = (
    f"Precondition of the source, computed and printed: the bits that a rank holds, two a weight, are {ROOM:g} times "
    "or more those that the rewards told full fine-tuning at its best rate; ranks below it are not judged. Nothing is "
    f"judged on fewer than {PROBLEMS:,} test problems. Where final accuracies lie in two heaps, the seeds that got to "
    "the upper one are counted instead.")


def accuracies(curves: pd.DataFrame, size: Size = "record") -> dict[str, dict[int, float]]:
    """Test accuracy at the last step of every arm at its best rate, by arm and seed.

    Args:
        curves: of `tidy`, RL runs of one task.

    Raises:
        GridEdgeError: at the record size, a best rate at the edge of its grid.
    """
    best = best_rate_by_validation(curves, size)
    return {arm: by_seed(best, arm, "test_accuracy") for arm in arms(best)}


def gain_over_base(curves: pd.DataFrame, metrics: pd.DataFrame) -> float:
    """Full fine-tuning's mean gain in test accuracy over the base, at its best rate.

    Args:
        curves, metrics: of `tidy` and `runs`, RL runs of one task.
    """
    full = accuracies(curves[curves["arm"] == "full"], "live")["full"]
    return sum(full.values()) / len(full) - float(metrics["base_test_accuracy"].mean())


def good_rates(curves: pd.DataFrame, gain: float) -> dict[str, dict[int, int]]:
    """How many rates of each arm end near the best arm's mean validation accuracy, by seed: one threshold for all.

    Args:
        gain: of `gain_over_base`; near is within `BAND` of it.
    """
    rows = losses_at(curves)
    limit = rows.groupby(["arm", "learning_rate"])["validation_accuracy"].mean().max() - BAND * gain
    good = (rows["validation_accuracy"] >= limit).groupby([rows["arm"], rows["seed"]]).sum()
    return {arm: {int(seed): int(n) for seed, n in good[arm].items()} for arm in arms(curves)}


def more_good_rates(ran: Sweep) -> dict[str, Interval]:
    """How many good rates each LoRA arm has more than full fine-tuning, over seeds."""
    good = good_rates(ran.curves, gain_over_base(ran.curves, ran.runs))
    return {arm: over_seeds([good[arm][seed] - good["full"][seed] for seed in good[arm]]) for arm in ran.arms[1:]}


def fates(ran: Sweep) -> pd.DataFrame:
    """How the runs of each arm on `grpo-form` end: with the answer, the form of it only, or not even the form.

    The answer: more than half of the test problems are right; the form: most samples of the last stretch are one line.
    """
    last = losses_at(ran.curves)
    fate = pd.Series(FATES[2], index=last.index).mask(last["reward_format_line"] > FORM_PAID / 2, FATES[1])
    found = pd.crosstab(last["arm"], fate.mask(last["test_accuracy"] > 0.5, FATES[0]))
    return found.reindex(index=ran.arms, columns=list(FATES), fill_value=0).rename_axis(index=None, columns=None)


def room(curves: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, float]:
    """Bits that each LoRA arm holds, two a weight, over those that the rewards told full fine-tuning at its best rate.

    Args:
        curves, metrics: of `tidy` and `runs`, RL runs of one task.
    """
    heard = told(at_best_rate(curves[curves["arm"] == "full"]))["bits"].mean()
    held = metrics[metrics["method"] == "lora"].groupby("arm")["parameters"].max() * BITS_PER_PARAMETER
    return {arm: float(held[arm]) / heard if heard else math.inf for arm in arms(curves) if arm != "full"}


def deficits(ran: Sweep) -> pd.DataFrame:
    """What each LoRA arm lacks of full fine-tuning's accuracy, beside its room for what the rewards told.

    Returns:
        arm, rank, room (see the function), and mean, low, high: test accuracy of full fine-tuning minus the arm's, each
        at its best rate, in per cent of full fine-tuning's gain, paired by seed.
    """
    task, rows = Task(ran.curves, ran.runs), []
    for arm, times in task.room.items():
        lacks = paired_difference(task.reached["full"], task.reached[arm]).scaled(100 / gain_over_base(
            ran.curves, ran.runs))
        rows.append({"arm": arm, "rank": arm_rank(arm), "room": times, "mean": lacks.mean, "low": lacks.low,
                     "high": lacks.high})
    return pd.DataFrame(rows)


def between_heaps(runs: Iterable[Mapping[int, float]], base: float) -> float | None:
    """The accuracy that parts two heaps of final ones: nine in ten runs end near the base or near the best.

    An arm that is low as a whole makes none: some arm must have runs in both.

    Args:
        runs: final accuracies by seed, an arm each.

    Returns:
        None where there are no two heaps.
    """
    reached = [list(arm.values()) for arm in runs]
    top = max(map(max, reached)) - base
    low = [sum(value < base + top / 3 for value in arm) for arm in reached]
    high = [sum(value > base + 2 * top / 3 for value in arm) for arm in reached]
    mixed = any(a and b for a, b in zip(low, high, strict=True))
    apart = top > 0 and mixed and sum(low) + sum(high) >= 0.9 * sum(map(len, reached))
    return base + top / 2 if apart else None


@dataclass(frozen=True)
class Task:
    """RL runs of one task as the rules on equality read them; see `CONDITION`."""

    curves: pd.DataFrame
    metrics: pd.DataFrame

    @cached_property
    def reached(self) -> dict[str, dict[int, float]]:
        """Final test accuracies, see `accuracies`."""
        return accuracies(self.curves)

    @cached_property
    def base(self) -> float:
        """Test accuracy of the base."""
        return float(self.metrics["base_test_accuracy"].mean())

    @cached_property
    def room(self) -> dict[str, float]:
        """See the function of this name."""
        return room(self.curves, self.metrics)

    def compare(self, limits: tuple[Limit, Limit], label: str, a: Mapping[int, float], b: Mapping[int, float]) -> Limit:
        """One accuracy against another: the first limit by the mean, the second by counts where there are two heaps."""
        if (middle := between_heaps(self.reached.values(), self.base)) is None:
            return limits[0].measured(label, paired(a, b, 100 / gain_over_base(self.curves, self.metrics)))
        won = [[value > middle for value in arm.values()] for arm in (a, b)]
        counts = " and ".join(f"{sum(runs)} of {len(runs)}" for runs in won)
        return limits[1].measured(f"{label}, {counts} seeds", partial(share_difference, won[0], won[1]))

    def decide(self, limits: Sequence[Limit], judged: Collection[str]) -> Finding:
        """The finding of some limits with the precondition in words; not tested where no arm of theirs meets it."""
        held = ", ".join(f"{arm} {times:.2f}" for arm, times in self.room.items())
        said = f"Bits held over bits told (at least {ROOM:g}): {held}."
        if not judged:
            seen = "; ".join(map(str, limits))
            return Finding(UNTESTED, f"{said} What is asked about has less room than the source supposes, so that this "
                           f"judges nothing: {seen}." if limits else f"{said} No rank has that room.")
        found = decide(limits, before=said)
        problems = self.metrics["test_problems"].min()
        if problems < PROBLEMS:
            return replace(found, outcome=OPEN, states={},
                           reason=f"{found.reason} Needs {PROBLEMS:,} test problems, the runs had {problems:.0f}.")
        return found
