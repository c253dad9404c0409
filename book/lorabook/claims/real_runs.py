"""The runs of SmolLM2-135M in their kinds: those that screen rates, those on fresh seeds, those of the first steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lorabook.claims import rl_tasks, smollm2
from lorabook.claims.decisions import OPEN, UNTESTED, Finding
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import by_seed, improvement
from lorabook.experiments.smollm2 import FRESH
from lorakit.analysis.curves import best_rate_by_validation, losses_at
from lorakit.analysis.statistics import GridEdgeError, Interval, paired_difference
from lorakit.theory.capacity import BITS_PER_PARAMETER

RL_FRESH = 5
ONE = "rank 1"


class NotYetError(LookupError):
    """Runs that a rule needs have no record."""


def each_dataset(evidence: Evidence, judge: Callable[[str], Finding],
                 wanted: Collection[str] = ()) -> dict[str, Finding]:
    """`judge` on each dataset, or what keeps it from being judged: by their names.

    Args:
        wanted: names of the datasets that are asked; empty for all.
    """
    found = {}
    for dataset in sorted({*evidence.datasets, *evidence.unfinished}):
        if wanted and dataset.partition("@")[0] not in wanted:
            continue
        if missing := evidence.unfinished.get(dataset):
            found[dataset] = Finding(UNTESTED, f"Needs every run of its experiments; {missing} have no record.")
            continue
        try:
            found[dataset] = judge(dataset)
        except NotYetError as error:
            found[dataset] = Finding(UNTESTED, str(error))
        except GridEdgeError as error:
            found[dataset] = Finding(OPEN, f"{error}. The grid is to be widened for every arm first.")
    return found


@dataclass(frozen=True)
class Runs:
    """The runs of one dataset at one profile, in their three kinds.

    Args:
        curves, metrics: of `tidy` and `runs`.
        fresh_seeds: that a verdict at the chosen rate needs.
    """

    curves: pd.DataFrame
    metrics: pd.DataFrame
    fresh_seeds: int = smollm2.CONFIRMED

    def _of(self, kind: pd.Series) -> pd.DataFrame:
        return self.curves[self.curves["id"].isin(self.metrics.loc[kind, "id"])]

    @cached_property
    def screened(self) -> pd.DataFrame:
        """Curves of the runs that screen rates."""
        return self._of((self.metrics["seed"] < FRESH.start) & (self.metrics["steps"] > smollm2.EARLY_STEPS))

    @cached_property
    def fresh(self) -> pd.DataFrame:
        """Curves of the runs on fresh seeds."""
        return self._of((self.metrics["seed"] >= FRESH.start) & (self.metrics["steps"] > smollm2.EARLY_STEPS))

    @cached_property
    def early(self) -> pd.DataFrame:
        """Curves of the first steps."""
        return self._of(self.metrics["steps"] <= smollm2.EARLY_STEPS)

    def screen(self, *arms: str) -> pd.DataFrame:
        """The screened curves of some arms.

        Raises:
            NotYetError: one was not screened.
        """
        missing = [arm for arm in arms if arm not in set(self.screened["arm"])]
        if missing:
            raise NotYetError(f"Rates are not screened yet for {', '.join(missing)}.")
        return self.screened[self.screened["arm"].isin(arms)]

    @cached_property
    def _ends(self) -> pd.DataFrame:
        """The last row of every screened and fresh run."""
        return losses_at(self._of(self.metrics["steps"] > smollm2.EARLY_STEPS))

    def chosen(self, arm: str) -> float:
        """The arm's rate of least mean validation loss at the end of the screened runs.

        Raises:
            GridEdgeError: it is an end of the grid.
        """
        screened = self.screen(arm)["id"]
        ends = self._ends[self._ends["id"].isin(screened)]
        return float(best_rate_by_validation(ends)["learning_rate"].iloc[0])

    def confirmed(self, arm: str, column: str = "test_loss") -> dict[int, float]:
        """A column at the end, on the fresh seeds at the arm's chosen rate, by seed.

        Raises:
            NotYetError: fewer seeds than the verdict needs.
        """
        rate = self.chosen(arm)
        rows = self._ends[(self._ends["seed"] >= FRESH.start) & (self._ends["learning_rate"] == rate)]
        found = by_seed(rows, arm, column)
        if len(found) < self.fresh_seeds:
            raise NotYetError(f"Needs {self.fresh_seeds} fresh seeds of {arm} at its chosen rate, {rate:g}; there are "
                              f"{len(found)}.")
        return found

    def improvement(self) -> Interval:
        """Of full fine-tuning over the base on the fresh seeds, in nats."""
        return improvement(self.confirmed("full"), self.metrics)

    def gain(self) -> float:
        """100 %: full fine-tuning's mean improvement over the base on the fresh seeds.

        Raises:
            NotYetError: it is not clearly above zero, so that nothing can be measured in it.
        """
        span = self.improvement()
        if span.low <= 0:
            raise NotYetError("Full fine-tuning did not clearly improve on the base.")
        return span.mean


@dataclass(frozen=True)
class RLRuns(Runs):
    """The runs of one RL task; accuracies instead of losses."""

    fresh_seeds: int = RL_FRESH

    @property
    def base(self) -> float:
        """Test accuracy of the base."""
        return float(self.metrics["base_test_accuracy"].mean())

    def improvement(self) -> Interval:
        """Of full fine-tuning over the base on the fresh seeds, in test accuracy."""
        reached = self.confirmed("full", "test_accuracy")
        return paired_difference(reached, dict.fromkeys(reached, self.base))

    @cached_property
    def room(self) -> float:
        """Bits that rank 1 holds, two a weight, over those that the rewards told full fine-tuning."""
        full = self.curves[(self.curves["arm"] == "full") & (self.curves["learning_rate"] == self.chosen("full"))]
        held = self.metrics.loc[self.metrics["arm"] == ONE, "parameters"].max() * BITS_PER_PARAMETER
        return float(held / rl_tasks.told(full)["bits"].mean())

    @property
    def precondition(self) -> str:
        """The source's precondition in words.

        Raises:
            NotYetError: rank 1 has less room than the source supposes.
        """
        said = f"Rank 1 holds {self.room:.3g} times the bits that the rewards told full fine-tuning"
        if self.room < rl_tasks.ROOM:
            raise NotYetError(f"{said}: less than the {rl_tasks.ROOM:g} times that the source supposes.")
        return f"{said}."

    def heaps(self, reached: Mapping[str, Mapping[int, float]]) -> str:
        """Counts of success where the runs end in two heaps, in a sentence."""
        if (middle := rl_tasks.between_heaps(reached.values(), self.base)) is None:
            return ""
        counts = ", ".join(f"{name} {sum(value > middle for value in arm.values())} of {len(arm)}"
                           for name, arm in reached.items())
        return f"The runs end in two heaps; in the upper one: {counts}."
