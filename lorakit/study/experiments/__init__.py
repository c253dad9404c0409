"""The named lists of specs behind each figure, per profile and size: the only place where they are written."""

from __future__ import annotations

import difflib

from lorakit.specs import UnknownNameError
from lorakit.study.experiments import (
    batch_size,
    capacity,
    grpo,
    layers,
    learning_rate,
    rank,
    recipes,
    reward,
    smollm2,
)
from lorakit.study.experiments.definition import PROFILES, SIZES, Experiment

__all__ = ["EXPERIMENTS", "PROFILES", "SIZES", "Experiment", "get"]

CHAPTERS = (rank, capacity, layers, learning_rate, batch_size, reward, grpo, recipes, smollm2)
EXPERIMENTS = {experiment.name: experiment for chapter in CHAPTERS for experiment in chapter.EXPERIMENTS}


def get(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        UnknownNameError: there is none; the message lists those that exist.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownNameError(f"no experiment {name!r}; {hint}experiments: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
