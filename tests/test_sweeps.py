"""Sweeps: resume, staleness, failures, budgets, killed runs, and the user's own model and data."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_fork_server import WITHOUT_IMPORTS
from waiting import killed_behind, wait_until

from lorakit.epochs import StaleRecordsWarning, current
from lorakit.packed.packing import group, pack_key, split_evenly
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec, vary
from lorakit.sweep import sweeps
from lorakit.sweep.workers import Worker, WorkerError

BASE = SFTSpec(model="tiny-w32-s0", dataset="new-skills", learning_rate=1e-3, steps=3, batch_size=1,
               evaluations=2, evaluation_tokens=64)


def specs(count: int = 4) -> list[SFTSpec]:
    return vary(BASE, rank=[1, None], learning_rate=[1e-3 * (i + 1) for i in range(count // 2)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with four finished runs."""
    root = tmp_path_factory.mktemp("store")
    records = sweeps.run(specs(), root, experiment="x", processes=1)
    assert [r.id for r in records] == [s.id for s in specs()]
    return root


@pytest.fixture
def copy(trained, tmp_path):
    """A store of its own with the four runs, in a profile's folder as an older version wrote them."""
    target = tmp_path / "cpu" / "x.jsonl"
    target.parent.mkdir()
    target.write_bytes((trained / "x.jsonl").read_bytes())
    return tmp_path


def rewrite(root, change) -> None:
    path = root / "cpu" / "x.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def counted(monkeypatch) -> list[str]:
    """What the workers were asked to run, by id."""
    asked: list[str] = []
    ask = Worker.ask

    def spy(self, request, on_step=None):
        if request["do"] == "run":
            asked.extend(SFTSpec.from_json(s).id for s in request["specs"])
        return ask(self, request, on_step)

    monkeypatch.setattr(Worker, "ask", spy)
    return asked


def test_packs_share_what_they_must_and_cut_evenly():
    mixed = [*vary(BASE, rank=[1, 8, 9, 16, None]), dataclasses.replace(BASE, steps=4)]
    assert [len(g) for g in group(mixed)] == [2, 2, 1, 1]
    assert pack_key(BASE) != pack_key(dataclasses.replace(BASE, max_length=32))
    assert sorted(len(p) for p in split_evenly(mixed, 4)) == [3, 3]
    assert [s for pack in split_evenly(mixed, 4) for s in pack] != []
    assert len(split_evenly(mixed, 100)) == 1


def test_every_result_says_where_it_was_made(trained):
    record = Store(trained).records(None, "x")[0]
    assert record.provenance["epoch"] == current("packed", "sft")
    assert record.provenance["seconds"] > 0
    assert record.provenance["peak_bytes"] > 1e6
    assert record.metrics["base_test_loss"] > 0
    assert "base_text_loss_before" not in record.metrics, "a probe of the book"
    assert record.curve["step"] == [1, 3]


def test_a_finished_sweep_starts_no_process(copy, monkeypatch):
    monkeypatch.setattr(Worker, "_start", lambda self: pytest.fail("a process was started"))
    assert len(sweeps.run(specs(), copy, experiment="x")) == 4
    todo = sweeps.plan(specs(), copy)
    assert (todo.missing, todo.stale, todo.packs, todo.seconds) == ((), (), (), 0.0)


def test_only_what_is_missing_is_trained(copy, monkeypatch):
    asked = counted(monkeypatch)
    more = dataclasses.replace(specs()[0], seed=7)
    assert len(sweeps.run([*specs(), more], copy, experiment="x", processes=1)) == 5
    assert asked == [more.id]


def test_records_of_another_epoch_are_kept_with_a_warning(copy, monkeypatch):
    rewrite(copy, lambda line: line["provenance"].update(epoch=0))
    asked = counted(monkeypatch)
    with pytest.warns(StaleRecordsWarning, match=r"4 of 4 records belong to another numerical epoch.*stale='retrain'"):
        records = sweeps.run(specs(), copy, experiment="x", processes=1)
    assert [r.provenance["epoch"] for r in records] == [0] * 4
    assert asked == []


