"""Workers on the nodes of a Ray cluster: actors, each of which holds a GPU as long as packs wait for it."""

from __future__ import annotations

import contextlib
import platform
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.local_models import cache_folder
from lorakit.sources import sources
from lorakit.specs import read_spec
from lorakit.sweep.belongings import MODULES, belongings, lacking, take
from lorakit.sweep.workers import Worker, WorkerError, is_last

if TYPE_CHECKING:
    from lorakit.sweep.ray_cluster import Cluster

PART = 2**25  # bytes of a file in one object of Ray's store
PATIENCE = 60.0  # seconds of waiting for a node, until it is seen whether there are any
AHEAD = 16  # events that wait for the driver before an actor waits for it
TELLING = 0.5  # seconds between two steps that an actor tells: each event is an object of the cluster


class PackActor:
    """What trains packs on a node, one after another: a worker process, its requests and what travels with them.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._worker, self._paths = Worker(device), list[str]()

    def place(self) -> tuple[str, str]:
        """The node's name and Ray's id of it, as soon as there is one."""
        import ray

        return platform.node(), ray.get_runtime_context().get_node_id()

    def lacking(self, places: list[str]) -> list[str]:
        """Those of the driver's belongings that this node does not have."""
        return lacking(places)

    def take(self, place: str, files: list[tuple[str, list[Any]]]) -> None:
        """Put one of them into this node's cache; the parts of its files are references."""
        import ray

        take(place, ((name, (ray.get(part) for part in parts)) for name, parts in files))

    def events(self, request: dict[str, Any], places: list[str], seen: str) -> Iterator[dict[str, Any]]:
        """Answer a request: events as of a worker, `{"file", "at", "bytes"}` for what it exported, or `lost`.

        Of its steps some are told, two in a second.

        Args:
            places: of what has travelled to here.
            seen: a file beside the store: where this node does not see it, the driver's checkpoints are out of reach.
        """
        own = [str(cache_folder() / place) for place in places if place.startswith(f"{MODULES}/")]
        if own != self._paths:
            self._worker.stop()  # what it has imported would stay
            sys.path[:] = [*own, *(path for path in sys.path if path not in self._paths)]
            self._paths = own
        if not Path(seen).exists():
            request = {**request, "checkpoints": None}
        with tempfile.TemporaryDirectory() as exports:
            if request.get("save_to") is not None:
                request = {**request, "save_to": exports}
            told = -TELLING
            try:
                for event in self._worker.events(request):
                    if "step" in event:
                        if time.monotonic() - told < TELLING:
                            continue
                        told = time.monotonic()
                    if is_last(event):
                        yield from _files(Path(exports))
                    yield event
            except WorkerError as error:
                yield {"lost": str(error), "out_of_memory": error.out_of_memory}


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    """The parts of all files below a folder; last of each run the file that says that it is whole."""
    files = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path.name == "README.md", path)):
        for number, part in enumerate(parts_of(path)):
            yield {"file": path.relative_to(folder).as_posix(), "at": number * PART, "bytes": part}


def parts_of(path: Path) -> Iterator[bytes]:
    """A file in pieces; one of an empty file."""
    with path.open("rb") as file:
        part = file.read(PART)
        yield part
        while part := file.read(PART):
            yield part


class Waiting:
    """The workers of a sweep that wait for an actor: the first of them gets one that has ended its pack."""

    def __init__(self) -> None:
        self._lock, self._first = threading.Lock(), list["queue.SimpleQueue[Any]"]()

    def come(self, offers: queue.SimpleQueue[Any]) -> None:
        """Wait, until `leave`."""
        with self._lock:
            self._first.append(offers)

    def leave(self, offers: queue.SimpleQueue[Any]) -> None:
        """Nothing more is offered."""
        with self._lock:
            if offers in self._first:
                self._first.remove(offers)

    def offer(self, held: tuple[Any, str, str]) -> bool:
        """Hand an actor on; False where nobody waits."""
        with self._lock:
            if self._first:
                self._first.pop(0).put(held)
                return True
        return False


