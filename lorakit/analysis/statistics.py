"""Intervals over seeds, equivalence, and the best learning rate of a U-shaped sweep."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from lorakit.analysis.parabolas import REACH, common_minima

Size = Literal["live", "record"]


class SeedError(ValueError):
    """Two arms cannot be paired: their seeds differ, or there are fewer than two."""


class GridEdgeError(ValueError):
    """The best learning rate is the first or last of its grid, so the optimum may lie outside."""


class GridEdgeWarning(UserWarning):
    """As `GridEdgeError`, at the live size, which gives no verdict."""


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds with its t interval from `low` to `high`; infinite where a run diverged, or of one seed.

    >>> f"{Interval(-1.25, -2.0, 0.5, 5):+.1f}", f"{Interval(3.5, -math.inf, math.inf, 1):.1f}"
    ('−1.2 (−2.0 to +0.5)', '3.5 (1 seed, no interval)')
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit; `factor` > 0."""
        return Interval(self.mean * factor, self.low * factor, self.high * factor, self.n, self.confidence)

    def exp(self) -> Interval:
        """Of an interval of logarithms: the geometric mean, with its ends."""
        return Interval(math.exp(self.mean), math.exp(self.low), math.exp(self.high), self.n, self.confidence)

    def __format__(self, form: str) -> str:
        """The mean and, in brackets, the interval, each number in the given form."""
        mean, low, high = (_signed(value, form or ".3g") for value in (self.mean, self.low, self.high))
        if self.n < 2:
            return f"{mean} (1 seed, no interval)"
        return f"{mean} ({low} to {high})" if math.isfinite(self.mean) else "no mean: a run diverged"


def _signed(value: float, form: str) -> str:
    text = format(value, form)
    return f"−{text[1:]}" if text.startswith("-") else text


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of one value per seed and its t interval: mean ± t · s / √n with n − 1 degrees of freedom.

    A value that is not finite (a diverged run) makes the interval (−inf, inf): nothing can be concluded from it.

    Raises:
        SeedError: fewer than two values.
        ValueError: confidence outside (0, 1).

    >>> mean_interval([1.0, 3.0]).mean
    2.0
    >>> mean_interval([2.0, 2.0, 2.0]).high
    2.0
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is not a probability; give a number between 0 and 1, such as 0.95")
    array = np.asarray(list(values), dtype=float)
    n = len(array)
    if n < 2:
        raise SeedError(f"an interval over seeds needs at least 2 seeds, got {n}; run more seeds")
    if not np.isfinite(array).all():
        mean = math.inf if np.isposinf(array).any() else -math.inf if np.isneginf(array).any() else math.nan
        return Interval(mean, -math.inf, math.inf, n, confidence)
    mean = float(array.mean())
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, confidence)


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """As `mean_interval`; one seed gives its value with an interval from −inf to inf, since it says nothing of others.

    >>> over_seeds([2.0]).high
    inf
    """
    listed = list(values)
    return mean_interval(listed, confidence) if len(listed) > 1 else Interval(
        float(listed[0]), -math.inf, math.inf, 1, confidence)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Interval:
    """The mean over seeds of a − b with its paired t interval: what the seeds share (data, order) cancels.

    Args:
        a, b: a value per seed; dicts, or pandas Series indexed by seed.

    Raises:
        SeedError: the seeds of a and b differ, or there are fewer than two.

    >>> paired_difference({0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0}).low
    2.0
    """
    left, right = dict(a.items()), dict(b.items())
    if left.keys() != right.keys() or len(left) != len(a) or len(right) != len(b):
        raise SeedError(f"seeds do not pair: {sorted(a.keys())} against {sorted(b.keys())}; "
                        "run each arm once with each seed, or drop the odd ones from both")
    return mean_interval([minus(left[seed], right[seed]) for seed in sorted(left)], confidence)


def minus(a: float, b: float) -> float:
    """a − b, and no number where both diverged."""
    return math.nan if math.isinf(a) and math.isinf(b) else float(a) - float(b)