def test_records_of_another_epoch_are_trained_again_where_that_is_asked_for(copy, monkeypatch):
    rewrite(copy, lambda line: line["provenance"].update(epoch=0, date="2026-01-01"))
    asked = counted(monkeypatch)
    before = (copy / "cpu" / "x.jsonl").read_bytes()
    records = sweeps.run(specs(), copy, experiment="x", processes=1, stale="retrain")
    assert sorted(asked) == sorted(s.id for s in specs())
    assert {r.provenance["epoch"] for r in records} == {current("packed", "sft")}
    assert (copy / "cpu" / "x.jsonl").read_bytes().startswith(before), "a recorded line was changed"
    with pytest.raises(ValueError, match=r"'keep'.*'retrain'"):
        sweeps.run(specs(), copy, stale="certify")


def test_failed_runs_do_not_stop_the_others(tmp_path):
    short = dataclasses.replace(BASE, max_length=16)  # no row of this dataset fits
    with pytest.raises(sweeps.SweepError, match="1 of 3 runs failed") as error:
        sweeps.run([*specs(2), short], tmp_path, experiment="x", processes=1)
    assert "more tokens than max_length=16" in str(error.value)
    assert short.id in str(error.value)
    store = Store(tmp_path)
    assert store.missing([*specs(2), short]) == [short]
    assert {r.id: r.status for r in store.records(None, "x")}[short.id] == "failed"


def test_a_time_budget_holds_from_the_first_second_on(tmp_path, monkeypatch):
    """Before the first step is trained, here while the process starts: it is stopped, and the runs stay missing."""
    asked = counted(monkeypatch)
    assert sweeps.run(specs(2), tmp_path, experiment="x", processes=2, time_budget=0.01) == []
    assert len(asked) <= 2
    assert Store(tmp_path).missing(specs(2)) == specs(2)
    assert not list(tmp_path.glob("cpu/*.jsonl")), "what was stopped has not failed"


@pytest.mark.parametrize("budget", [0, -5, 0.0, float("nan"), float("inf"), "60", True, 10**400])
def test_a_time_budget_that_is_no_time_is_refused(tmp_path, budget, no_process):
    with pytest.raises(ValueError, match=r"time_budget=.*a finite number above 0"):
        sweeps.run(specs(2), tmp_path, time_budget=budget)


@pytest.fixture
def no_process(monkeypatch):
    """A test in which nothing may start."""
    monkeypatch.setattr(Worker, "_start", lambda self: pytest.fail("a process was started"))


@pytest.mark.parametrize(("call", "error", "words"), [
    ({"experiment": "my sweep"}, ValueError, "experiment='my sweep'"),
    ({"profile": "my gpu"}, ValueError, "profile='my gpu'"),
    ({"store": "file"}, NotADirectoryError, "a store of records is a folder"),
    ({"store": "file/below"}, OSError, "could not write"),
    ({"store": "taken"}, OSError, "Is a directory"),
    ({"save_to": "file"}, OSError, "could not write"),
    ({"save_to": "file/below"}, OSError, "could not write"),
    ({"device": "gpu"}, ValueError, "allowed: cpu, cuda"),
    ({"device": "cuda:x"}, ValueError, "allowed: cpu, cuda"),
    ({"processes": -1}, ValueError, "a whole number of 1 or more"),
    ({"processes": 0}, ValueError, "a whole number of 1 or more"),
    ({"processes": 1.5}, ValueError, "a whole number of 1 or more"),
    ({"engine": "fast"}, ValueError, "allowed: packed, trl, peft"),
    ({"report_to": "trackio"}, ValueError, "engine='trl'"),
    ({"report_to": "no-such-tracker", "engine": "trl"}, ValueError, "no tracker that TRL knows"),
    ({"stale": "certify"}, ValueError, "'keep'.*'retrain'"),
])
def test_a_mistake_in_the_call_is_found_before_anything_starts(tmp_path, monkeypatch, no_process, call, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "taken/runs.jsonl").mkdir(parents=True)
    with pytest.raises(error, match=words):
        sweeps.run(specs(2), **{"store": tmp_path / "new"} | call)
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize(("change", "options", "words"), [
    ({"lora": {"targets": "experts"}}, {"engine": "packed"}, "engine='peft'"),
    ({"lora": {"targets": "attention+experts", "shared_outer": True}}, {"save_to": "x"}, "shared_outer"),
])
def test_an_engine_that_cannot_run_a_spec_is_refused(tmp_path, no_process, change, options, words):
    spec = SFTSpec.from_json(BASE.to_json() | change)
    with pytest.raises(ValueError, match=words):
        sweeps.run([spec], tmp_path / "new", **options)


