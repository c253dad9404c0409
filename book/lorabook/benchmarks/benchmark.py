"""What every benchmark shares: arms in turns, medians with their range over the first arm, and the record."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from lorabook.benchmarks.measured import Measured
from lorabook.benchmarks.outcome import clock
from lorabook.claims.speed_goals import RESULTS
from lorakit.records import Record, Store

T = TypeVar("T")
Parts = list[list[Any]]  # the specs of each process


@dataclass(frozen=True)
class Benchmark(Measured):
    """What was timed; the `spec` of its record."""

    kind = "benchmark"
    name: str
    fields: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, **self.fields}


@dataclass(frozen=True)
class Setting:
    """How benchmarks are run.

    Args:
        device: `cpu` or `cuda`.
        quick: sizes that take seconds, to see that everything runs.
        say: is called with a line now and then.
    """

    device: str = "cpu"
    quick: bool = False
    say: Callable[[str], None] = print

    @property
    def profile(self) -> str:
        """Of the records."""
        return "cpu" if self.device == "cpu" else "gpu"

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 5


def results() -> Store:
    """The committed records of benchmarks."""
    return Store(RESULTS)


def in_turns(setting: Setting, arms: Mapping[str, Callable[[], T]], most: int = 5) -> dict[str, list[T]]:
    """What each arm gives in every round, of which there are `most` at the most: A B C A B C …"""
    found: dict[str, list[T]] = {name: [] for name in arms}
    rounds = min(setting.rounds, most)
    for number in range(rounds):
        setting.say(f"round {number + 1} of {rounds}")
        for name, arm in arms.items():
            found[name].append(arm())
    return found


class Round(NamedTuple):
    """What one arm did in one round.

    Args:
        started: the clock when its processes got their specs.
        seconds: until all had answered; where it trained some of the runs, what all would have taken.
        answers: of each process.
    """

    started: float
    seconds: float
    answers: list[Any]


def in_processes(setting: Setting, pool: Any, runs: int, arms: Mapping[str, tuple[Callable[..., Any], Parts]],
                 ) -> dict[str, list[Round]]:
    """The rounds of each arm: a function of specs and device, and the specs that each process gets.

    Args:
        pool: of the processes; their imports and first touches are outside the clock.
        runs: that every arm stands for.
    """
    def ask(function: Callable[..., Any], parts: Parts) -> Round:
        started = clock()
        answers = pool.starmap(function, [(part, "cpu") for part in parts], chunksize=1)
        return Round(started, runs / sum(map(len, parts)) * (clock() - started), answers)

    for function, parts in () if setting.quick else arms.values():
        ask(function, [part[:1] for part in parts])
    return in_turns(setting, {name: partial(ask, *arm) for name, arm in arms.items()})


def by_run(parts: Parts, answers: Sequence[Sequence[T]]) -> dict[str, T]:
    """What the processes answered for each run, by its id."""
    return {spec.id: one for part, answer in zip(parts, answers, strict=True)
            for spec, one in zip(part, answer, strict=True)}


def spread(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Medians of each arm's seconds, and of its ratios to the first arm round by round, with their range."""
    first = next(iter(seconds))
    metrics = {f"{name}_seconds_median": statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        ratios = [mine / other for mine, other in zip(values, seconds[first], strict=True)]
        if name != first:
            metrics |= {f"{name}_over_{first}_median": statistics.median(ratios),
                        f"{name}_over_{first}_low": min(ratios), f"{name}_over_{first}_high": max(ratios)}
    return metrics


def words(record: Record) -> str:
    """A record's ratios in a line, or all that it holds where nothing is compared."""
    ratios = [f"{name.removesuffix('_median').replace('_over_', ' / ')} {value:.3g}"
              f" ({record.metrics[name.replace('_median', '_low')]:.3g} to "
              f"{record.metrics[name.replace('_median', '_high')]:.3g})"
              for name, value in record.metrics.items() if "_over_" in name and name.endswith("_median")]
    return f"{record.spec['name']}: " + ", ".join(
        ratios or [f"{name} {value:.4g}" for name, value in record.metrics.items()])


def require_equal(losses: Mapping[str, Mapping[str, float]], tolerance: float) -> None:
    """Raise RuntimeError unless every arm has the first one's losses, by the id of the run."""
    first = next(iter(losses), "")
    for name, found in losses.items():
        apart = [abs(losses[first][run] - loss) for run, loss in found.items()]
        if not all(one <= tolerance for one in apart):  # `max` would lose a NaN
            raise RuntimeError(f"{name} and {first} disagree by {max(apart):.2g} nats (allowed: {tolerance:g}): the "
                               "arms do not train the same thing, so their times cannot be compared")


def to_record(setting: Setting, name: str, fields: dict[str, Any], metrics: Mapping[str, Any],
              seconds: Mapping[str, Sequence[float]] | None = None) -> Record:
    """The record of a benchmark, with its arms' `seconds` by round, and their `spread`, before its other metrics."""
    from lorakit.sweep.worker import device_name, versions

    made = {**versions(), "device": device_name(setting.device), "load": round(os.getloadavg()[0], 2)}
    curve = {"round": range(1, 1 + max(map(len, seconds.values()))), **seconds} if seconds else {}
    return Record.from_run(Benchmark(name, fields), "ok", {**(spread(seconds) if seconds else {}), **metrics}, curve,
                           made)
