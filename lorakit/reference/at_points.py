"""What is done between the steps of a Trainer: after every one, or at the points of a curve, where a row is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from transformers import TrainerCallback

Measured = dict[str, float]


class AfterStep(TrainerCallback):
    """Does something after every step of the optimizer.

    Args:
        do: gets the trainer's state.
    """

    def __init__(self, do: Callable[[Any], None]) -> None:
        self.do = do

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do it."""
        self.do(state)


class AtPoints(TrainerCallback):
    """Measures at the log-spaced steps of a curve, after the optimizer's step.

    Args:
        points: steps, counted from 1.
        measure: what is measured at each: losses, accuracies, …, by name.
        close: gets the step and what was measured.
    """

    def __init__(self, points: Iterable[int], measure: Callable[[], Measured],
                 close: Callable[[int, Measured], None]) -> None:
        self.points, self.measure, self.close = set(points), measure, close

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure if this step is a point."""
        if state.global_step in self.points:
            self.close(state.global_step, self.measure())
