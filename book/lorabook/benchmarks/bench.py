"""The book's benchmarks as one call that needs nothing but the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lorabook.benchmarks.benchmark import Setting, results
from lorakit.names import UnknownNameError
from lorakit.records import Record, Store

QUESTIONS = {
    "P1": "a LoRA sweep in a pack, against one run after another, over tokens a step; and its memory",
    "P2": "a sweep of full fine-tuning in a pack, against TRL",
    "P3": "one LoRA run, against TRL",
    "P4": "operations a second, of what a matrix product reaches",
    "P5": "a LoRA step over a full one",
    "P6": "a step of GRPO, against TRL",
    "P7": "two cores: 16 runs in packs against PEFT, time-slicing, vmap and TRL, supervised and GRPO",
    "P8": "a refresh with nothing to do, after an edit of prose, and after one changed configuration",
    "profile": "where the time of P7's packs goes, and of what they are held against",
    "Ray": "32 runs on a cluster of two nodes on this machine, against two processes",
}
ON_A_CPU = ("P7", "P8", "profile", "Ray")  # they are about processes and files: no GPU is asked


def bench(only: Iterable[str] = (), setting: Setting | None = None, folder: Path | None = None) -> Iterator[Record]:
    """Time, and record each benchmark as soon as it is done.

    Args:
        only: names in `QUESTIONS`; empty for all (without Ray where it is not installed).
        setting: device, sizes, and who hears of progress.
        folder: of the records; None for the book's own, which a rehearsal (`quick`) leaves as they are.

    Raises:
        UnknownNameError: no such benchmark.
        RuntimeError: two arms do not train the same thing.
    """
    only = list(only) or [name for name in QUESTIONS if name != "Ray" or find_spec("ray")]
    setting = setting or Setting()
    for name in only:
        if name not in QUESTIONS:
            raise UnknownNameError(f"no benchmark {name!r}; benchmarks: {', '.join(QUESTIONS)}")
    store = Store(folder) if folder else None if setting.quick else results()
    return _records([name for name in QUESTIONS if name in only], setting, store)


def _records(names: list[str], setting: Setting, store: Store | None) -> Iterator[Record]:
    for name in names:
        own = Setting("cpu", setting.quick, setting.say) if name in ON_A_CPU else setting
        for record in _run(name, own):
            if store is not None:
                store.append(own.profile, str(record.spec["name"]).removesuffix("-small").removesuffix("-tiny"), record)
            yield record


def _run(name: str, setting: Setting) -> Iterator[Record]:
    if name == "P7":
        from lorabook.benchmarks.packed_grpo import packed_grpo
        from lorabook.benchmarks.packed_sweep import packed_sweep

        with _two_processes() as pool:
            for which in ("small",) if setting.quick else ("small", "tiny"):
                yield from packed_sweep(which, setting, pool)
            yield from packed_grpo(setting, pool)
        return
    if name == "profile":
        from lorabook.benchmarks.grpo_parts import grpo_parts
        from lorabook.benchmarks.where_time_goes import where_time_goes

        yield from where_time_goes(setting)
        yield from grpo_parts(setting)
        return
    yield from _function(name)(setting)


def _function(name: str) -> Callable[[Setting], Iterator[Record]]:
    if name == "P8":
        from lorabook.benchmarks.refresh_time import refresh_time

        return refresh_time
    if name == "Ray":
        from lorabook.benchmarks.ray_overhead import ray_overhead

        return ray_overhead
    if name == "P6":
        from lorabook.benchmarks.packed_grpo import grpo_step

        return grpo_step
    from lorabook.benchmarks.step_times import step_times

    return partial(step_times, name)


@contextmanager
def _two_processes() -> Iterator[Any]:
    """A pool whose processes have one thread each."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        pool = get_context("spawn").Pool(2)
        try:
            yield pool
        finally:
            pool.close()
            pool.join()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
