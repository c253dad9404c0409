"""The named lists of specs behind each figure, per profile and size: the only place where they are written."""

from __future__ import annotations

from lorabook.experiments import (
    alpha,
    anew,
    batch_size,
    capacity,
    fresh,
    grpo,
    layers,
    learning_rate,
    rank,
    recipes,
    reward,
    smollm2,
)
from lorabook.experiments.definition import PROFILES, SIZES, Experiment
from lorakit.names import UnknownNameError, near

__all__ = ["EXPERIMENTS", "PROFILES", "SIZES", "Experiment", "get", "of_chapter"]

MODULES = (rank, capacity, layers, learning_rate, batch_size, reward, grpo, recipes, smollm2,
           fresh, alpha, anew)
EXPERIMENTS = {experiment.name: experiment for module in MODULES for experiment in module.EXPERIMENTS}
# Start of an experiment's name to the chapter that it belongs to; the longest start that fits counts.
CHAPTERS = {"rank": "rank", "control": "rank", "smollm2-rank": "rank", "capacity": "capacity",
            "dataset-bits": "capacity", "rank-forecast": "capacity", "layers": "layers", "moe": "experts",
            "smollm2-layers": "layers", "learning-rate": "learning-rate", "learning-rate-alpha": "alpha",
            "learning-rate-scale": "alpha", "learning-rate-invariance": "alpha", "batch-size": "batch-size",
            "smollm2-batch": "batch-size", "smollm2-capacity": "capacity",
            "secret": "reward", "grpo": "grpo", "smollm2-grpo": "grpo", "grpo-factors": "disagreement",
            "grpo-form-factors": "disagreement", "grpo-recipes": "disagreement", "grpo-sync": "precision"}


def of_chapter(topic: str) -> list[Experiment]:
    """The experiments that a chapter answers for, by the part of its name after the number (`rank`, `precision`)."""
    def chapter(name: str) -> str | None:
        starts = [start for start in CHAPTERS if name == start or name.startswith(f"{start}-")]
        return CHAPTERS[max(starts, key=len)] if starts else None

    return [experiment for name, experiment in EXPERIMENTS.items() if chapter(name) == topic]


def get(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        UnknownNameError: there is none; the message lists those that exist.
    """
    if name not in EXPERIMENTS:
        raise UnknownNameError(f"no experiment {name!r}; {near(name, EXPERIMENTS)}"
                               f"experiments: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
