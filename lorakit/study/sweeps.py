"""Run many specs: packs by shape and rank, predicted by a probe, trained in worker processes, resumable."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorakit import MissingExtraError
from lorakit.epochs import StaleRecordsWarning
from lorakit.epochs import stale as stale_records
from lorakit.grpo_spec import GRPOSpec, read_spec
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec
from lorakit.study.devices import Devices
from lorakit.study.workers import Worker, WorkerError
from lorakit.train.packing import group, split_evenly

PROBE_SPECS = 4
LARGEST_PACK = 16
MEMORY_SHARE = 0.6  # of the free memory that the packs of all processes may be predicted to fill
ENGINES = ("packed", "trl", "peft")
AnySpec = SFTSpec | GRPOSpec


class SweepError(RuntimeError):
    """Some runs failed; every other run is recorded. The message lists each failed run and why."""


@dataclass(frozen=True)
class Pack:
    """Specs that train together, with the seconds that a probe predicts for them."""

    specs: tuple[AnySpec, ...]
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What is still to be run.

    Args:
        packs: the longest first; empty when nothing is missing.
        missing: specs without a result.
        stale: records of another numerical epoch.
        seconds: predicted wall-clock time on `processes` processes.
    """

    packs: tuple[Pack, ...]
    missing: tuple[AnySpec, ...]
    stale: tuple[Record, ...]
    seconds: float
    processes: int


def run(specs: Sequence[AnySpec], store: Store | str | Path = "lorakit-runs", *, profile: str = "cpu",
        experiment: str = "runs", engine: str = "packed", device: str | None = None, processes: int | None = None,
        time_budget: float | None = None, report_to: str = "none", save_to: str | Path | None = None,
        stale: str = "keep", progress: bool | None = None) -> list[Record]:
    """Train every spec that the store has no result for, and return all results.

    Args:
        specs: what to run, for example from `vary`.
        store: where records are kept; a run that it holds is not trained again, so a killed sweep resumes.
        profile, experiment: name the file of the new records, `<store>/<profile>/<experiment>.jsonl`.
        engine: `packed` (many configurations at once), or one after another `trl` (the reference arm) or `peft` (a
            plain loop, for models with fused experts).
        device: `cpu`, `cuda` (all visible GPUs, a process each) or one such as `cuda:1`; None takes GPUs if there are.
        processes: worker processes of one thread each; None: one a core up to two, one a GPU.
        time_budget: seconds; no pack is started that is predicted to end later. What is left stays missing.
        report_to: TRL's (`none`, `trackio`, …); the packed engine reports to the store alone.
        save_to: a folder for the trained adapters, one subfolder an id, in PEFT's format.
        stale: what becomes of records of another numerical epoch: `keep` returns them with a warning, `retrain`
            trains their specs again; the older lines stay in the file.
        progress: show runs done and the time left on standard error; None: only on a terminal.

    Returns:
        One record a spec, in their order; specs left out by the time budget have none.

    Raises:
        ValueError: no specs, supervised and RL specs in one list, or an unknown engine.
        SweepError: some runs failed; raised after all others have been recorded.

    Warns:
        StaleRecordsWarning: records of another numerical epoch were kept.
    """
    if not specs:
        raise ValueError("no specs to run: the list is empty")
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; allowed: {', '.join(ENGINES)}")
    if stale not in ("keep", "retrain"):
        raise ValueError(f"stale={stale!r}; allowed: 'keep' (return old records, with a warning) or 'retrain'")
    if len({spec.kind for spec in specs}) > 1:
        raise ValueError("the list holds supervised and RL specs: run them in two calls, since their code differs")
    _require_training_packages()
    store = store if isinstance(store, Store) else Store(store)
    sweep = _Sweep(store, profile, experiment, engine, device, processes, report_to, save_to, progress)
    unique = list({spec.id: spec for spec in specs}.values())
    with sweep.stack:
        todo = store.missing(unique)
        old = _stale(store, unique, engine)
        if old and stale == "keep":
            warnings.warn(f"{experiment}: {len(old)} of {len(unique)} records belong to another numerical epoch, so "
                          "today's code would give other numbers; stale='retrain' trains them again",
                          StaleRecordsWarning, stacklevel=2)
        todo += [read_spec(record.spec) for record in old if stale == "retrain"]
        if todo and todo[0].kind == "grpo" and len(todo) < len(unique):
            print(f"{experiment}: {len(unique) - len(todo)} runs are recorded; {len(todo)} RL runs start at their "
                  "first step, also those that were cut short: they keep nothing half-way", file=sys.stderr)
        if todo:
            sweep.train(sweep.pack(todo), time_budget, lambda record: store.append(profile, experiment, record))
    if sweep.failures:
        raise SweepError(f"{len(sweep.failures)} of {len(unique)} runs failed, the others are recorded:\n" +
                         "\n".join(f"  {spec_id}: {why}" for spec_id, why in sweep.failures.items()))
    found = store.find(spec.id for spec in specs)
    _warn_of_silence(found.values())
    return [found[spec.id] for spec in specs if spec.id in found]


