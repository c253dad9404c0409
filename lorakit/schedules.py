"""How the learning rate moves over a run: factors on its peak, the same as those of transformers' schedulers."""

from __future__ import annotations

import math
from typing import Literal, get_args

Schedule = Literal["constant", "linear", "cosine"]
SCHEDULES = get_args(Schedule)


def warmup_steps(warmup: float, steps: int) -> int:
    """Steps of a warm-up that is given as steps (1 or more) or as a share of all steps (below 1, rounded up).

    >>> warmup_steps(10, 300), warmup_steps(0.03, 300), warmup_steps(0, 300)
    (10, 9, 0)
    """
    return int(warmup) if warmup >= 1 else math.ceil(steps * warmup)


def rate_factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """The factor on the peak rate in the `step`-th of `steps` steps, counted from 1.

    A warm-up of w steps begins at 0 and reaches the peak in step w + 1. `linear` and `cosine` then fall towards 0,
    which they would reach in step `steps` + 1: transformers' `get_scheduler` (linear, cosine, constant_with_warmup).

    Args:
        schedule: one of `SCHEDULES`.
        warmup: steps, fewer than `steps`.

    >>> [rate_factor("linear", step, 6, 2) for step in range(1, 7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    done = step - 1
    if done < warmup:
        return done / warmup
    left = (steps - done) / max(1, steps - warmup)
    if schedule == "linear":
        return left
    return 0.5 * (1 + math.cos(math.pi * (1 - left))) if schedule == "cosine" else 1.0
