"""The regime gate: is a run post-training, or does it teach a new skill as pre-training would?

A small base is easily pushed so far that fine-tuning becomes pre-training again. The article's claims about equality
on small datasets and about learning-rate ratios are about post-training, so they are judged only inside the gate.
Adam's best rate grows about as the root of the batch, so rates are compared at equal tokens a step; and data that
reword a skill are post-training only for a base that has the skill.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lorakit import sources
from lorakit.analysis.curves import best_rate_by_validation, optima
from lorakit.analysis.statistics import Size

MAX_RATE_RATIO = 1.0
MAX_DELTA_NORM = 0.1
MAX_BASE_TEXT_RISE = 0.1
MIN_SKILL = 0.2
SKILLS = ("reworded-skills", "reworded-skills-replay")  # datasets of what the embedded bases were pre-trained on
CHANGED = "2026-11-26T02:55"
WHY = ("The gate of post-training compares learning rates at equal tokens a step (a rate grows as the root of the "
       "batch), where a plain ratio turned away large batches for their size alone; in that unit its limit is 1, the "
       "rate of pre-training itself. It also asks whether the base has the skill that the data reword.")

RegimeName = Literal["post-training", "new-skill regime", "not known"]


@dataclass(frozen=True)
class Criterion:
    """One condition of the gate; `value` is None, and `passed` too, where it is not known."""

    name: str
    value: float | None
    limit: float
    least: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether the value is at most the limit (or, for `least`, at least that); None where it is not known."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} not known (limit {self.limit:g})"
        state = ("at or above" if self.passed else "below") if self.least else "within" if self.passed else "above"
        return f"{self.name} {self.value:.3g} ({state} the limit {self.limit:g})"


@dataclass(frozen=True)
class Regime:
    """The gate's answer with its three criteria."""

    name: RegimeName
    criteria: tuple[Criterion, ...]

    @property
    def failed(self) -> tuple[Criterion, ...]:
        """The criteria that are beyond their limits."""
        return tuple(criterion for criterion in self.criteria if criterion.passed is False)

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(map(str, self.criteria))}"

    def row(self) -> dict[str, str]:
        """The answer, and each criterion under its name and limit, for a table."""
        return {"regime": str(self.name)} | {f"{one.name} ({'at least' if one.least else 'limit'} {one.limit:g})":
                                             "–" if one.value is None else f"{one.value:.3g}" for one in self.criteria}


def regime(
    *,
    best_rate: float | None,
    peak_rate: float | None,
    delta_norm: float | None,
    base_text_before: float | None,
    base_text_after: float | None,
    tokens_a_step: float | None = None,
    pretraining_tokens_a_step: float | None = None,
    skill: float | None = None,
) -> Regime:
    """Apply the gate to full fine-tuning at its best rate.

    Any criterion beyond its limit means `new-skill regime`; all known ones within means `post-training`; none known
    means `not known`.

    Args:
        best_rate: full fine-tuning's best learning rate.
        peak_rate: the base's peak pre-training learning rate, or None if its authors do not say.
        delta_norm: ‖ΔW‖_F / ‖W‖_F over all weights.
        base_text_before, base_text_after: loss on held-out text of the base's kind, in one unit.
        tokens_a_step, pretraining_tokens_a_step: label tokens; without both the rates are compared as they are.
        skill: share of tasks that the base does before training, where the data reword what it was pre-trained on.

    >>> regime(best_rate=1e-3, peak_rate=1e-2, delta_norm=0.02, base_text_before=2.0, base_text_after=2.1).name
    'post-training'
    >>> regime(best_rate=4e-3, peak_rate=1e-2, delta_norm=0.02, base_text_before=2.0, base_text_after=2.1,
    ...        tokens_a_step=100, pretraining_tokens_a_step=1600).name
    'new-skill regime'
    """
    batches = _ratio(pretraining_tokens_a_step, tokens_a_step)
    ratio = _ratio(best_rate, peak_rate)
    ratio = ratio * math.sqrt(batches) if ratio is not None and batches is not None else ratio
    rise = _ratio(base_text_after, base_text_before)
    criteria = [
        Criterion("best full rate / peak pre-training rate, at equal tokens a step", ratio, MAX_RATE_RATIO),
        Criterion("‖ΔW‖/‖W‖", _known(delta_norm), MAX_DELTA_NORM),
        Criterion("rise of the loss on base text", None if rise is None else rise - 1, MAX_BASE_TEXT_RISE),
    ]
    if skill is not None:
        criteria.append(Criterion("share of its skills that the base has", skill, MIN_SKILL, least=True))
    passed = [criterion.passed for criterion in criteria]
    if False in passed:
        return Regime("new-skill regime", tuple(criteria))
    return Regime("post-training" if True in passed else "not known", tuple(criteria))


def regime_of(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None, size: Size = "record") -> Regime:
    """The gate for one model and dataset: full fine-tuning at its best trained rate, means over seeds.

    The best rate is the mean of each seed's own, as the gate was written; `window` speaks of ratios of two best rates.

    Args:
        curves: of `tidy`, filtered to the model and dataset.
        metrics: of `runs`, filtered likewise.
        peak_rate: see `regime`.
        size: a best rate at the grid's edge is an error at `record`, a warning at `live`.

    Raises:
        GridEdgeError: full fine-tuning's best rate is at the edge of its grid, at the record size.
    """
    full = curves[curves["arm"] == "full"]
    if full.empty:
        return regime(best_rate=None, peak_rate=peak_rate, delta_norm=None, base_text_before=None, base_text_after=None)
    best = best_rate_by_validation(full, size)["learning_rate"].iloc[0]
    rows = metrics[(metrics["arm"] == "full") & (metrics["learning_rate"] == best)]
    base, dataset = pretraining_facts(str(full["model"].iloc[0])), str(full["dataset"].iloc[0]).partition("@")[0]
    return regime(
        best_rate=optima(full, size, reach=None)["full"].learning_rate,
        peak_rate=peak_rate,
        delta_norm=_mean(rows, "delta_norm"),
        base_text_before=_mean(rows, "base_text_loss_before"),
        base_text_after=_mean(rows, "base_text_loss_after"),
        tokens_a_step=_known(float((rows["tokens"] / rows["steps"]).mean())),
        pretraining_tokens_a_step=base.get("tokens_a_step"),
        skill=base.get("skill") if dataset in SKILLS else None,
    )


def pretraining_facts(model: str) -> dict[str, Any]:
    """What the package knows of an embedded base, by its (pinned) name; empty for any other model.

    Returns:
        a mapping with `parameters`, `hidden_size`, `peak_learning_rate`, `tokens_a_step` (of pre-training) and `skill`
        (share of its tasks that it does) where known.
    """
    path = sources.embedded().get(model.partition("@")[0])
    if path is None:
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    pretraining = record.get("pretraining", {})
    facts = {"parameters": record.get("parameters"), "hidden_size": record.get("config", {}).get("hidden_size"),
             "peak_learning_rate": pretraining.get("peak_learning_rate")}
    if "bytes_seen" in pretraining and "accuracy" in pretraining:
        facts["tokens_a_step"] = pretraining["bytes_seen"] / pretraining["steps"]
        facts["skill"] = sum(pretraining["accuracy"].values()) / len(pretraining["accuracy"])
    return {name: value for name, value in facts.items() if value is not None}


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _ratio(over: float | None, under: float | None) -> float | None:
    over, under = _known(over), _known(under)
    return None if over is None or under is None or under <= 0 else over / under


def _mean(rows: pd.DataFrame, name: str) -> float | None:
    return _known(rows[name].mean(skipna=False)) if name in rows and len(rows) else None
