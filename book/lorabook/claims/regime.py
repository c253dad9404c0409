"""The regime gate: is a run post-training, or does it teach a new skill as pre-training would?

A small base is easily pushed so far that fine-tuning becomes pre-training again. The article's claims about equality
on small datasets and about learning-rate ratios are about post-training, so they are judged only inside the gate.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lorakit.analysis.curves import best_rate_by_validation, optima
from lorakit.analysis.statistics import Size
from lorakit.specs import PACKAGE

MAX_RATE_RATIO = 0.3
MAX_DELTA_NORM = 0.1
MAX_BASE_TEXT_RISE = 0.1

RegimeName = Literal["post-training", "new-skill regime", "not known"]


@dataclass(frozen=True)
class Criterion:
    """One condition of the gate; `value` is None, and `passed` too, where it is not known."""

    name: str
    value: float | None
    limit: float

    @property
    def passed(self) -> bool | None:
        """Whether the value is at most the limit; None where it is not known."""
        return None if self.value is None else self.value <= self.limit

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} not known (limit {self.limit:g})"
        return f"{self.name} {self.value:.3g} ({'within' if self.passed else 'above'} the limit {self.limit:g})"


@dataclass(frozen=True)
class Regime:
    """The gate's answer with its three criteria."""

    name: RegimeName
    criteria: tuple[Criterion, ...]

    @property
    def failed(self) -> tuple[Criterion, ...]:
        """The criteria that are above their limits."""
        return tuple(criterion for criterion in self.criteria if criterion.passed is False)

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(map(str, self.criteria))}"


def regime(
    *,
    best_rate: float | None,
    peak_rate: float | None,
    delta_norm: float | None,
    base_text_before: float | None,
    base_text_after: float | None,
) -> Regime:
    """Apply the gate to full fine-tuning at its best rate.

    Any criterion above its limit means `new-skill regime`; all known ones within means `post-training`; none known
    means `not known`.

    Args:
        best_rate: full fine-tuning's best learning rate.
        peak_rate: the base's peak pre-training learning rate, or None if its authors do not say.
        delta_norm: ‖ΔW‖_F / ‖W‖_F over all weights.
        base_text_before, base_text_after: loss on held-out text of the base's kind, in one unit.

    >>> regime(best_rate=1e-3, peak_rate=1e-2, delta_norm=0.02, base_text_before=2.0, base_text_after=2.1).name
    'post-training'
    >>> regime(best_rate=4e-3, peak_rate=1e-2, delta_norm=0.02, base_text_before=2.0, base_text_after=2.1).name
    'new-skill regime'
    """
    ratio = _ratio(best_rate, peak_rate)
    rise = _ratio(base_text_after, base_text_before)
    criteria = (
        Criterion("best full rate / peak pre-training rate", ratio, MAX_RATE_RATIO),
        Criterion("‖ΔW‖/‖W‖", _known(delta_norm), MAX_DELTA_NORM),
        Criterion("rise of the loss on base text", None if rise is None else rise - 1, MAX_BASE_TEXT_RISE),
    )
    passed = [criterion.passed for criterion in criteria]
    if False in passed:
        return Regime("new-skill regime", criteria)
    return Regime("post-training" if True in passed else "not known", criteria)


def regime_of(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None, size: Size = "record") -> Regime:
    """The gate for one model and dataset: full fine-tuning at its best trained rate, means over seeds.

    Args:
        curves: of `tidy`, filtered to the model and dataset.
        metrics: of `runs`, filtered likewise.
        peak_rate: see `regime`.
        size: a best rate at the grid's edge is an error at `record`, a warning at `live`.

    Raises:
        GridEdgeError: full fine-tuning's best rate is at the edge of its grid, at the record size.
    """
    full = curves[curves["method"] == "full"]
    if full.empty:
        return regime(best_rate=None, peak_rate=peak_rate, delta_norm=None, base_text_before=None, base_text_after=None)
    best = best_rate_by_validation(full, size)["learning_rate"].iloc[0]
    rows = metrics[(metrics["method"] == "full") & (metrics["learning_rate"] == best)]
    return regime(
        best_rate=optima(full, size)["full"].learning_rate,
        peak_rate=peak_rate,
        delta_norm=_mean(rows, "delta_norm"),
        base_text_before=_mean(rows, "base_text_loss_before"),
        base_text_after=_mean(rows, "base_text_loss_after"),
    )


def pretraining_facts(model: str) -> dict[str, Any]:
    """What the package knows of an embedded base, by its (pinned) name; empty for any other model.

    Returns:
        a mapping with `parameters`, `hidden_size` and `peak_learning_rate` where known.
    """
    path = PACKAGE / "weights" / f"{model.partition('@')[0].replace('/', '_')}.json"
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    facts = {"parameters": record.get("parameters"), "hidden_size": record.get("config", {}).get("hidden_size"),
             "peak_learning_rate": record.get("pretraining", {}).get("peak_learning_rate")}
    return {name: value for name, value in facts.items() if value is not None}


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _ratio(over: float | None, under: float | None) -> float | None:
    over, under = _known(over), _known(under)
    return None if over is None or under is None or under <= 0 else over / under


def _mean(rows: pd.DataFrame, name: str) -> float | None:
    return _known(rows[name].mean(skipna=False)) if name in rows and len(rows) else None
