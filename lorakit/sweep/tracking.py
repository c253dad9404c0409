"""Records in a tracker: each run of any engine as a run of trackio or Weights & Biases."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lorakit.analysis.frames import arm_name
from lorakit.records import Record
from lorakit.specs import read_spec

TRACKERS = ("trackio", "wandb")


class TrackingWarning(UserWarning):
    """Runs are recorded, but could not be sent to a tracker."""


class Tracker:
    """Sends records as they come, from any thread; what cannot be sent stops nothing.

    Args:
        name: `trackio` or `wandb`.
        project: of the tracker.
    """

    def __init__(self, name: str, project: str) -> None:
        require_tracker(name)
        self.name, self.project, self._failed = name, project, dict[str, str]()
        self._lock = threading.Lock()

    def send(self, record: Record) -> None:
        """Send one record."""
        with self._lock:
            try:
                track([record], self.name, self.project)
            except Exception as error:  # noqa: BLE001 - the run is recorded all the same
                self._failed[record.id] = f"{type(error).__name__}: {error}"

    def warn(self) -> None:
        """Say what could not be sent."""
        if self._failed:
            warnings.warn(f"{len(self._failed)} runs are recorded, but could not be sent to {self.name} ("
                          f"{', '.join(sorted(set(self._failed.values())))}): lorakit.track(records, {self.name!r}) "
                          "sends them again", TrackingWarning, stacklevel=3)


def require_tracker(tracker: Any) -> None:
    """Raise unless the tracker is one of `TRACKERS` (ValueError) and installed (ModuleNotFoundError)."""
    if tracker not in TRACKERS:
        raise ValueError(f"tracker {tracker!r} is none that records can be sent to; allowed: {', '.join(TRACKERS)}")
    if find_spec(tracker) is None:
        raise ModuleNotFoundError(f"{tracker} is not installed: `pip install {tracker}`, or leave the tracker out; "
                                  "lorakit.track(records, …) sends records later", name=tracker)


def track(records: Iterable[Record], to: str = "trackio", project: str = "lorakit") -> None:
    """Send records to trackio or Weights & Biases, a run each: the spec as configuration, the curve, the final numbers.

    The tracker's own settings (`WANDB_MODE`, `TRACKIO_DIR`, a login) are read by it from the environment. What is sent
    twice is there twice in trackio; in Weights & Biases the record's id is the run's.

    Args:
        records: of any engine, and of `Recorder`.
        to: `trackio` or `wandb`.
        project: of the tracker.

    Raises:
        ValueError: an unknown tracker.
        ModuleNotFoundError: it is not installed.
    """
    require_tracker(to)
    tracker = import_module(to)
    for record in records:
        spec, engine = read_spec(record.spec), record.provenance.get("engine")
        name = f"{arm_name(spec.lora, spec.full_targets)}, rate {spec.learning_rate:g}, seed {spec.seed}, {record.id}"
        own = {"id": f"{record.id}-{engine}", "resume": "allow"} if to == "wandb" else {}
        tracker.init(project=project, name=name, config=record.spec | {
            "id": record.id, "engine": engine, "status": record.status}, **own)
        points = [int(step) for step in record.curve.get("step", []) if step is not None]
        for place, step in enumerate(points):
            tracker.log(_numbers({column: values[place] for column, values in record.curve.items()}), step=step)
        tracker.log(_numbers({f"final/{name}": value for name, value in record.metrics.items()}),
                    step=points[-1] if points else 0)
        tracker.finish()


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and name != "step"}
