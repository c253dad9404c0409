"""One arm minus another over paired seeds, with a margin and a word: equal, worse, better or open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lorakit.analysis.curves import FrameError, optima
from lorakit.analysis.parabolas import REACH
from lorakit.analysis.statistics import Interval, SeedError, Size, equivalent, minus, over_seeds, ratio_interval

Word = Literal["equal", "worse", "better", "open"]


@dataclass(frozen=True)
class Unit:
    """In what a difference is counted.

    Args:
        name: for a reader.
        factor: from the unit of the results.
        margin: what still counts as no difference; None where nothing says what is small.
        better: the sign of a difference in favour of an arm.
    """

    name: str
    factor: float
    margin: float | None
    better: int

    @classmethod
    def of_improvement(cls, gain: float, reference: str) -> Unit:
        """Per cent of what the reference gained over the base; nats where that is not known, or nothing.

        Args:
            gain: nats per label token, or NaN.
        """
        if gain > 0:
            return cls(f"% of {reference}'s improvement", 100 / gain, 5.0, -1)
        return cls("nats per label token", 1.0, None, -1)


POINTS = Unit("points of accuracy", 100.0, 2.0, 1)


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """An arm minus the reference, paired by seed, each at its own best learning rate.

    Args:
        margin: the difference that still counts as none, in the same unit.
        unit: `% of full's improvement` (supervised), `points of accuracy` (RL) or `nats per label token`.
        word: `equal` when the whole interval lies within ±margin, `worse` or `better` when all of it lies beyond,
            `open` otherwise, and always of one seed.
    """

    margin: float
    unit: str
    word: Word


def difference(table: pd.DataFrame, arm: str, against: str, unit: Unit, margin: float | None = None,
               confidence: float = 0.95) -> Difference:
    """The mean of one arm minus another over the seeds that both have, with its paired t interval and its word.

    Args:
        table: results, seeds (rows) by arms.
        margin: in the unit; None takes the unit's own.

    Raises:
        FrameError: arms without a seed in common, or no margin.
    """
    margin = unit.margin if margin is None else margin
    if margin is None:
        raise FrameError(f"the records do not say what {against} gained over the base (base_test_loss), so nothing "
                         "says what a small difference is: give margin=, in nats per label token")
    values = table[[arm, against]].dropna()
    if values.empty:
        raise FrameError(f"{arm} and {against} have no seed in common: run both with the same seeds")
    span = over_seeds([minus(a, b) for a, b in values.itertuples(index=False)], confidence).scaled(unit.factor)
    test = equivalent(span, margin)
    apart: Word = "better" if span.mean * unit.better > 0 else "worse"
    word: Word = "equal" if test == "equal" else apart if test == "different" else "open"
    return Difference(span.mean, span.low, span.high, span.n, confidence, margin=margin, unit=unit.name, word=word)


def rate_ratio(curves: pd.DataFrame, arm: str, against: str, size: Size = "record", step: int | None = None,
               reach: int | None = REACH) -> Interval:
    """The ratio of two arms' best rates over the seeds that both have; of one seed, without bounds.

    Both are fitted to these seeds alone: over a common window the value of a seed belongs to the seeds that it was
    fitted with, and cannot be taken out of a larger fit.

    Args:
        curves: of `tidy`, of one model, dataset and batch size.
        size, step, reach: as in `lorakit.analysis.curves.optima`.

    Raises:
        SeedError: no seed in common.
    """
    seeds = [set(curves.loc[curves["arm"] == name, "seed"]) for name in (arm, against)]
    if not (both := set.intersection(*seeds)):
        raise SeedError(f"{arm} and {against} have no seed in common: run both with the same seeds")
    best = optima(curves[curves["arm"].isin([arm, against]) & curves["seed"].isin(both)], size, step=step, reach=reach)
    one, other = best[arm], best[against]
    return ratio_interval(one, other) if len(both) > 1 else Interval(
        one.learning_rate / other.learning_rate, 0.0, math.inf, 1)
