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
from lorabook.benchmarks.grpo_parts import grpo_parts
from lorabook.benchmarks.packed_grpo import grpo_step, packed_grpo
from lorabook.benchmarks.packed_sweep import packed_sweep
from lorabook.benchmarks.ray_overhead import ray_overhead
from lorabook.benchmarks.refresh_time import refresh_time
from lorabook.benchmarks.step_times import ARMS, step_times
from lorabook.benchmarks.where_time_goes import where_time_goes
from lorakit.names import UnknownNameError
from lorakit.records import Record, Store

ON_A_CPU = ("P7", "P8", "profile", "Ray")  # they are about processes and files: no GPU is asked


def bench(only: Iterable[str] = (), setting: Setting | None = None, folder: Path | None = None) -> Iterator[Record]:
    """Time, and record each benchmark as soon as it is done.

    Args:
        only: names in `BENCHMARKS`; empty for all (without Ray where it is not installed).
        setting: device, sizes, and who hears of progress.
        folder: of the records; None for the book's own, which a rehearsal (`quick`) leaves as they are.

    Raises:
        UnknownNameError: no such benchmark.
        RuntimeError: two arms do not train the same thing.
    """
    only = list(only) or [name for name in BENCHMARKS if name != "Ray" or find_spec("ray")]
    setting = setting or Setting()
    for name in only:
        if name not in BENCHMARKS:
            raise UnknownNameError(f"no benchmark {name!r}; benchmarks: {', '.join(BENCHMARKS)}")
    store = Store(folder) if folder else None if setting.quick else results()
    return _records([name for name in BENCHMARKS if name in only], setting, store)


def _records(names: list[str], setting: Setting, store: Store | None) -> Iterator[Record]:
    for name in names:
        own = Setting("cpu", setting.quick, setting.say) if name in ON_A_CPU else setting
        for record in BENCHMARKS[name](own):
            if store is not None:
                store.append(own.profile, str(record.spec["name"]).removesuffix("-small").removesuffix("-tiny"), record)
            yield record


def _on_two_cores(setting: Setting) -> Iterator[Record]:
    with _two_processes() as pool:
        for which in ("small",) if setting.quick else ("small", "tiny"):
            yield from packed_sweep(which, setting, pool)
        yield from packed_grpo(setting, pool)


def _profiles(setting: Setting) -> Iterator[Record]:
    yield from where_time_goes(setting)
    yield from grpo_parts(setting)


BENCHMARKS: dict[str, Callable[[Setting], Iterator[Record]]] = {
    **{goal: partial(step_times, goal) for goal in ARMS}, "P6": grpo_step, "P7": _on_two_cores, "P8": refresh_time,
    "profile": _profiles, "Ray": ray_overhead}


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
