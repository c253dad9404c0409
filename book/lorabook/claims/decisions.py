"""Rules decide once: limits that intervals have to meet, and the one decision over a list of them.

A rule lists its limits as data. Its words, verdict, Bonferroni's correction, sentence and printed effect come from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from lorakit.analysis.statistics import Interval, Optimum, mean_interval, paired_difference, ratio_interval

HOLDS: Final = "holds"
FAILS: Final = "does not hold"
OPEN: Final = "inconclusive"
UNTESTED: Final = "not tested"
DEPENDS: Final = "depends on the data"
Outcome = Literal["holds", "does not hold", "depends on the data", "inconclusive", "not tested"]
OUTCOMES: tuple[Outcome, ...] = (HOLDS, FAILS, DEPENDS, OPEN, UNTESTED)
Range = tuple[float, float]
At = Callable[[float], Interval]  # a confidence to an interval
INF = math.inf
MANY = 12  # intervals of one quantity: of more than these a sentence shows the one furthest out


@dataclass(frozen=True)
class Unit:
    """How a quantity is printed: `short` behind its number, `words` behind its label, `signed` if it can be negative.

    >>> PERCENT.text(Interval(1.2, -0.31, 2.8, 5)), RATIO.text(Interval(3.2, 2.91, 3.6, 5))
    ('+1.2 % (−0.3 to +2.8)', '3.2 (2.9 to 3.6)')
    """

    short: str
    words: str
    signed: bool = False
    form: str = ".1f"

    def number(self, value: float) -> str:
        """One value, with a true minus."""
        return format(value, ("+" if self.signed else "") + self.form).replace("-", "−")

    def text(self, span: Interval) -> str:
        """A mean with its unit and its interval; of a single number, which no seed can change, that alone."""
        if span.n == 1:
            return f"{self.number(span.mean)}{self.short}"
        return f"{self.number(span.mean)}{self.short} ({self.number(span.low)} to {self.number(span.high)})"

    def range(self, span: Range) -> str:
        """`above 0 %`, `below 5 %`, `within −5 % to 5 %`."""
        low, high = (f"{value:.3g}{self.short}".replace("-", "−") for value in span)
        if math.isinf(span[0]):
            return f"below {high}"
        return f"above {low}" if math.isinf(span[1]) else f"within {low} to {high}"


PERCENT = Unit(" %", "% of full's improvement", signed=True)
POINTS = Unit(" points", "points of accuracy", signed=True)
RATIO = Unit("", "")


@dataclass(frozen=True)
class Limit:
    """What an interval has to satisfy, and, once `measured`, the interval.

    Args:
        what: the quantity, as the rule's words name it.
        inside: (low, high) between which the whole 95 % interval must lie.
        unit: of the interval and of the limits.
        outside: the limit fails if the whole interval, at the corrected confidence, lies off this; None: `inside`.
        least_mean: the mean must be this or more, too.
        fails_first: whether an interval that does both fails; else it holds.
        can_hold: False where what was measured is a bound alone.
        label: what exactly was measured, such as `rank 16 − full`; empty where `what` says it.
        interval: at a confidence.
    """

    what: str
    inside: Range
    unit: Unit = RATIO
    outside: Range | None = None
    least_mean: float = -INF
    fails_first: bool = False
    can_hold: bool = True
    label: str = ""
    interval: At | None = None

    def measured(self, label: str, interval: At, **changes: Any) -> Limit:
        """The limit with what was measured."""
        return replace(self, label=label, interval=interval, **changes)

    @property
    def span(self) -> Interval:
        """The 95 % interval."""
        return self.at(0.95)

    def at(self, confidence: float) -> Interval:
        """The interval at a confidence."""
        if self.interval is None:
            raise ValueError(f"{self.what}: nothing was measured; call `measured` first")
        return self.interval(confidence)

    def state(self, confidence: float) -> Outcome:
        """Whether it holds at 95 %, fails at a confidence, or neither."""
        span, strict = self.span, self.at(confidence)
        low, high = self.outside or self.inside
        inside = self.inside[0] < span.low and span.high < self.inside[1] and span.mean >= self.least_mean
        holds = self.can_hold and inside
        fails = strict.low > high or strict.high < low
        return FAILS if fails and (self.fails_first or not holds) else HOLDS if holds else OPEN

    @property
    def distance(self) -> float:
        """How far the mean lies beyond the nearer limit; negative inside."""
        return max(self.inside[0] - self.span.mean, self.span.mean - self.inside[1])

    @property
    def slack(self) -> float:
        """How far the interval stays inside, in its own widths; infinite for a single number."""
        span = self.span
        room = min(span.low - self.inside[0], self.inside[1] - span.high)
        return room / (span.high - span.low) if span.high > span.low else INF

    def __str__(self) -> str:
        return f"{self.label} {self.unit.text(self.span)}".strip()


class Shown:
    """What is printed of the `limit` that decided, if any was measured."""

    limit: Limit | None

    @property
    def effect(self) -> str | None:
        """What the effect is, in words with its unit."""
        words = (self.limit.label or self.limit.what, self.limit.unit.words) if self.limit else ()
        return ", ".join(filter(None, words)) or None

    @property
    def interval(self) -> Interval | None:
        """Of the effect, 95 %."""
        return self.limit.span if self.limit else None


@dataclass(frozen=True)
class Finding(Shown):
    """What a rule says of one piece of evidence.

    Args:
        outcome: one of `OUTCOMES`.
        reason: one or more whole sentences, numbers included.
        limit: the one that decided, shown as the effect, if any was measured.
        states: of each quantity, what its `limits` say, and the first of those that say so.
        regime: of the datasets, in words.
        seeds: of a computed claim that rests on training runs after all; 0 where nothing depends on a seed.
    """

    outcome: Outcome
    reason: str
    limit: Limit | None = None
    states: Mapping[str, tuple[Outcome, Limit]] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    regime: str | None = None
    seeds: int = 0


def decide(limits: Sequence[Limit], *, corrected: bool = True, count: int | None = None, before: str = "",
           after: str = "", **more: Any) -> Finding:
    """The verdict of a list of limits, with the sentence that lists them and the limit that decided.

    Where it holds, that is the one that came nearest to its end; otherwise the first that did not hold, or, where a
    quantity has many, its furthest out.

    It holds where every 95 % interval does. It does not hold where one fails at the confidence
    1 − 0.05 / (number of limits): with many of them one would stray beyond by chance. Otherwise it is inconclusive.

    Args:
        limits: at least one, measured.
        corrected: whether that correction is made.
        count: limits of the rule, where not all of them are measured yet.
        before, after: sentences around the generated one.
        more: fields of the finding.
    """
    if not limits:
        raise ValueError("no limits were given; a decision needs at least one")
    confidence = 1 - 0.05 / (count or len(limits)) if corrected else 0.95
    states = [limit.state(confidence) for limit in limits]
    outcome = _worst(states)
    deciding = [limit for limit, state in zip(limits, states, strict=True) if state == outcome]
    what = deciding[0].what
    many = sum(limit.what == what for limit in limits) > MANY
    shown = max((one for one in deciding if one.what == what), key=lambda one: one.distance) if many else deciding[0]
    if outcome == HOLDS:
        shown = min(deciding, key=lambda limit: limit.slack)
    by_what: dict[str, tuple[Outcome, Limit]] = {}
    for limit, state in zip(limits, states, strict=True):
        if limit.what not in by_what or _worst([state, by_what[limit.what][0]]) != by_what[limit.what][0]:
            by_what[limit.what] = state, limit
    reason = " ".join(filter(None, (before, _sentences(limits, states), after)))
    return Finding(outcome, reason, shown, by_what, tuple(limits), **more)


def _worst(states: Iterable[Outcome]) -> Outcome:
    return min(states, key=(FAILS, OPEN, HOLDS).index)


def _sentences(limits: Sequence[Limit], states: Sequence[Outcome]) -> str:
    marks = {HOLDS: "", FAILS: ", outside", OPEN: ", undecided"}
    said = []
    for what in dict.fromkeys(limit.what for limit in limits):
        mine = [(limit, state) for limit, state in zip(limits, states, strict=True) if limit.what == what]
        words = "; ".join(f"{limit}{marks[state]}" for limit, state in mine)
        if len(mine) > MANY:
            limit, state = max(mine, key=lambda one: one[0].distance)
            words = f"of {len(mine)} ({sum(s == HOLDS for _, s in mine)} inside) furthest out is {limit}{marks[state]}"
        said.append(f"{what[0].upper()}{what[1:]} (limit: {mine[0][0].unit.range(mine[0][0].inside)}): {words}.")
    return " ".join(said)


def rule_words(limits: Sequence[Limit], corrected: bool = True) -> str:
    """The same decision in the words of a rule, before anything is measured.

    >>> rule_words([Limit("the gap", (-5, 5), PERCENT)], corrected=False)
    'Limits: the gap: within −5 % to 5 %, refuted off that. Holds if every 95 % interval lies inside its limit; does not
    hold if one that does not lies wholly in what refutes it; otherwise inconclusive.'
    """
    if not limits:
        return ""
    strict = ", at 95 % after Bonferroni's correction over all of them," if corrected else ""
    return (f"Limits: {'; '.join(map(_limit_words, limits))}. Holds if every 95 % interval lies inside its limit; does "
            f"not hold if one that does not lies{strict} wholly in what refutes it; otherwise inconclusive.")


def _limit_words(limit: Limit) -> str:
    low, high = limit.outside or limit.inside
    off = limit.unit.range((-INF, low) if math.isinf(high) else (high, INF))
    if not math.isinf(low) and not math.isinf(high):
        off = "off that" if limit.outside in (None, limit.inside) else limit.unit.range((low, high)).replace(
            "within", "off")
    mean = f" with a mean of {limit.least_mean:g}{limit.unit.short} or more" if math.isfinite(limit.least_mean) else ""
    return f"{limit.what}: {limit.unit.range(limit.inside)}{mean}, refuted {off}"


def combine(findings: Mapping[str, Finding]) -> Finding:
    """One finding from those of several datasets, that which decides: it holds where all hold, fails where one fails.

    Datasets on which the claim could not be tested count only if there is no other.
    """
    tested = {name: f for name, f in findings.items() if f.outcome != UNTESTED} or dict(findings)
    if not tested:
        return Finding(UNTESTED, "No dataset of the experiment belongs to this claim.")
    order: tuple[Outcome, ...] = (FAILS, OPEN, UNTESTED, HOLDS)
    deciding = min(tested.values(), key=lambda finding: order.index(finding.outcome))
    reason = " ".join(f"On {name.partition('@')[0]}: {finding.reason}" for name, finding in findings.items())
    return replace(deciding, reason=reason)


def paired(a: Mapping[int, float], b: Mapping[int, float], scale: float = 1.0) -> At:
    """The interval of a − b by seed, times `scale` > 0."""
    return lambda confidence: paired_difference(a, b, confidence).scaled(scale)


def over_seeds(values: Sequence[float], scale: float = 1.0) -> At:
    """The interval of a mean over seeds, times `scale` > 0."""
    return lambda confidence: mean_interval(values, confidence).scaled(scale)


def ratio_of(a: Optimum, b: Optimum) -> At:
    """The interval of the ratio of two best rates."""
    return lambda confidence: ratio_interval(a, b, confidence)


def exactly(value: float, low: float | None = None, high: float | None = None, n: int = 1) -> At:
    """A value that no seed can change, at any confidence; with the range of the counts that it stands for."""
    return lambda confidence: Interval(value, value if low is None else low, value if high is None else high, n)
