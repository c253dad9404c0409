"""What a sweep does with what its workers answer: retries, halves, failures, exports, budgets, and other processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorakit.epochs import current
from lorakit.records import Record, Store
from lorakit.reference.vllm_server import ServerError
from lorakit.specs import SFTSpec, vary
from lorakit.sweep import sweeps
from lorakit.sweep import worker as train
from lorakit.sweep.pool import Pool
from lorakit.sweep.reservations import Reservations
from lorakit.sweep.training import packs_of
from lorakit.sweep.workers import Worker, WorkerError

BASE = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, steps=100)
EIGHT = vary(BASE, seed=range(8))


def record_of(spec, loss, engine="packed"):
    return Record.from_run(spec, "ok", {"test_loss": loss}, {}, {"engine": engine, "epoch": current(engine, "sft")})


def trained(request):
    """The event of a pack that went well; exported runs leave the file that says that they are whole."""
    specs = [SFTSpec.from_json(spec) for spec in request["specs"]]
    for spec in specs if request["save_to"] else ():
        folder = Path(request["save_to"]) / spec.id
        folder.mkdir(exist_ok=True)
        (folder / "README.md").touch()
    return {"records": [record_of(spec, 1.0, request["engine"]).to_json() for spec in specs]}


@pytest.fixture
def worker(monkeypatch):
    """`worker(answer)`: workers answer by this function; returns the list of packs that they were asked to train."""
    def install(answer):
        asked: list[list[str]] = []

        def ask(self, request, on_step=None):
            asked.append([SFTSpec.from_json(spec).id for spec in request["specs"]])
            return answer(request, len(asked))

        monkeypatch.setattr(Worker, "ask", ask)
        return asked

    return install


def test_a_worker_rests_while_others_have_the_last_job_and_at_the_end():
    workers = [SimpleNamespace(rested=threading.Event()) for _ in range(2)]
    for one in workers:
        one.rest = one.rested.set

    def do(worker, job):
        other = workers[worker is workers[0]]
        assert other.rested.wait(60)
        worker.rested.clear()

    Pool(workers, do).run(["the only one"])
    assert all(one.rested.is_set() for one in workers)


def sizes(asked):
    return [len(pack) for pack in asked]


def test_a_lost_process_is_tried_again_with_its_whole_pack(worker, tmp_path, capsys):
    def answer(request, number):
        if number <= 3:
            raise WorkerError("the training process was ended by SIGKILL")
        return trained(request)

    asked = worker(answer)
    assert len(sweeps.run(EIGHT, tmp_path, processes=1)) == 8
    assert sizes(asked) == [8, 8, 8, 8]
    assert "was ended by SIGKILL; its pack of 8 is trained again" in capsys.readouterr().err


def test_a_process_that_is_lost_each_time_leaves_its_runs_missing(worker, tmp_path):
    def answer(request, number):
        if any(spec.get("seed") == 3 for spec in request["specs"]):
            raise WorkerError("the training process was ended by SIGSEGV")
        return trained(request)

    asked = worker(answer)
    other = vary(BASE, seed=range(2), steps=[200])
    with pytest.raises(sweeps.SweepError, match=r"(?s)8 of 10 runs were not run.*SIGSEGV") as error:
        sweeps.run([*EIGHT, *other], tmp_path, processes=1)
    assert sorted(sizes(asked)) == [2, 8, 8, 8, 8]
    assert set(error.value.not_run) == {spec.id for spec in EIGHT}
    assert error.value.failed == {}
    assert [r.status for r in Store(tmp_path).records(None, "runs")] == ["ok", "ok"]
    assert Store(tmp_path).missing(EIGHT) == EIGHT


def test_a_gpu_that_disappears_fails_no_run(worker, tmp_path, capsys):
    lost = {"error": "AcceleratorError: CUDA error: no CUDA-capable device is detected\nCUDA kernel errors might be …",
            "shared": True, "fault": "the GPU"}
    asked = worker(lambda request, number: trained(request) if number > 1 else lost)
    assert len(sweeps.run(EIGHT, tmp_path / "once", processes=1)) == 8
    assert sizes(asked) == [8, 8]
    assert "the GPU failed (AcceleratorError: CUDA error: no CUDA-capable device is detected); its pack of 8" \
        in capsys.readouterr().err
    worker(lambda request, number: lost)
    with pytest.raises(sweeps.SweepError, match="8 of 8 runs were not run") as error:
        sweeps.run(EIGHT, tmp_path / "always", processes=1)
    assert error.value.failed == {}
    assert Store(tmp_path / "always").files == [], "nothing is recorded as failed"


@pytest.mark.parametrize(("error", "lost"), [
    (RuntimeError("CUDA error: unspecified launch failure"), "the GPU"), (ServerError("none answers"), "the sampler"),
    (RuntimeError("CUDA error: out of memory"), None), (RuntimeError("CUDA error: device-side assert triggered"), None),
    (ValueError("CUDA"), None)])
def test_an_error_of_the_gpu_or_of_the_sampler_is_none_of_the_runs(error, lost, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(train, "_model", fail)
    events: list[dict] = []
    train.answer({"do": "run", "engine": "packed", "specs": [BASE.to_json()]}, events.append)
    assert events[-1]["fault"] == lost


@pytest.mark.parametrize("how", ["an error", "a kill"])
def test_only_want_of_memory_halves_a_pack(worker, tmp_path, how):
    def answer(request, number):
        if len(request["specs"]) <= 2:
            return trained(request)
        if how == "a kill":
            raise WorkerError("the training process was ended by SIGKILL", out_of_memory=True)
        return {"error": "OutOfMemoryError: tried to allocate 9 GiB", "out_of_memory": True, "shared": False}

    asked = worker(answer)
    assert len(sweeps.run(EIGHT, tmp_path, processes=1)) == 8
    assert sizes(asked) == [8, 4, 2, 2, 2, 2], "what did not fit once is not tried again"


def test_one_faulty_run_does_not_fail_its_neighbours(worker, tmp_path):
    def answer(request, number):
        bad = any(spec.get("seed") == 3 for spec in request["specs"])
        return {"error": "RewardError: no", "shared": False} if bad else trained(request)

    asked = worker(answer)
    with pytest.raises(sweeps.SweepError, match="1 of 8 runs failed") as error:
        sweeps.run(EIGHT, tmp_path, processes=1)
    assert sizes(asked) == [8] + [1] * 8
    assert error.value.failed == {EIGHT[3].id: "RewardError: no"}


def test_what_all_runs_of_a_pack_share_fails_once_and_is_said_once(worker, tmp_path):
    folder = tmp_path / "a b" / "rows.jsonl"
    asked = worker(lambda request, number: {"error": f"DatasetError: row 1 of {folder} has 136 tokens",
                                            "shared": True})
    with pytest.raises(sweeps.SweepError) as error:
        sweeps.run([*EIGHT, *vary(BASE, seed=range(2), steps=[200])], tmp_path, processes=1)
    assert sizes(asked) == [8, 2] or sizes(asked) == [2, 8]
    assert str(error.value).count("136 tokens") == 1
    assert "10 runs (" in str(error.value)
    lines = (tmp_path / "runs.jsonl").read_text()
    assert lines.count("136 tokens") == 10
    assert str(tmp_path) not in lines
    assert "rows.jsonl has 136 tokens" in lines


def test_a_run_that_cannot_be_exported_is_recorded_and_said(worker, tmp_path):
    def answer(request, number):
        event = trained(request | {"save_to": None})
        return event | {"unsaved": {EIGHT[0].id: "OSError: disk full"}}

    asked = worker(answer)
    with pytest.raises(sweeps.SweepError, match=r"1 of 8 runs are recorded, but could not be written to save_to") as e:
        sweeps.run(EIGHT, tmp_path / "s", processes=1, save_to=tmp_path / "adapters")
    assert sizes(asked) == [8]
    assert e.value.unsaved == {EIGHT[0].id: "OSError: disk full"}
    assert Store(tmp_path / "s").missing(EIGHT) == []


def test_recorded_runs_without_an_adapter_are_trained_again_where_save_to_asks_for_it(worker, tmp_path, capsys):
    asked = worker(lambda request, number: trained(request))
    sweeps.run(EIGHT[:3], tmp_path / "s", processes=1)
    sweeps.run(EIGHT[:1], tmp_path / "s", processes=1, save_to=tmp_path / "adapters")
    sweeps.run(EIGHT[:3], tmp_path / "s", processes=1, save_to=tmp_path / "adapters")
    sweeps.run(EIGHT[:3], tmp_path / "s", processes=1, save_to=tmp_path / "adapters")
    assert sizes(asked) == [3, 1, 2]
    assert "2 of them are recorded, and are trained again for their weights" in capsys.readouterr().err


def test_the_engine_that_is_named_trains_what_is_returned(worker, tmp_path):
    asked = worker(lambda request, number: trained(request))
    packed = sweeps.run(EIGHT[:2], tmp_path, processes=1, engine="packed")
    trl = sweeps.run(EIGHT[:3], tmp_path, processes=1, engine="trl")
    assert [r.provenance["engine"] for r in trl] == ["trl"] * 3
    assert sizes(asked) == [2, 1, 1, 1]
    again = sweeps.run(EIGHT[:2], tmp_path, processes=1, engine="packed")
    assert again == packed
    either = sweeps.run(EIGHT[:4], tmp_path, processes=1)
    assert [r.provenance["engine"] for r in either] == ["trl"] * 3 + ["packed"]
    assert sizes(asked) == [2, 1, 1, 1, 1]
    sweeps.run(EIGHT[:4], tmp_path, processes=1, save_to=tmp_path / "adapters")
    assert [r.provenance["engine"] for r in sweeps.run(EIGHT[:4], tmp_path)] == ["trl"] * 3 + ["packed"]


def test_runs_of_another_process_are_left_to_it(worker, tmp_path, capsys, monkeypatch):
    asked = worker(lambda request, number: trained(request))
    store, other = Store(tmp_path), Reservations(tmp_path)
    names = [f"{spec.id}-packed" for spec in EIGHT]
    assert other.take(names[:5]) == names[:5]

    def finish():
        for spec in EIGHT[:4]:
            store.append("cpu", "runs", record_of(spec, 2.0))
        other.release(names[:5])  # the fifth run was not finished: its owner has ended

    say = sweeps.Progress.say

    def said(self, text):
        say(self, text)
        if "another process" in text:
            finish()

    monkeypatch.setattr(sweeps.Progress, "say", said)
    records = sweeps.run(EIGHT, tmp_path, processes=1)
    assert [r.metrics["test_loss"] for r in records] == [2.0] * 4 + [1.0] * 4
    assert sorted(spec for pack in asked for spec in pack) == sorted(spec.id for spec in EIGHT[4:])
    assert "another process trains some of these runs" in capsys.readouterr().err
    assert not (tmp_path / ".running").exists()


def test_reservations_end_with_their_owner(tmp_path):
    code = ("import sys, time; from pathlib import Path; from lorakit.sweep.reservations import Reservations\n"
            "mine = Reservations(Path(sys.argv[1])); print(mine.take(['a', 'b']), flush=True); time.sleep(600)")
    mine = Reservations(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline() == "['a', 'b']\n"
            assert mine.take(["a", "b", "c"]) == ["c"]
        finally:
            owner.kill()
    assert mine.take(["a", "b"]) == ["a", "b"]


def test_the_last_to_give_back_may_take_the_folder_from_under_the_next(tmp_path):
    """Their lock finds the folder neither there nor to be made: the run is free a moment later, and nothing breaks."""
    def take_and_release(thread: int) -> int:
        mine, taken = Reservations(tmp_path), 0
        for turn in range(300):
            names = mine.take([f"{thread}-{turn}"])
            taken += len(names)
            mine.release(names)
        return taken

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert min(pool.map(take_and_release, range(4))) > 0
    finally:
        sys.setswitchinterval(before)
    assert not (tmp_path / ".running").exists()


def test_a_pack_that_would_end_too_late_is_cut_or_left(worker, tmp_path):
    """A run takes 20 s by the first steps of the pack, and 110 s are left: five of the eight are trained."""
    asked = worker(lambda request, number: {"over_budget": 20.0 * len(request["specs"])}
                   if 20 * len(request["specs"]) > request["seconds_left"] else trained(request))
    records = sweeps.run(EIGHT, tmp_path, processes=1, time_budget=110)
    assert len(records) == 5
    assert sizes(asked) == [8, 5]


def test_nothing_is_asked_of_a_worker_without_a_budget_but_the_runs(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(Worker, "ask", lambda self, request, on_step=None: asked.append(request) or trained(request))
    sweeps.run(EIGHT, tmp_path, processes=1)
    assert [(request["do"], request["seconds_left"]) for request in asked] == [("run", None)]


def test_a_script_hears_how_far_its_sweep_is(worker, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lorakit.sweep.progress.LINES", 0.01)
    heard = threading.Event()
    say = sweeps.Progress.say

    def spy(self, text):
        say(self, text)
        if "step" in text:
            heard.set()

    monkeypatch.setattr(sweeps.Progress, "say", spy)

    def ask(self, request, on_step=None):
        on_step({"step": 25, "steps": 100, "value": 2.3456, "what": "loss"})
        heard.wait(60)
        return trained(request)

    monkeypatch.setattr(Worker, "ask", ask)
    sweeps.run(EIGHT, tmp_path, processes=1)
    err = capsys.readouterr().err
    assert "runs: 8 of 8 runs to train, in 1 packs on 1 processes\n" in err
    assert "runs: 0 of 8 runs done; step 25 of 100, loss 2.346; " in err
    assert err.rstrip().endswith("8 of 8 runs done")
    sweeps.run(vary(BASE, seed=[9]), tmp_path, processes=1, progress=False)
    assert capsys.readouterr().err == ""


def test_a_gpu_takes_larger_packs_than_a_cpu_and_never_more_than_its_memory_holds():
    many = vary(BASE, seed=range(80))

    def largest(**where):
        return max(len(pack.specs) for pack in packs_of(many, "packed", 1, **where))

    assert largest() == 16
    assert largest(device="cuda") == largest(device="cuda:1") == 40
    assert largest(device="cuda", fits=7) <= 7
    assert {len(pack.specs) for pack in packs_of(many, "trl", 1, device="cuda")} == {1}


def leave_halfway(store, specs, engine="packed"):
    """A checkpoint as a worker writes it, of a pack of these specs."""
    from lorakit.checkpoints import FOLDER, Checkpoint

    point = Checkpoint(Path(store) / FOLDER, engine, [spec.id for spec in specs], {"epoch": 1})
    point.save(7, {"flat": torch.zeros(3)}, {})
    return point.path


def test_a_pack_with_a_checkpoint_is_formed_again_first_and_as_it_was(worker, tmp_path):
    killed = [EIGHT[5], EIGHT[2], EIGHT[6]]
    path = leave_halfway(tmp_path, killed)
    other = leave_halfway(tmp_path, [EIGHT[0], vary(BASE, seed=[99])[0]])
    asked = worker(lambda request, _: trained(request))
    assert len(sweeps.run(EIGHT, tmp_path, processes=1)) == 8
    assert asked[0] == [spec.id for spec in killed]
    assert sorted(name for pack in asked for name in pack) == sorted(spec.id for spec in EIGHT)
    assert not path.exists(), "removed with the records"
    assert other.exists()
    sweeps.run(EIGHT, tmp_path, processes=1)
    assert not other.exists(), "one of its runs is recorded: that pack will not be formed again"


def test_a_pack_that_is_cut_leaves_no_checkpoint(worker, tmp_path):
    path = leave_halfway(tmp_path, EIGHT)
    asked = worker(lambda request, _: trained(request) if len(request["specs"]) <= 4 else {"fits": 4})
    sweeps.run(EIGHT, tmp_path, processes=1)
    assert sizes(asked) == [8, 4, 4]
    assert not path.exists()


def test_a_worker_is_told_where_checkpoints_go_and_its_warnings_are_heard(monkeypatch, tmp_path, capsys):
    asked = []

    def ask(self, request, on_step=None):
        asked.append((request["checkpoints"], request["checkpoint_every"]))
        on_step({"warning": "the checkpoint x is not used"})
        return trained(request)

    monkeypatch.setattr(Worker, "ask", ask)
    sweeps.run(EIGHT, tmp_path, processes=1, progress=False, checkpoint_every=60)
    sweeps.run(vary(BASE, seed=[9]), tmp_path, processes=1, progress=False, checkpoint_every=None)
    assert asked == [(str(tmp_path / ".checkpoints"), 60), (None, None)]
    assert capsys.readouterr().err == "runs: the checkpoint x is not used\n" * 2
    for wrong in (-1, float("nan"), True, "60"):
        with pytest.raises(ValueError, match=r"checkpoint_every=.*; allowed: seconds, a number of 0 or more, or None"):
            sweeps.run(EIGHT, tmp_path, checkpoint_every=wrong)
