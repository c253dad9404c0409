"""The nodes of a Ray cluster in place of this machine's processes: how many packs they hold at once, and on what."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import lorakit
from lorakit import MissingExtraError
from lorakit.log import log
from lorakit.sweep.devices import DeviceError
from lorakit.sweep.workers import Worker

SECONDS_TO_ANSWER = 30.0  # of a head node, and of a node that says what it has
MOST_PACKS = 256  # at once; one more waits for its turn here and not on the cluster


class ClusterError(ConnectionError):
    """There is no Ray cluster at an address, or its nodes cannot train."""


@dataclass
class Cluster(AbstractContextManager["Cluster"]):
    """What `Devices` is for one machine: the device that a caller asks for, and how many packs train on it at once.

    Args:
        address: of the head node, `HOST:PORT`; None takes the connection of this process, `$RAY_ADDRESS`, or the
            cluster that runs on this machine.
        named: `cpu` or `cuda`, or None: `$LORAKIT_DEVICE`, else `cuda` if a node has a GPU.
        wanted: packs at once, or None: as many as there are GPUs (or CPUs), also of nodes that join later.
        folder: of the store, for a file that the nodes see if they share its disk.

    Raises:
        ValueError: another device, or an address that no driver of a cluster can have.
    """

    address: str | None = None
    named: str | None = None
    wanted: int | None = None
    folder: Path = Path()
    mark: Path = field(init=False)
    _ours: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.named = self.named or os.environ.get("LORAKIT_DEVICE")
        if self.named not in (None, "cpu", "cuda"):
            raise ValueError(f"device={self.named!r}; allowed with Ray: cpu or cuda (Ray chooses the GPU of a pack)")
        self.address = self.address or os.environ.get("RAY_ADDRESS") or None
        if self.address is not None and self.address.startswith("ray://"):
            raise ValueError(f"the address {self.address!r} is Ray Client's, which cannot stream what actors say: call "
                             "this on a node of the cluster (`ray job submit`), with HOST:PORT of its head, or `auto`")
        require_ray()
        self.mark = self.folder.absolute() / f".{uuid4().hex}"

    def __enter__(self) -> Cluster:
        """Connect.

        Raises:
            ClusterError: nobody answers there, or nodes lack what trains.
            DeviceError: no node has a GPU, and one was asked for.
        """
        import ray

        if not ray.is_initialized():
            self._connect()
        try:
            self._check_nodes()
            if not self.processes:
                what = "GPU" if self.device == "cuda" else "CPU"
                raise DeviceError(f"nothing was trained: no node of the Ray cluster offers a {what} now; start one "
                                  f"with `ray start --address=HOST:6379 --num-{what.lower()}s=N`"
                                  + (", or take device='cpu'" if what == "GPU" else ""))
            self.mark.touch()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self.mark.unlink(missing_ok=True)
        if self._ours:
            ray.shutdown()

    def _connect(self) -> None:
        import ray

        host, _, port = (self.address or "auto").rpartition(":")
        try:
            if self.address not in (None, "auto", "local"):
                # Ray itself tries for half a minute and may then end the whole process
                socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
            ray.init(self.address or "auto", log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            where = f"at {self.address}" if self.address not in (None, "auto") else "on this machine"
            raise ClusterError(
                f"nothing was trained: there is no Ray cluster {where} ({str(error).splitlines()[0]}). Start one with "
                "`ray start --head`, add machines with `ray start --address=HOST:6379`, and name the head: "
                "--ray HOST:6379, RAY_ADDRESS, or ray.init(…) before the call") from None
        self._ours = True

    def _check_nodes(self) -> None:
        """Ask every node for its version of lorakit; one that is too busy to answer may train all the same."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def version() -> str:  # travels as it stands, so that a node without lorakit can say so
            try:
                import lorakit as lk
                from lorakit.sweep.call import require_training_packages

                require_training_packages()
                return str(lk.__version__)
            except ImportError as error:
                return str(error)
            except Exception as error:  # noqa: BLE001 - the driver says it
                return f"{type(error).__name__}: {error}"

        task = ray.remote(version)
        asked = {task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                              ).remote(): node["NodeManagerHostname"] for node in _nodes() if _units(node, self.device)}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS_TO_ANSWER) if asked else ([], [])
        answers = []
        for answer in ready:
            with suppress(ray.exceptions.RayError):  # a node that is listed still, and gone
                answers.append((asked[answer], ray.get(answer)))
        if bad := [f"{node} ({said if ' ' in said else f'it has {said}'})" for node, said in answers
                   if said != lorakit.__version__]:
            raise ClusterError(f"nothing was trained: {len(bad)} of {len(asked)} nodes of the Ray cluster cannot train "
                               f"with lorakit {lorakit.__version__}: {'; '.join(sorted(set(bad)))}. Install the same "
                               "clone of it there, with its extra `train`")

    @cached_property
    def device(self) -> str:
        """`cpu` or `cuda`, once connected."""
        return self.named or ("cuda" if any(_units(node, "cuda") for node in _nodes()) else "cpu")

    @property
    def processes(self) -> range:
        """One for each pack that the nodes of now can hold at once."""
        units = sum(_units(node, self.device) for node in _nodes())
        return range(min(units, self.wanted or units))

    @property
    def sharing(self) -> int:
        """How many packs share one memory, at the most."""
        return 1 if self.device == "cuda" else max(_units(node, "cpu") for node in _nodes())

    def workers(self, runs: int, gpus: int = 1) -> list[Worker]:
        """One for each pack that may be at work at once, also when more nodes have joined."""
        if gpus > 1:
            raise ValueError(f"gpus={gpus}: the processes of one machine train one run on several GPUs; allowed: "
                             "executor='local'")
        from lorakit.sweep.ray_workers import RayWorker, Waiting

        waiting = Waiting()
        return [RayWorker(self, waiting) for _ in range(min(runs, self.wanted or MOST_PACKS))]

    @cached_property
    def sent(self) -> Callable[[Path], list[Any]]:
        """Puts a file into Ray's store, in parts, once for the whole sweep, and returns their references."""
        import ray

        from lorakit.sweep.ray_workers import parts_of

        return cache(lambda path: [ray.put(part) for part in parts_of(path)])

    def say_if_empty(self) -> None:
        """A warning where packs wait for nodes that do not exist."""
        if not self.processes:
            log.warning("no node of the Ray cluster offers a %s any more: what is left waits until one joins",
                        "GPU" if self.device == "cuda" else "CPU")


def require_ray() -> None:
    """Raise MissingExtraError where Ray is not installed."""
    if find_spec("ray") is None:
        raise MissingExtraError("executor='ray' needs the package ray: run `pip install '.[ray]'` in a clone of "
                                "lorakit, on every node", name="ray")


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _units(node: dict[str, Any], device: str) -> int:
    """How many packs a node holds at once."""
    return int(node["Resources"].get("GPU" if device == "cuda" else "CPU", 0))