@pytest.mark.parametrize(("given", "words"), [(BASE, "run\\(\\[spec\\]\\)"), ([BASE, "tiny"], "specs hold 'tiny'")])
def test_what_is_no_list_of_specs_is_refused(tmp_path, no_process, given, words):
    with pytest.raises(TypeError, match=words):
        sweeps.run(given, tmp_path)
    with pytest.raises(TypeError, match=words):
        sweeps.plan(given, tmp_path)


def test_a_killed_sweep_resumes_to_the_same_records(trained, tmp_path):
    there = tmp_path / "there"
    script = ("from pathlib import Path; from test_sweeps import specs; from waiting import stay_at_first_record\n"
              "from lorakit.sweep import sweeps, training\n"
              f"training.LARGEST_PACK = {{'cpu': 1}}; stay_at_first_record(Path({str(there)!r}))\n"
              f"sweeps.run(specs(), {str(tmp_path)!r}, experiment='x', processes=1)")
    with killed_behind(script, said=tmp_path / "said") as started:
        started.reach(there)
    assert len(Store(tmp_path).records(None, "x")) == 1
    resumed = sweeps.run(specs(), tmp_path, experiment="x", processes=1)
    for mine, whole in zip(resumed, Store(trained).find(r.id for r in resumed).values(), strict=True):
        assert mine.id == whole.id
        assert mine.metrics["test_loss"] == pytest.approx(whole.metrics["test_loss"], abs=1e-5)


def test_a_dead_worker_is_an_error_that_says_so_and_is_replaced():
    with Worker("cpu") as worker:
        process = worker._process = worker._start()
        process.kill()
        with pytest.raises(WorkerError, match="was ended by SIGKILL") as error:
            worker.ask({"do": "probe", "specs": []})
        assert worker._process is None
        assert not error.value.out_of_memory


def test_bad_requests_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match="no specs"):
        sweeps.run([], tmp_path)
    with pytest.raises(ValueError, match="allowed: packed, trl"):
        sweeps.run(specs(), tmp_path, engine="fast")


def test_a_record_is_not_lost_when_a_run_fails_after_it(copy):
    store = Store(copy)
    first = store.records("cpu", "x")[0]
    store.append("cpu", "x", Record.from_run(SFTSpec.from_json(first.spec), "failed", {}, {}, {"error": "x"}))
    assert store.find([first.id])[first.id].status == "ok"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux's /proc who is alive")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_with_its_parent(number, tmp_path):
    """While it starts, before it can read a request; in training the same signal of Linux ends it."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_IMPORTS)
    paths = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    code = ("import time; from lorakit.sweep.workers import Worker\n"
            "print(Worker('cpu')._start().pid, flush=True); time.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=paths) as parent:
        worker = Path(f"/proc/{int(parent.stdout.readline())}/stat")
        parent.send_signal(number)

    def alive():
        try:
            return worker.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    wait_until(lambda: not alive(), "the worker's end")