def _warn_of_silence(records: Iterable[Record]) -> None:
    for record in records:
        if record.metrics.get("groups_with_spread") == 0:
            from lorakit.train.episodes import NoRewardWarning, no_reward

            warnings.warn(no_reward(record.id), NoRewardWarning, stacklevel=3)


def plan(specs: Sequence[AnySpec], store: Store | str | Path = "lorakit-runs", *, engine: str = "packed",
         device: str | None = None, processes: int | None = None) -> Plan:
    """What `run` would train, with the time that a short probe of each shape predicts; nothing is recorded."""
    store = store if isinstance(store, Store) else Store(store)
    _require_training_packages()
    unique = list({spec.id: spec for spec in specs}.values())
    missing, old = store.missing(unique), _stale(store, unique, engine)
    sweep = _Sweep(store, "cpu", "plan", engine, device, processes, "none", None, False)
    with sweep.stack:
        packs = sweep.pack(missing) if missing else []
    processes = len(sweep.workers) if packs else processes or 1
    seconds = max([0.0, sum(p.seconds for p in packs) / processes, *(p.seconds for p in packs)])
    return Plan(tuple(packs), tuple(missing), tuple(old), seconds, processes)


def _require_training_packages() -> None:
    for package in ("torch", "transformers", "peft"):
        try:
            found = find_spec(package) is not None
        except ValueError:  # blocked by None in sys.modules
            found = False
        if not found:
            raise MissingExtraError(f"training needs the package {package!r}: run "
                                    "`pip install '.[train]'` in a clone of lorakit", name=package)


def _stale(store: Store, specs: Sequence[AnySpec], engine: str) -> list[Record]:
    mine = [r for r in store.find(spec.id for spec in specs).values() if r.provenance.get("engine") == engine]
    return stale_records(mine)