def share_difference(a: Sequence[bool], b: Sequence[bool], confidence: float = 0.95) -> Interval:
    """The share of successes among a minus that among b, with Newcombe's interval (Wilson's, of each, combined).

    Of outcomes in two heaps: a t interval of their mean has no meaning where every value is one of two.

    >>> span = share_difference([True] * 6 + [False] * 4, [True] * 2 + [False] * 8)
    >>> round(span.mean, 3), round(span.low, 3), round(span.high, 3)
    (0.4, -0.023, 0.673)
    """
    z = float(ndtri(0.5 + confidence / 2))
    shares, lows, highs = [], [], []
    for runs in (a, b):
        n, share = len(runs), sum(runs) / len(runs)
        center, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        shares.append(share)
        lows.append((center - half) / (1 + z * z / n))
        highs.append((center + half) / (1 + z * z / n))
    mean = shares[0] - shares[1]
    low = mean - math.hypot(shares[0] - lows[0], highs[1] - shares[1])
    high = mean + math.hypot(highs[0] - shares[0], shares[1] - lows[1])
    return Interval(mean, low, high, min(len(a), len(b)), confidence)


def equivalent(interval: Interval, margin: float) -> Literal["equal", "different", "undecided"]:
    """Three-way test of equality: failing to see a difference is not equality.

    `equal` when the whole interval lies within ±margin; `different` when all of it lies beyond the margin on one
    side (its sign says which); `undecided` otherwise.

    Args:
        interval: of a difference.
        margin: > 0, in the interval's unit, such as 5 % of full fine-tuning's improvement over the base.

    >>> equivalent(Interval(0.0, -0.01, 0.02, 5), margin=0.05), equivalent(Interval(0.0, -0.01, 0.2, 5), margin=0.05)
    ('equal', 'undecided')
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"margin={margin!r} must be a finite number above 0: the difference that still counts as none")
    if -margin <= interval.low and interval.high <= margin:
        return "equal"
    return "different" if interval.low > margin or interval.high < -margin else "undecided"


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of an arm.

    Args:
        learning_rate: the minimum of the mean losses, which is the geometric mean of `per_seed`.
        low, high: its t interval over seeds (of the logarithm); None with a single seed.
        grid_rate: the trained rate with the least mean loss over seeds.
        per_seed: each seed's jackknife value, which may leave the grid and belongs to these seeds together; without a
            common window, its own fitted best rate.
        edge: `lowest` or `highest` if `grid_rate` is that end of the grid, else None.
    """

    learning_rate: float
    low: float | None
    high: float | None
    grid_rate: float
    per_seed: dict[int, float]
    edge: Literal["lowest", "highest"] | None

    @property
    def interval(self) -> Interval:
        """The rate with its interval; from 0 to ∞ with a single seed."""
        low, high = (0.0, math.inf) if self.low is None or self.high is None else (self.low, self.high)
        return Interval(self.learning_rate, low, high, len(self.per_seed))


