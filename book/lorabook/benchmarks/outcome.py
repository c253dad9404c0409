"""What an arm of a supervised benchmark gives back: losses, and the time at which each step of each run had ended."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

clock = time.perf_counter  # one clock for all processes of a machine


@dataclass(frozen=True)
class Outcome:
    """Of one call of an arm.

    Args:
        losses: of each run, mean training loss behind the last evaluation but one.
        ends: (runs, steps) the clock when a step had ended.
    """

    losses: list[float]
    ends: list[list[float]]

    def step(self) -> float:
        """Median seconds of a step of one run, the first left out; in a pack its share of the pack's step."""
        shared = len(self.ends) if all(ends == self.ends[0] for ends in self.ends) else 1
        return statistics.median((b - a) / shared for ends in self.ends for a, b in pairwise(ends))


def until(outcomes: Sequence[Outcome], share: float, started: float) -> float:
    """Seconds from `started` until every run of all processes has seen this share of its data."""
    return max(ends[math.ceil(share * len(ends)) - 1] for outcome in outcomes for ends in outcome.ends) - started