class _Sweep:
    """The workers of one call, what they are doing, and what went wrong."""

    def __init__(self, store: Store, profile: str, experiment: str, engine: str, device: str | None,
                 processes: int | None, report_to: str, save_to: str | Path | None, progress: bool | None) -> None:
        self.store, self.profile, self.experiment, self.engine = store, profile, experiment, engine
        self.devices = Devices(device, processes)
        self.options = {"report_to": report_to, "save_to": None if save_to is None else str(Path(save_to).absolute())}
        self.progress = sys.stderr.isatty() if progress is None else progress
        self.failures: dict[str, str] = {}
        self.stack = ExitStack()
        self._lock = threading.Lock()

    @cached_property
    def workers(self) -> list[Worker]:
        """Asked for only where something is to be done: that is when a GPU must be there."""
        device = self.devices.device.partition(":")[0]
        return [self.stack.enter_context(Worker(device, visible=gpu)) for gpu in self.devices.processes]

    def each(self, jobs: list[Any], do: Callable[[Worker, Any], None]) -> None:
        """Let every worker take jobs from the front of `jobs` until none is left; `do` may push new ones."""
        errors: list[BaseException] = []

        def serve(worker: Worker) -> None:
            while not errors:
                with self._lock:
                    if not jobs:
                        return
                    job = jobs.pop(0)
                try:
                    do(worker, job)
                except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                    errors.append(error)

        threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: finished packs are recorded, the rest stays missing
            jobs.clear()
            for worker in self.workers:
                worker.stop()
            raise
        if errors:
            raise errors[0]

    def pack(self, specs: Sequence[AnySpec]) -> list[Pack]:
        """Packs of the specs, the longest first, none predicted to need more than its share of the memory."""
        packs: list[Pack] = []

        def probe(worker: Worker, specs: list[AnySpec]) -> None:
            try:
                event = worker.ask({"do": "probe", "engine": self.engine,
                                    "specs": [spec.to_json() for spec in specs[:PROBE_SPECS]]})
            except WorkerError as error:
                event = {"error": str(error)}
            # A probe that fails says nothing about the other specs: one by one they fail for themselves.
            facts = event.get("probe", {"seconds": 60.0, "bytes": 1.0, "free_bytes": 0.0})
            fits = int(MEMORY_SHARE * facts["free_bytes"] / self.devices.sharing / facts["bytes"])
            largest = min(LARGEST_PACK, max(1, fits), max(4, -(-len(specs) // len(self.workers))))
            largest = largest if self.engine == "packed" else 1
            with self._lock:
                packs.extend(Pack(tuple(p), len(p) * facts["seconds"]) for p in split_evenly(specs, largest))

        self.each(group(specs), probe)
        return sorted(packs, key=lambda pack: -pack.seconds)

    def train(self, packs: list[Pack], time_budget: float | None, keep: Callable[[Record], None]) -> None:
        """Train the packs; `keep` gets each record as soon as its pack is done."""
        meter = _Meter(self.experiment, packs, len(self.workers), self.progress)
        deadline = None if time_budget is None else time.monotonic() + time_budget
        jobs = list(packs)

        def train(worker: Worker, pack: Pack) -> None:
            if deadline is not None and time.monotonic() + pack.seconds * meter.slowness > deadline:
                return
            request = {"do": "run", "engine": self.engine, "specs": [s.to_json() for s in pack.specs], **self.options}
            started = time.monotonic()
            try:
                event = worker.ask(request, lambda step, steps: meter.show())
            except WorkerError as error:
                event = {"error": str(error)}
            if any(getattr(spec, "use_vllm", False) for spec in pack.specs):
                worker.stop()  # vLLM gives its memory and its process group back only when its process ends
            if "records" in event:
                for record in event["records"]:
                    keep(Record.from_json(record))
                meter.done(pack, time.monotonic() - started)
            elif len(pack.specs) > 1:  # halves tell the faulty run from its neighbours, and need half the memory
                with self._lock:
                    jobs[:0] = [Pack(tuple(half), pack.seconds / 2)
                                for half in split_evenly(pack.specs, -(-len(pack.specs) // 2))]
            else:
                spec = pack.specs[0]
                self.failures[spec.id] = event["error"]
                keep(Record.from_run(spec, "failed", {}, {}, {"error": event["error"], "engine": self.engine}))
                meter.done(pack, time.monotonic() - started)

        self.each(jobs, train)
        meter.show(last=True)


class _Meter:
    """Runs done and the time left, from the predictions scaled by how they have come true so far."""

    def __init__(self, name: str, packs: Sequence[Pack], processes: int, visible: bool) -> None:
        self.name, self.processes, self.visible = name, processes, visible
        self.runs, self.left = sum(len(pack.specs) for pack in packs), sum(pack.seconds for pack in packs)
        self.finished, self.predicted, self.taken, self.shown = 0, 0.0, 0.0, 0.0

    @property
    def slowness(self) -> float:
        """Seconds taken for each second predicted, 1 until something is done."""
        return self.taken / self.predicted if self.predicted else 1.0

    def done(self, pack: Pack, seconds: float) -> None:
        self.finished += len(pack.specs)
        self.left -= pack.seconds
        self.predicted, self.taken = self.predicted + pack.seconds, self.taken + seconds
        self.show()

    def show(self, last: bool = False) -> None:
        if self.visible and (last or time.monotonic() - self.shown > 5):
            self.shown = time.monotonic()
            left = max(0.0, self.left) * self.slowness / self.processes
            print(f"{self.name}: {self.finished} of {self.runs} runs, about {left / 60:.0f} min left",
                  file=sys.stderr, flush=True)
