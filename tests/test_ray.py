"""Sweeps on a Ray cluster: a head and two nodes of one CPU each, on this machine, each with a cache of its own."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from waiting import LONG, wait_until

import lorakit as lk
from lorakit import MissingExtraError
from lorakit.checkpoints import FOLDER, unfinished
from lorakit.records import Store
from lorakit.sweep import ray_workers
from lorakit.sweep.ray_cluster import ClusterError
from lorakit.sweep.ray_workers import RayWorker, Waiting
from lorakit.sweep.workers import WorkerError

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
ROOT = Path(__file__).parents[1]


class Machines:
    """A cluster whose nodes come and go."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.count = folder, 0
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                                                     "object_store_memory": 80 * 2**20})
        self.address = self.cluster.address

    def add(self, path: str = "", **units: int):
        """A node with an empty cache; `path` goes before its own."""
        self.count += 1
        return self.cluster.add_node(object_store_memory=80 * 2**20, **{"num_cpus": 1} | units, env_vars={
            "LORAKIT_CACHE": str(self.folder / f"cache-{self.count}"),
            "PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ["PYTHONPATH"]]))})

    def kill(self, node_id: str) -> None:
        """A node goes, and its actors with it: without their raylet they may live on long enough to end a pack."""
        (node,) = (node for node in self.cluster.worker_nodes if node.node_id == node_id)
        actors = [process for started in node.all_processes.values() for one in started
                  for process in psutil.Process(one.process.pid).children(recursive=True)]
        self.cluster.remove_node(node, allow_graceful=False)
        for process in actors:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert not psutil.wait_procs(actors, LONG)[1]


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("LORAKIT_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        for name in ("RAY_ADDRESS", "LORAKIT_DEVICE"):
            patch.delenv(name, raising=False)
        found = Machines(folder)
        try:
            found.add(), found.add()
            yield found
        finally:
            ray.shutdown()
            found.cluster.shutdown()


HELD = """
import time
from pathlib import Path

def until_it_may_go_on(subject):
    for _ in range(6000 * subject.trained):  # ten minutes at the most
        if Path({go!r}).exists():
            break
        time.sleep(0.1)
    return [{{}} for _ in subject.specs]
"""


def test_a_node_is_killed_and_another_joins_and_the_records_are_those_of_one_machine(machines, tmp_path, monkeypatch,
                                                                                    capsys):
    rows = [{"prompt": f"{a} and {b} make ", "completion": f"{a + b}"} for a in range(12) for b in range(12)]
    model = lk.register_model("mine", *lk.load_model("tiny-w32-s0"))
    base = lk.SFTSpec(model=model, dataset=lk.register_dataset("my-sums", rows), learning_rate=1e-3, batch_size=2,
                      max_length=32, evaluations=2, evaluation_tokens=64)
    specs = lk.vary(base, steps=[20, 21], rank=[2], learning_rate=[1e-3, 1e-2], seed=[0, 1])
    (tmp_path / "held.py").write_text(HELD.format(go=str(tmp_path / "go")))  # no pack ends before the kill
    monkeypatch.syspath_prepend(tmp_path)
    events, begun = RayWorker.events, queue.SimpleQueue()

    def watched(self, request):
        for event in events(self, request):
            begun.put(self.node_id)
            yield event

    monkeypatch.setattr(RayWorker, "events", watched)
    with ThreadPoolExecutor() as pool:  # Ray starts nodes from the main thread alone
        running = pool.submit(lk.run, specs, tmp_path / "ray", executor="ray", ray_address=machines.address,
                              save_to=tmp_path / "adapters", probes=["held:until_it_may_go_on"])
        wait_until(lambda: running.done() or not begun.empty(), "a pack's first step")
        machines.kill(begun.get_nowait() if not running.done() else running.result())
        (tmp_path / "go").touch()
        machines.add()
        found = running.result()
    assert "was lost" in capsys.readouterr().err
    assert [record.id for record in found] == [spec.id for spec in specs]
    lines = (tmp_path / "ray" / "runs.jsonl").read_text().splitlines()
    assert len(lines) == len(specs), "each run is recorded once"
    assert {record.status for record in found} == {"ok"}
    for here, there in zip(lk.run(specs, tmp_path / "local"), found, strict=True):
        assert there.metrics == pytest.approx(here.metrics, abs=1e-6)
        assert here.curve == {name: pytest.approx(column, abs=1e-5) for name, column in there.curve.items()}
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= {
            path.name for path in (tmp_path / "adapters" / there.id).iterdir()}
    assert not [path.name for path in (tmp_path / "ray").iterdir() if path.name != "runs.jsonl"]


DRIVER = """
import sys
import time
from pathlib import Path

import lorakit as lk

def vowels(prompts, completions, **columns):
    folder = Path({folder!r})  # the second pack waits in its midst until it may go on
    if (folder / "runs" / "runs.jsonl").exists():
        with (folder / "calls").open("a") as file:
            file.write(".")
        for _ in range(6000):  # ten minutes at the most
            if (folder / "calls").stat().st_size <= 20 or (folder / "go").exists():
                break
            time.sleep(0.1)
    return [min(1.0, sum(c in "aeiou" for c in text) / 4) for text in completions]

if __name__ == "__main__":
    reward = lk.register_reward(vowels)
    task = lk.register_task("words", [{{"prompt": f"{{i}}: "}} for i in range(60)], grader=reward, stop="\\n")
    base = lk.GRPOSpec(model="tiny-w32-s0", task=task, reward=reward, learning_rate=1e-3, prompts_per_step=2,
                       group_size=2, max_completion_length=4, evaluations=2, evaluation_problems=4)
    specs = lk.vary(base, steps=[30, 31], rank=[2], seed=[0, 1])
    found = lk.run(specs, sys.argv[1], executor="ray", ray_address=sys.argv[2], processes=1, checkpoint_every=0)
    print(*(record.status for record in found), *(record.provenance.get("resumed_at", [0])[0] > 0 for record in found))
"""


def test_a_driver_that_is_killed_goes_on_when_it_is_started_again(machines, tmp_path):
    """Its reward and task are its own; nodes see its disk, so that the second pack goes on from its checkpoint."""
    script, store = tmp_path / "driver.py", tmp_path / "runs"
    script.write_text(DRIVER.format(folder=str(tmp_path)))
    command = [sys.executable, str(script), str(store), machines.address]

    def second_has_begun() -> bool:
        done = {record.id for record in Store(store).records(None, "runs")}
        return len(done) == 2 and any(done.isdisjoint(ids) for _, ids in unfinished(store / FOLDER))

    with (tmp_path / "said").open("w") as said, subprocess.Popen(command, stderr=said) as driver:
        wait_until(lambda: driver.poll() is not None or second_has_begun(), "the second pack's checkpoint")
        assert driver.poll() is None, (tmp_path / "said").read_text()
        driver.kill()
    (tmp_path / "go").touch()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert sorted(again.stdout.split()) == ["False"] * 2 + ["True"] * 2 + ["ok"] * 4, again.stderr
    assert len((store / "runs.jsonl").read_text().splitlines()) == 4


def test_each_pack_holds_one_gpu_of_its_node(machines, tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    seen.touch()
    stand_in = {"STAND_IN_GPUS": "NVIDIA L40S,NVIDIA L40S", "STAND_IN_CARDS": str(seen)}
    for name, value in stand_in.items():
        monkeypatch.setenv(name, value)
    machines.add(str(Path(__file__).parent / "cuda_stand_in"), num_cpus=0, num_gpus=2)
    (tmp_path / "held.py").write_text(HELD.format(go=str(tmp_path / "go")))  # else one GPU might train both
    monkeypatch.syspath_prepend(tmp_path)
    base = lk.SFTSpec(model="tiny-w32-s0", learning_rate=1e-3, batch_size=2,
                      evaluations=2, evaluation_tokens=64)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(lk.run, lk.vary(base, steps=[2, 3], rank=[2]), tmp_path / "runs", executor="ray",
                              ray_address=machines.address, probes=["held:until_it_may_go_on"])
        wait_until(lambda: running.done() or len(seen.read_text().split()) == 2, "a worker on each GPU")
        (tmp_path / "go").touch()
        found = running.result()
    assert {record.provenance["device"] for record in found} == {"NVIDIA L40S"}
    assert sorted(seen.read_text().split()) == ["0", "1"]


def test_nodes_that_cannot_train_are_said_before_anything_is_trained(machines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nodes find what lies in the driver's folder
    specs = [lk.SFTSpec(model="tiny-w32-s0", learning_rate=1e-3)]

    def run(address=machines.address, **wanted):
        return lk.run(specs, tmp_path / "runs", executor="ray", ray_address=address, **wanted)

    (tmp_path / "empty" / "lorakit").mkdir(parents=True)
    (tmp_path / "empty" / "lorakit" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module 'lorakit'\")")
    node = machines.add(str(tmp_path / "empty"))
    with pytest.raises(ClusterError, match=r"1 of 3 nodes .*\(No module 'lorakit'\).*Install the same clone"):
        run(device="cpu")
    machines.kill(node.node_id)
    with pytest.raises(ClusterError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*refused.*ray start --head"):
        run("127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"no Ray cluster at nonsense .*`ray start --head`"):
        run("nonsense")
    assert Store(tmp_path / "runs").files == []


@pytest.mark.parametrize(("wanted", "message"), [
    ({"executor": "dask"}, "allowed: 'local' .* or 'ray'"),
    ({"ray_address": "host:6379"}, "name executor='ray' with it"),
    ({"executor": "ray", "device": "cuda:1"}, "allowed with Ray: cpu or cuda"),
    ({"executor": "ray", "ray_address": "ray://host:10001"}, "Ray Client's.*`ray job submit`")])
def test_a_call_that_cannot_be_meant_starts_nothing(wanted, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        lk.run([lk.SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)], tmp_path, **wanted)


def test_without_ray_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("lorakit.sweep.ray_cluster.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[ray\]'.*on every node"):
        lk.run([lk.SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)], tmp_path, executor="ray")


def test_a_full_disk_of_a_node_is_said():
    error = ray.exceptions.RayTaskError("take", "a traceback", OSError(28, "No space left on device"))
    with pytest.raises(WorkerError, match=r"^the node a was lost \(OSError: \[Errno 28\] No space left on device\)$"), \
            ray_workers._lost("the node a"):
        raise error


@pytest.mark.parametrize(("error", "for_memory"), [
    (ray.exceptions.OutOfMemoryError("the node"), True), (ray.exceptions.ActorDiedError(), False),
    (ray.exceptions.RaySystemError("killed, the node was running low on memory"), True)])
def test_only_want_of_memory_halves_a_lost_pack(error, for_memory):
    with pytest.raises(WorkerError, match=rf"the node was lost \({type(error).__name__}: ") as lost, \
            ray_workers._lost("the node"):
        raise error
    assert lost.value.out_of_memory is for_memory


@pytest.fixture
def actors(monkeypatch):
    """In place of Ray: actors are numbered, the first has a node at once, and the others when they are given one."""
    class Actors:
        places, killed, waiting = list[Future](), list[int](), Waiting()

        def create(self, device):
            self.places.append(place := Future())
            if len(self.places) == 1:
                place.set_result(("a", "id"))
            return SimpleNamespace(number=len(self.places) - 1, place=SimpleNamespace(
                remote=lambda: SimpleNamespace(future=lambda: place)))

        def worker(self):
            return RayWorker(SimpleNamespace(device="cuda"), self.waiting)

        def hold(self):
            with (worker := self.worker()).placed():
                held = worker._actor.number, worker.node
            worker.rest()
            return held

        def until_waiting(self, count):
            wait_until(lambda: len(self.waiting._first) >= count, f"{count} that wait for an actor")

    found = Actors()
    monkeypatch.setattr(ray_workers, "_remote", lambda: SimpleNamespace(
        options=lambda **_: SimpleNamespace(remote=found.create)))
    monkeypatch.setattr(ray, "kill", lambda actor: found.killed.append(actor.number))
    monkeypatch.setattr(ray, "get", lambda place: place.future().result())
    return found


def test_an_actor_that_has_ended_its_pack_takes_the_next_that_waits_and_is_given_back_when_none_does(actors):
    with ThreadPoolExecutor() as pool, actors.worker().placed():
        second = pool.submit(actors.hold)
        actors.until_waiting(1)
        assert actors.killed == []
        third = pool.submit(actors.hold)
        actors.until_waiting(2)
    assert (second.result(), third.result()) == ((0, "a"), (0, "a"))
    assert sorted(actors.killed) == [0, 1, 2]
    assert actors.killed[-1] == 0, "last, when nobody waited"


def test_a_worker_keeps_its_actor_for_its_next_pack_until_it_rests_or_fails(actors):
    worker = actors.worker()
    for _ in range(2):
        with worker.placed():
            assert worker._actor.number == 0
    assert (len(actors.places), actors.killed) == (1, [])
    worker.rest()
    assert actors.killed == [0]
    actors.places.clear()
    with pytest.raises(OSError, match="full"), worker.placed():
        raise OSError("full")
    assert actors.killed == [0, 0]


def test_a_lost_actor_is_handed_to_nobody(actors):
    with ThreadPoolExecutor() as pool:
        with (first := actors.worker()).placed():
            second = pool.submit(actors.hold)
            actors.until_waiting(1)
            first.stop()
        assert not second.done()
        actors.places[1].set_result(("b", "id"))
        assert second.result() == (1, "b")
    assert actors.killed == [0, 1]