def optimum(
    learning_rates: Sequence[float],
    losses: Sequence[Sequence[float]] | np.ndarray,
    *,
    seeds: Sequence[int] | None = None,
    size: Size = "record",
    arm: str = "this arm",
    confidence: float = 0.95,
    reach: int | None = REACH,
) -> Optimum:
    """Best learning rate of a U-shaped sweep, with its interval over seeds.

    It is the minimum of one parabola in log(rate) through the mean losses of one window for all seeds: see
    `common_minima`. Where a neighbour of the best rate diverged, or the floor is flat, that rate itself stands.

    Args:
        learning_rates: R different rates > 0.
        losses: of shape (seeds, rates); a diverged run is +inf (NaN is read as +inf), never left out.
        seeds: labels of the rows; 0, 1, … if None.
        size: at an edge of the grid, `record` raises and `live` warns.
        arm: its name, for messages.
        reach: rates of the window on either side; a wider one is pulled away from the minimum where the loss rises
            more steeply on one side. None: each seed's own parabola, through its best rate and the two neighbours.

    Raises:
        GridEdgeError: size `record`, and the least mean loss is at the first or last rate.
        ValueError: shapes that do not match, fewer than three rates, or every rate diverged for some seed.

    >>> best = optimum([1e-4, 1e-3, 1e-2], [[2.0, 1.0, 2.0], [3.0, 2.0, 3.0]])
    >>> round(best.learning_rate, 9), best.edge
    (0.001, None)
    """
    rates = np.asarray(learning_rates, dtype=float)
    table = np.atleast_2d(np.asarray(losses, dtype=float))
    if rates.ndim != 1 or table.ndim != 2 or table.shape[1] != len(rates):
        raise ValueError(f"losses of shape {table.shape} do not fit {rates.size} learning rates; give (seeds, rates)")
    if len(rates) < 3 or len(set(rates.tolist())) < len(rates) or not (rates > 0).all():
        raise ValueError(f"a fit needs 3 or more different learning rates above 0, got {rates.tolist()}")
    labels = list(range(len(table))) if seeds is None else [int(seed) for seed in seeds]
    if len(labels) != len(table):
        raise ValueError(f"{len(labels)} seeds named for {len(table)} rows of losses")
    order = np.argsort(rates)
    rates, table = rates[order], np.where(np.isnan(table[:, order]), np.inf, table[:, order])
    if not np.isfinite(table).any(axis=1).all():
        raise ValueError(f"{arm}: every learning rate from {rates[0]:g} to {rates[-1]:g} diverged for some seed; "
                         "try lower rates")
    means = table.mean(axis=0)
    if not np.isfinite(means).any():
        raise ValueError(f"{arm}: at every learning rate some seed diverged; add rates below {rates[0]:g}")
    best = int(np.argmin(means))
    edge = edge_of(rates.tolist(), float(rates[best]), arm=arm, size=size)
    minima = (common_minima(np.log(rates), table, reach) if reach is not None else
              [common_minima(np.log(rates), row[None])[0] for row in table])
    per_seed = {label: math.exp(minimum) for label, minimum in zip(labels, minima, strict=True)}
    span = over_seeds(minima, confidence).exp()
    low, high = (span.low, span.high) if len(minima) > 1 else (None, None)
    return Optimum(span.mean, low, high, float(rates[best]), per_seed, edge)


def edge_of(rates: Sequence[float], best: float, *, arm: str, size: Size) -> Literal["lowest", "highest"] | None:
    """Which end of the grid the best rate is, or None; says so as a warning (`live`) or an error (`record`).

    Raises:
        GridEdgeError: an end of the grid at the record size, with rates to add.
    """
    grid = sorted(rates)
    if grid[0] < best < grid[-1]:
        return None
    side: Literal["lowest", "highest"] = "lowest" if best <= grid[0] else "highest"
    ratio = grid[1] / grid[0] if len(grid) > 1 else 3.0
    more = [best / ratio**2, best / ratio] if side == "lowest" else [best * ratio, best * ratio**2]
    text = (f"{arm}: the best learning rate, {best:.3g}, is the {side} of its grid, so the optimum may lie outside; "
            f"widen the grid {'downwards' if side == 'lowest' else 'upwards'}, for example with "
            f"{more[0]:.3g} and {more[1]:.3g}")
    if size == "record":
        raise GridEdgeError(text)
    warnings.warn(text, GridEdgeWarning, stacklevel=3)
    return side


def ratio_interval(a: Optimum, b: Optimum, confidence: float = 0.95) -> Interval:
    """The ratio of two best rates, a / b: geometric mean over seeds, and the interval of the paired log ratio.

    Raises:
        SeedError: the seeds differ, or there are fewer than two.
    """
    logs = [{seed: math.log(rate) for seed, rate in arm.per_seed.items()} for arm in (a, b)]
    return paired_difference(logs[0], logs[1], confidence).exp()
