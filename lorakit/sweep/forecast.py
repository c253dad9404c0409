"""How long a pack will take, from its own first steps: a forecast that costs nothing where the pack goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from lorakit.result import evaluation_steps

WATCHED = 0.1  # share of the steps in which a pack may still be given up
DOUBT = 1.5  # the first step alone may mislead: it also warms caches


class OverBudgetError(RuntimeError):
    """A pack was given up in its first steps, since it would have ended after its time.

    Args:
        seconds: predicted for the whole pack.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the pack would take {seconds:.0f} s, more than is left")
        self.seconds = seconds


class Forecast:
    """Watches the steps of one pack. Steps with an evaluation are held apart from those without, which are faster.

    Args:
        steps, evaluations: of the specs.
        seconds_left: the pack is given up when it is predicted to take longer.
        warm_up: the first step also compiles: it tells nothing about those that follow.
    """

    def __init__(self, steps: int, evaluations: int, seconds_left: float,
                 clock: Callable[[], float] = time.perf_counter, warm_up: bool = False) -> None:
        self.steps, self.points, self.seconds_left = steps, set(evaluation_steps(steps, evaluations)), seconds_left
        self._clock, self._started = clock, clock()
        self._last, self._base = self._started, 0.0
        self._warm_up, self._plain = warm_up, list[float]()
        self._evaluated: list[float] = []

    def seen(self, step: int) -> None:
        """Enter the end of a step; step 0 is the end of the evaluation of the base.

        Raises:
            OverBudgetError: too late an end is predicted, in the first tenth of the steps.
        """
        now = self._clock()
        took, self._last = now - self._last, now
        if step == 0:
            self._base = took
            return
        if step == 1 and self._warm_up:
            return
        (self._evaluated if step in self.points else self._plain).append(took)
        if step > max(1, WATCHED * self.steps):
            return
        total = now - self._started + self._remaining(step)
        if total > self.seconds_left * (1 if self._plain else DOUBT):
            raise OverBudgetError(total)

    def _remaining(self, step: int) -> float:
        with_evaluation = sum(self._evaluated) / max(1, len(self._evaluated))
        # the base is evaluated on one text more than a point of the curve
        evaluation = min(2 / 3 * self._base, with_evaluation)
        plain = sum(self._plain) / len(self._plain) if self._plain else with_evaluation - evaluation
        points = sum(point > step for point in self.points)
        return (self.steps - step) * plain + points * max(0.0, with_evaluation - plain) + self._base
