"""What a rule may look at: the record-size runs of one base model, and the scale that a verdict is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from lorabook import experiments

if TYPE_CHECKING:
    from lorakit.records import Record, Store

SEEDS_NEEDED = {"cpu": 5, "gpu": 3, "paper": 3}


@dataclass(frozen=True)
class Scale:
    """Where a verdict was measured: the base, its parameters (None if unknown), and the tokens of the longest run.

    `embedded` says that it is one of the book's own small bases, or a ladder of them.
    """

    profile: str
    model: str
    parameters: int | None
    tokens: int | None
    embedded: bool = False

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
        curves: of `lorakit.analysis.frames.tidy`.
        metrics: of `lorakit.analysis.frames.runs`.
        missing: runs that the experiments name and that have no result.
        unfinished: of a claim that is judged by dataset, and has a dataset that is whole: what others miss, by dataset.
        peak_learning_rate: of the base's pre-training, or None if unknown.
        model_parameters: all weights of the base; None reads them off a full fine-tuning run.
        embedded: whether it is one of the book's own small bases, whose tokens are bytes.
    """

    profile: str
    model: str
    curves: pd.DataFrame
    metrics: pd.DataFrame
    missing: int = 0
    peak_learning_rate: float | None = None
    model_parameters: int | None = None
    embedded: bool = False
    unfinished: Mapping[str, int] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """Model, parameters and tokens."""
        parameters = self.model_parameters
        full = self.metrics[self.metrics["method"] == "full"]
        if parameters is None and "parameters" in full and full["parameters"].notna().any():
            parameters = int(full["parameters"].max())
        tokens = self.curves["tokens"].max()
        return Scale(self.profile, self.model, parameters, None if pd.isna(tokens) else int(tokens), self.embedded)

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


def every_record(store: Store, name: str) -> list[Record]:
    """The records of an experiment's runs of record size on two cores.

    Raises:
        LookupError: runs have none.
    """
    specs = experiments.get(name).specs("cpu", "record")
    found = store.find([spec.id for spec in specs])
    if missing := sum(spec.id not in found for spec in specs):
        raise LookupError(f"Needs every run of {name}; {missing} have no record.")
    return [found[spec.id] for spec in specs]
