"""What a rule may look at: the record-size runs of one base model, and the three-way test over all its comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd

from lorakit.study.statistics import Interval, equivalent, paired_difference

HOLDS: Final = "holds"
FAILS: Final = "does not hold"
OPEN: Final = "inconclusive"
UNTESTED: Final = "not tested at this scale"
Outcome = Literal["holds", "does not hold", "inconclusive", "not tested at this scale"]
OUTCOMES: tuple[Outcome, ...] = ("holds", "does not hold", "inconclusive", "not tested at this scale")
SEEDS_NEEDED = {"cpu": 5, "gpu": 3, "paper": 3}


@dataclass(frozen=True)
class Scale:
    """Where a verdict was measured: the base, its parameters (None if unknown), and the tokens of the longest run."""

    profile: str
    model: str
    parameters: int | None
    tokens: int | None

    def __str__(self) -> str:
        parts = [self.model.partition("@")[0]]
        if self.parameters is not None:
            parts.append(f"{self.parameters:,} parameters")
        if self.tokens is not None:
            parts.append(f"{self.tokens:,} training tokens")
        return ", ".join(parts)


@dataclass(frozen=True)
class Evidence:
    """The runs of one base model at one profile, for the experiments of a claim.

    Args:
        profile: `cpu`, `gpu` or `paper`.
        model: the pinned name.
        curves: of `lorakit.study.frames.tidy`.
        metrics: of `lorakit.study.frames.runs`.
        missing: runs that the experiments name and that have no result.
        peak_learning_rate: of the base's pre-training, or None if unknown.
        model_parameters: all weights of the base; None reads them off a full fine-tuning run.
    """

    profile: str
    model: str
    curves: pd.DataFrame
    metrics: pd.DataFrame
    missing: int = 0
    peak_learning_rate: float | None = None
    model_parameters: int | None = None

    @property
    def scale(self) -> Scale:
        """Model, parameters and tokens."""
        parameters = self.model_parameters
        full = self.metrics[self.metrics["method"] == "full"]
        if parameters is None and "parameters" in full and full["parameters"].notna().any():
            parameters = int(full["parameters"].max())
        tokens = self.curves["tokens"].max()
        return Scale(self.profile, self.model, parameters, None if pd.isna(tokens) else int(tokens))

    @property
    def seeds(self) -> int:
        """Seeds of the least repeated (dataset, arm, learning rate)."""
        counts = self.curves.groupby(["dataset", "arm", "learning_rate"])["seed"].nunique()
        return int(counts.min()) if len(counts) else 0

    @property
    def seeds_needed(self) -> int:
        """Seeds that a verdict at this profile asks for."""
        return SEEDS_NEEDED.get(self.profile, max(SEEDS_NEEDED.values()))

    @property
    def datasets(self) -> list[str]:
        """Pinned names, in alphabetical order."""
        return sorted(self.curves["dataset"].unique())

    def of(self, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The curves and metrics of one dataset."""
        return self.curves[self.curves["dataset"] == dataset], self.metrics[self.metrics["dataset"] == dataset]


@dataclass(frozen=True)
class Finding:
    """What a rule says of one piece of evidence.

    Args:
        outcome: one of `OUTCOMES`.
        reason: one or more whole sentences, numbers included.
        effect: what the effect is, in words with its unit, such as "largest gap, % of full's improvement".
        interval: of the effect, in that unit.
        regime: of the datasets, in words.
        seeds: of a computed claim that rests on training runs after all; 0 where nothing depends on a seed.
    """

    outcome: Outcome
    reason: str
    effect: str | None = None
    interval: Interval | None = None
    regime: str | None = None
    seeds: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two arms paired by seed: is `a − b` within ±margin? `unit` is what 100 % means."""

    label: str
    a: Mapping[int, float]
    b: Mapping[int, float]
    margin: float
    unit: float

    def percent(self, confidence: float = 0.95) -> Interval:
        """The interval of a − b in per cent of `unit`."""
        return paired_difference(self.a, self.b, confidence).scaled(100 / self.unit)


def all_equal(comparisons: Sequence[Comparison]) -> tuple[Outcome, Comparison, str]:
    """The three-way test over a family of comparisons, the one that is furthest out, and the list in words.

    `holds` when every 95 % interval lies within its margin. `does not hold` when one lies wholly beyond it at the
    confidence 1 − 0.05 / (number of comparisons): with many comparisons one would stray beyond it by chance.

    Args:
        comparisons: at least one.
    """
    if not comparisons:
        raise ValueError("no comparisons were given; a test of equality needs at least one")
    strict = 1 - 0.05 / len(comparisons)
    intervals = [paired_difference(c.a, c.b) for c in comparisons]
    verdicts = [equivalent(i, c.margin) for i, c in zip(intervals, comparisons, strict=True)]
    beyond = [equivalent(paired_difference(c.a, c.b, strict), c.margin) == "different" for c in comparisons]
    outcome: Outcome = HOLDS if set(verdicts) == {"equal"} else FAILS if any(beyond) else OPEN
    shown = [index for index in range(len(comparisons)) if beyond[index] or outcome != FAILS]
    worst = max(shown, key=lambda index: abs(intervals[index].mean) / comparisons[index].margin)
    words = "; ".join(f"{c.label}: {percent_text(c.percent())}" for c in comparisons)
    return outcome, comparisons[worst], words


def percent_text(interval: Interval) -> str:
    """`+1.2 % (−0.3 to +2.8)`.

    >>> percent_text(Interval(1.2, -0.31, 2.8, 5))
    '+1.2 % (−0.3 to +2.8)'
    """
    numbers = [f"{value:+.1f}".replace("-", "−") for value in (interval.mean, interval.low, interval.high)]
    return f"{numbers[0]} % ({numbers[1]} to {numbers[2]})"


def combine(findings: Mapping[str, Finding]) -> Finding:
    """One finding from those of several datasets: it holds where all hold, and fails where one fails.

    The effect and interval are those of the dataset that decides. Datasets on which the claim could not be tested
    count only if there is no other.
    """
    tested = {name: f for name, f in findings.items() if f.outcome != UNTESTED} or dict(findings)
    if not tested:
        return Finding(UNTESTED, "No dataset of the experiment belongs to this claim.")
    order: tuple[Outcome, ...] = (FAILS, OPEN, UNTESTED, HOLDS)
    deciding = min(tested.values(), key=lambda finding: order.index(finding.outcome))
    reason = " ".join(f"On {name.partition('@')[0]}: {finding.reason}" for name, finding in findings.items())
    return Finding(deciding.outcome, reason, deciding.effect, deciding.interval, deciding.regime)
