"""Train packs in worker processes: cut to what memory holds, retried when a process is lost, recorded as they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorakit.checkpoints import path_of, remove, unfinished
from lorakit.packed.packing import group, pack_key, split_evenly, trained_tokens, work
from lorakit.records import Record
from lorakit.specs import AnySpec
from lorakit.sweep.failures import without_folders
from lorakit.sweep.pool import Pool
from lorakit.sweep.progress import Progress
from lorakit.sweep.reservations import Reservations
from lorakit.sweep.workers import Worker, WorkerError

# Configurations in a pack. A CPU gains nothing beyond; a GPU waits for its kernels to be launched: a step of
# SmolLM2-135M, rank 16, 2 × 64 tokens, bfloat16, took an H200 145 ms for 1, 148 for 8 and 169 for 32 (November 2026).
LARGEST_PACK = {"cpu": 16, "cuda": 64}
RETRIES = 3  # of a whole pack whose process was lost
GRACE = 0.05  # of the time budget: a pack that was predicted to end in time may be so late, and is then stopped


@dataclass(frozen=True)
class Pack:
    """Specs that train together.

    Args:
        specs: with one `pack_key`.
        engine: that trains them.
        seconds: predicted for all of them by `plan`; 0 where nothing was predicted.
        lost: how often its process was lost.
    """

    specs: tuple[AnySpec, ...]
    engine: str = "packed"
    seconds: float = 0.0
    lost: int = 0


def packs_of(specs: Iterable[AnySpec], engine: str, processes: int, device: str = "cpu",
             fits: int | None = None) -> list[Pack]:
    """Packs of nearly equal size, the largest first, enough of them for all processes.

    Args:
        device: `cpu` or `cuda`, perhaps with a number: how large a pack pays.
        fits: configurations that memory holds at once, where that is known.
    """
    most = min(LARGEST_PACK[device.partition(":")[0]], sys.maxsize if fits is None else fits)
    packs = []
    for alike in group(specs):
        largest = min(most, max(4, -(-len(alike) // processes))) if engine == "packed" else 1
        packs += [Pack(tuple(part), engine) for part in split_evenly(alike, largest)]
    return sorted(packs, key=lambda pack: -_work(pack.specs))


def packs_again(folder: Path, specs: Iterable[AnySpec], engine: str) -> tuple[list[Pack], list[AnySpec]]:
    """The packs that were killed half-way and can be formed again from these specs, and the specs that remain."""
    left = {spec.id: spec for spec in specs}
    packs = [Pack(tuple(left.pop(name) for name in ids), engine) for by, ids in unfinished(folder)
             if by == engine and ids and left.keys() >= set(ids)]
    return packs, list(left.values())


def _work(specs: Iterable[AnySpec]) -> float:
    return float(sum(map(work, specs)))


@dataclass
class Training:
    """One call's training, and what went wrong in it.

    Args:
        workers: processes, one a thread.
        request: what every request to a worker holds besides its specs, such as `memory_share`.
        folder: of checkpoints.
        needed: the specs among those given that no record (or export) makes superfluous yet, for an engine.
        keep: gets each record as soon as its pack is done.
        reservations: of this process, among all that work on the store.
        progress: hears of all steps.
        deadline: `time.monotonic()` of the end of the time budget, or None.
        budget: seconds of it.
    """

    workers: Sequence[Worker]
    request: dict[str, Any]
    folder: Path
    needed: Callable[[Sequence[AnySpec], str], list[AnySpec]]
    keep: Callable[[Record], None]
    reservations: Reservations
    progress: Progress
    deadline: float | None = None
    budget: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)  # by id: why
    lost: dict[str, str] = field(default_factory=dict)  # not run, since their processes were lost
    unsaved: dict[str, str] = field(default_factory=dict)  # recorded, but not exported
    _fits: dict[Any, int] = field(default_factory=dict)  # by shape and engine: configurations in a pack
    _seconds: dict[Any, float] = field(default_factory=dict)  # by shape and engine: of a run
    _reported: bool = False

    def run(self, packs: Sequence[Pack]) -> None:
        """Train the packs; `failed`, `lost` and `unsaved` say what is not as it was wanted."""
        self._pool: Pool[Pack] = Pool(self.workers, self._train)
        self._pool.run(packs, None if self.deadline is None
                       else self.deadline + GRACE * self.budget - time.monotonic())

    def _train(self, worker: Worker, pack: Pack) -> None:
        try:
            with worker.placed():
                self._train_there(worker, pack)
        except WorkerError as error:  # it was lost before it had anything to do
            self._pool.push(self._after_loss(pack, error))

    def _train_there(self, worker: Worker, pack: Pack) -> None:
        names = {f"{spec.id}-{pack.engine}": spec for spec in pack.specs}
        taken = self.reservations.take(names)
        try:
            elsewhere = tuple(spec for name, spec in names.items() if name not in taken)
            if elsewhere:
                self._pool.wait_for(replace(pack, specs=elsewhere))
                if not self._reported:
                    self._reported = True
                    self.progress.say("another process trains some of these runs on the same store, and keeps them")
            mine = [names[name] for name in taken]
            todo = self.needed(mine, pack.engine)
            done = [spec for spec in mine if spec not in todo]
            self.progress.leave(id(worker), len(done), _work(done))
            rest = self._ask(worker, self._in_time(replace(pack, specs=tuple(todo)))) if todo else []
        finally:
            self.reservations.release(taken)
        self._pool.push(rest)

    def _in_time(self, pack: Pack) -> Pack:
        """The part of a pack that is predicted to end within the time budget; all of it where nothing is predicted."""
        if self.deadline is None:
            return pack
        left, seconds = self.deadline - time.monotonic(), self._seconds.get(_shape(pack), 0.0)
        if self._checkpoint_of(pack).exists():
            seconds = 0.0  # of the whole: nobody knows what the rest takes, and what is stopped goes on later
        count = 0 if left <= 0 else int(left / seconds) if seconds else len(pack.specs)
        return replace(pack, specs=pack.specs[:count])

    def _checkpoint_of(self, pack: Pack) -> Path:
        return path_of(self.folder, pack.engine, [spec.id for spec in pack.specs])

    def _end(self, pack: Pack) -> None:
        """Take away what a pack left half-way: it is recorded, or trained otherwise."""
        remove(self.folder, pack.engine, [spec.id for spec in pack.specs])

    def _ask(self, worker: Worker, pack: Pack) -> list[Pack]:
        """Train a pack; returns the packs that are to be trained instead or once more."""
        if not pack.specs:
            return []
        shape, count = _shape(pack), len(pack.specs)
        if count > self._fits.get(shape, count):
            return _cut(pack, self._fits[shape])
        left = None if self.deadline is None else self.deadline - time.monotonic()
        request = {"do": "run", "engine": pack.engine, "specs": [spec.to_json() for spec in pack.specs],
                   "seconds_left": left, **self.request}
        amount, started, through = _work(pack.specs), time.monotonic(), 0
        tokens = float(sum(map(trained_tokens, pack.specs)))

        def hear(event: dict[str, Any]) -> None:
            if "warning" in event:
                self.progress.warn(event["warning"])
            else:
                self.progress.step(id(worker), event, amount, tokens)

        try:
            event = worker.ask(request, hear)
            if event.get("fault"):
                worker.stop()  # what CUDA says once it says from then on, in this process
                raise WorkerError(f"{event['fault']} failed ({event['error'].splitlines()[0]})")
            if "records" in event:
                for record in event["records"]:
                    self.keep(Record.from_json(record))
                self.unsaved |= event.get("unsaved", {})
                self._end(pack)
                self._seconds[shape] = (time.monotonic() - started) / count
                through = count
            elif "fits" in event:
                self._fits[shape] = event["fits"]
                self._end(pack)
                return _cut(pack, event["fits"])
            elif "over_budget" in event:
                self._seconds[shape] = event["over_budget"] / count
                self._end(pack)
                return [pack]  # a part of it may still be in time
            else:
                rest = self._after_error(worker, pack, event)
                through = 0 if rest else count
                return rest
        except WorkerError as error:
            return self._after_loss(pack, error)
        finally:
            self.progress.leave(id(worker), through, amount if through else 0.0)
            if any(spec.use_vllm or spec.gpus > 1 for spec in pack.specs):
                worker.stop()  # vLLM gives its memory back only when its process ends; shares have trained the base
        return []

    def _after_error(self, worker: Worker, pack: Pack, event: dict[str, Any]) -> list[Pack]:
        if event.get("out_of_memory"):
            worker.stop()  # it gives back whatever is left
            if len(pack.specs) > 1:
                return self._halves(pack)
        if len(pack.specs) > 1 and not event.get("shared"):
            self._end(pack)
            return _cut(pack, 1)  # one by one they tell which of them is faulty
        for spec in pack.specs:
            self.failed[spec.id] = event["error"]
            made = {"error": without_folders(event["error"]), "engine": pack.engine}
            self.keep(Record.from_run(spec, "failed", {}, {}, made))
        return []

    def _after_loss(self, pack: Pack, error: WorkerError) -> list[Pack]:
        if self._pool.stopped:
            return []
        if error.out_of_memory and len(pack.specs) > 1:
            return self._halves(pack)
        if pack.lost < RETRIES:
            again = "goes on from its checkpoint" if self._checkpoint_of(pack).exists() else "is trained again"
            self.progress.warn(f"{str(error).rstrip('.')}; its pack of {len(pack.specs)} {again}")
            return [replace(pack, lost=pack.lost + 1)]
        self.lost |= {spec.id: str(error) for spec in pack.specs}
        return []

    def _halves(self, pack: Pack) -> list[Pack]:
        half = -(-len(pack.specs) // 2)
        self._fits[_shape(pack)] = half
        self._end(pack)
        return _cut(pack, half)


def _cut(pack: Pack, largest: int) -> list[Pack]:
    return [replace(pack, specs=tuple(part)) for part in split_evenly(pack.specs, largest)]


def _shape(pack: Pack) -> tuple[Any, ...]:
    return pack.engine, pack_key(pack.specs[0])
