"""What every benchmark shares: arms in turns, medians with their range over the first arm, and the record."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorakit.records import Record, Store

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Benchmark:
    """What was timed; the `spec` of its record."""

    name: str
    fields: dict[str, Any]

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "benchmark", "name": self.name, **self.fields}


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


def in_turns(setting: Setting, arms: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each arm gives in every round: A B C A B C …"""
    found: dict[str, list[T]] = {name: [] for name in arms}
    for _ in range(setting.rounds):
        for name, arm in arms.items():
            found[name].append(arm())
    return found


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


def to_record(setting: Setting, name: str, fields: dict[str, Any], metrics: dict[str, Any],
              curve: Mapping[str, Sequence[float]] | None = None, **more: Any) -> Record:
    """The record of a benchmark; `more` is provenance besides versions, device and the machine's load."""
    from lorakit.sweep.worker import device_name, versions

    made = {**versions(), "device": device_name(setting.device), "load": round(os.getloadavg()[0], 2), **more}
    return Record.from_run(Benchmark(name, fields), "ok", metrics, dict(curve or {}), made)
