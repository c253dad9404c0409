"""What Ray costs: a sweep on a local cluster of two nodes with one CPU each, against two processes of this machine.

Every run is a pack of its own, since no two have as many steps: nothing costs Ray more, and both arms train the same
packs. The cluster stands before the clock starts, and the processes of the local arm have imported what they need; Ray
connects and starts its actors, with their imports, in each round, as in every sweep. The CPU seconds are those of the
whole machine, the cluster's own processes among them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import lorakit as lk
from lorabook.benchmarks.benchmark import Setting, in_turns, require_equal, to_record
from lorabook.benchmarks.outcome import clock
from lorabook.benchmarks.packed_sweep import BATCH, LENGTH, RANK
from lorakit.records import Record

RUNS, STEPS = 32, 1600
ROUNDS = 3  # each of them takes minutes
STORE = 80 * 2**20  # bytes that each node keeps for objects, the least that Ray takes


def ray_overhead(setting: Setting) -> Iterator[Record]:
    """The record of one sweep.

    Raises:
        MissingExtraError: Ray is not installed.
        RuntimeError: the arms do not train the same thing.
    """
    runs, steps = (2, 2) if setting.quick else (RUNS, STEPS)
    base = lk.SFTSpec(model="tiny", dataset="real-text", learning_rate=1e-3, lora=lk.LoRASpec(rank=RANK),
                      batch_size=BATCH, max_length=LENGTH, evaluations=2, evaluation_tokens=1)
    specs = lk.vary(base, steps=range(steps, steps + runs))

    def sweep(specs: list[Any], **where: Any) -> tuple[float, float, list[Record]]:
        with TemporaryDirectory() as folder:
            started, before = clock(), _busy()
            found = lk.run(specs, folder, device="cpu", processes=2, progress=False, **where)
            return clock() - started, _busy() - before, list(found)

    with two_nodes() as address:
        sweep(lk.vary(base, steps=[2, 3]))
        found = in_turns(setting, {"local": partial(sweep, specs),
                                   "ray": partial(sweep, specs, executor="ray", ray_address=address)}, ROUNDS)
    require_equal({name: {record.id: float(record.metrics["test_loss"] or 0) for record in rounds[-1][2]}
                   for name, rounds in found.items()}, 1e-6)
    shortest = min(record.provenance["seconds"] for _, _, records in found["local"] for record in records)
    metrics = {"shortest_run": shortest, **{f"{name}_cpu_seconds": median(busy for _, busy, _ in rounds)
                                            for name, rounds in found.items()}}
    yield to_record(setting, "ray-overhead", {"model": base.model, "rank": RANK, "runs": runs, "steps": steps,
                                              "batch_size": BATCH, "max_length": LENGTH, "processes": 2},
                    metrics, {name: [took for took, _, _ in rounds] for name, rounds in found.items()})


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of a head that trains nothing and two nodes of one CPU."""
    from lorakit.sweep.ray_cluster import require_ray

    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                                            "object_store_memory": STORE})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        yield cluster.address
    finally:
        cluster.shutdown()


def _busy() -> float:
    """CPU seconds that all processes of this machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