class RayWorker(Worker):
    """A worker whose process runs somewhere on the cluster, perhaps on another node for each pack.

    Args:
        cluster: that it belongs to.
        waiting: those of the sweep that have no actor.
    """

    def __init__(self, cluster: Cluster, waiting: Waiting) -> None:
        self.cluster, self.waiting = cluster, waiting
        self._actor: Any = None
        self.node, self.node_id = "", ""

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Wait for a free GPU (or CPU) of any node, or an actor that holds one; hold it until `rest`, or hand it on."""
        try:
            if self._actor is None:
                self._place()
            yield
        except BaseException:
            self.stop()
            raise
        held, self._actor = self._actor, None
        if held is not None and not self.waiting.offer((held, self.node, self.node_id)):
            self._actor = held  # for the next pack

    def rest(self) -> None:
        """Give the GPU (or CPU) back."""
        self.stop()

    def _place(self) -> None:
        import ray

        device, offers = self.cluster.device, queue.SimpleQueue[Any]()
        resources = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": 1}
        self._actor = own = _remote().options(**resources).remote(device)
        with _lost("a node that was to train"):
            place = own.place.remote()
            place.future().add_done_callback(lambda _: offers.put(None))
            self.waiting.come(offers)
            found = list[Any]()
            try:
                while not found:
                    try:
                        found.append(offers.get(timeout=PATIENCE))
                    except queue.Empty:
                        self.cluster.say_if_empty()
            finally:
                self.waiting.leave(offers)
            while not offers.empty():
                found.append(offers.get())
            if any(found):  # one whose process has started already
                ray.kill(own)
                self._actor, self.node, self.node_id = next(filter(None, found))
            else:
                self.node, self.node_id = ray.get(place)

    def kill(self) -> None:
        """End what the actor is doing, or its wait for a node; whoever waits for its answer gets a WorkerError."""
        import ray

        if (actor := self._actor) is not None:
            ray.kill(actor)

    def stop(self) -> None:
        """End the actor, and give back what it holds."""
        self.kill()
        self._actor = None

    def events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """As of a worker here, whose files of exported runs are written here."""
        try:
            yield from self._events(request)
        except WorkerError:
            self.stop()  # nobody takes over what was lost
            raise

    def _events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import ray

        if (actor := self._actor) is None:  # it was stopped since
            raise WorkerError("the training process was stopped")
        needed = belongings(map(read_spec, request["specs"]), request.get("probes", ()))
        with _lost(f"the node {self.node}"):
            for place in ray.get(actor.lacking.remote(list(needed))):
                ray.get(actor.take.remote(place, [(path.name, self.cluster.sent(path)) for path in needed[place]]))
            answer = actor.events.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD).remote(
                {"sources": list(sources()), **request}, list(needed), str(self.cluster.mark))
            for reference in answer:
                event = ray.get(reference)
                if "lost" in event:
                    raise WorkerError(f"on the node {self.node} {event['lost']}", event["out_of_memory"])
                if "file" not in event:
                    yield event
                    continue
                path = Path(request["save_to"], event["file"])
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab" if event["at"] else "wb") as file:
                    file.write(event["bytes"])


@cache
def _remote() -> Any:
    import ray

    return ray.remote(PackActor)


@contextlib.contextmanager
def _lost(what: str) -> Iterator[None]:
    """Turn the end of an actor, or of its node, into a WorkerError."""
    from ray.exceptions import OutOfMemoryError, RayError

    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None) or error  # what the actor raised, such as OSError where a disk is full
        words = [line.strip() for line in str(cause).splitlines() if line.strip()]
        for_memory = isinstance(error, OutOfMemoryError) or "low on memory" in str(error)
        why = f"{type(cause).__name__}: {words[0] if words else ''}"
        raise WorkerError(f"{what} was lost ({why})", for_memory) from None
