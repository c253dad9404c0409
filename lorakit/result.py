"""What every engine leaves behind of a run: its result, the points of its curve, and the names of what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from lorakit.specs import GRPOSpec, SFTSpec

OnStep = Callable[[int, int, Any], None]  # steps done, steps in all, losses or rewards of the last step
Metrics = dict[str, float | None]
HELD_OUT = ("validation", "test")  # splits that are measured at every point of a curve
CURVE = ("step", "tokens", "train_loss", *(f"{name}_loss" for name in HELD_OUT))
GRPO_CURVE = ("step", "episodes", "tokens", "reward", *(f"{name}_accuracy" for name in HELD_OUT), "advantage_entropy",
              "reward_entropy", "length", "truncated", "zero_spread", "kl")


@dataclass
class RunResult:
    """What one configuration left behind.

    Args:
        spec: what was run.
        status: `ok`, or `diverged` when a training or evaluation loss stopped being finite.
        metrics: final numbers; see `lorakit.records`.
        curve: of a supervised run step, tokens (labels seen), train_loss, validation_loss, test_loss (nats per label
            token), and in packs with LoRA norm_a, norm_b (spectral norms of A and B, means over the layers).
        weights: of the configuration, when they were asked for.
        seconds: its share of the pack's.
        tokens: label tokens that it was trained on, or tokens that it sampled.
    """

    spec: SFTSpec | GRPOSpec
    status: str
    metrics: Metrics
    curve: dict[str, list[Any]]
    weights: dict[str, Any] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    tokens: int = 0


def evaluation_steps(steps: int, count: int) -> list[int]:
    """At most `count` log-spaced steps from 1 to `steps`, the last one included.

    >>> evaluation_steps(100, 5)
    [1, 3, 10, 32, 100]
    """
    return sorted({int(round(s)) for s in numpy.geomspace(1, steps, count)})


def delta_norm(change: float, whole: float) -> float:
    """‖ΔW‖ / ‖W‖ from the two squared Frobenius norms over all matrices of a model; infinite where training diverged.

    >>> delta_norm(0.04, 1.0), delta_norm(math.nan, 1.0)
    (0.2, inf)
    """
    return math.sqrt(change / whole) if math.isfinite(change) else math.inf


def training_metrics(parameters: int, delta: float, grad_norm_first: float) -> Metrics:
    """What every engine measures of training.

    Args:
        parameters: trained, padding not counted.
        delta: `delta_norm`.
        grad_norm_first: Euclidean norm of the first step's gradient, before clipping.
    """
    return {"parameters": parameters, "delta_norm": delta, "grad_norm_first": grad_norm_first}


def loss_metrics(before: Mapping[str, float], after: Mapping[str, float], train_loss: float) -> Metrics:
    """The losses of a supervised run, nats per label token: of each held-out split, and of the last training steps."""
    return {**{f"base_{name}_loss": before[name] for name in HELD_OUT}, "train_loss": train_loss,
            **{f"{name}_loss": after[name] for name in HELD_OUT}}
