"""Records and adapters on a stand-in of the Hub, and in stand-ins of trackers."""

from __future__ import annotations

import json
import sys
import types
from types import SimpleNamespace

import pytest
import stand_in_hub

import lorakit as lk
from lorakit.records import Record, SchemaError, Store
from lorakit.sweep import sweeps
from lorakit.sweep.sharing import PulledRecordsWarning
from lorakit.sweep.tracking import TrackingWarning

BASE = lk.SFTSpec(model="org/name@0123abc", dataset="d@1", learning_rate=1e-3)


def record(rate=1e-3, date="2026-01-01", **spec) -> Record:
    curve = {"step": [1, 300], "train_loss": [3.0, 2.0], "validation_loss": [3.0, None], "test_loss": [3.5, 2.5]}
    return Record.from_run(lk.vary(BASE, learning_rate=[rate], **spec)[0], "ok", {"test_loss": 2.5, "base_text": None},
                           curve, {"date": date, "engine": "packed"})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return stand_in_hub.install(monkeypatch, tmp_path / "hub")


def test_what_was_pushed_is_pulled_once_and_merged(hub, tmp_path):
    mine, yours = Store(tmp_path / "mine"), Store(tmp_path / "yours")
    mine.append(None, "runs", record())
    mine.append("cpu", "rank", record(2e-3))
    yours.append(None, "runs", record(3e-3))
    done = tmp_path / "adapters" / record().id
    done.mkdir(parents=True)
    for name in ("README.md", "adapter_model.safetensors", "payload.bin"):
        (done / name).write_text(name)
    (tmp_path / "adapters" / "of-another-store").mkdir()
    assert lk.push(mine, "me/runs", adapters=tmp_path / "adapters") == "https://hub.example/me/runs"
    assert hub.private == {"me/runs": True}
    lk.push(yours, "me/runs")
    lk.push(mine, "me/runs")
    there = hub.root / "me/runs"
    assert len((there / "records/runs.jsonl").read_text().splitlines()) == 2, "nobody's record is lost or twice there"
    card = (there / "README.md").read_text()
    assert "3 training runs" in card
    assert 'base_model: ["org/name"]' in card
    assert "private" not in card
    assert str(tmp_path) not in card
    new = lk.pull("me/runs", yours, adapters=tmp_path / "got")
    assert sorted(r.id for r in new) == sorted([record().id, record(2e-3).id])
    assert lk.pull("me/runs", yours) == []
    assert yours.files == [("cpu", "rank"), (None, "runs")]
    assert len((yours.root / "runs.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "got" / record().id).iterdir()) == [
        "README.md", "adapter_model.safetensors"]  # nothing that runs code


def test_a_public_repository_and_an_empty_store_are_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="holds no records"):
        lk.push(tmp_path / "empty", "me/runs")
    store = Store(tmp_path / "mine")
    store.append(None, "runs", record())
    hub.private["me/open"] = False
    with pytest.raises(ValueError, match=r"me/open is public.*private=False"):
        lk.push(store, "me/open")
    assert not list(hub.root.rglob("*.jsonl"))
    lk.push(store, "me/open", private=False)
    assert list(hub.root.rglob("*.jsonl"))
    (hub.root / "me/open/README.md").write_text("my own words")
    lk.push(store, "me/open", private=False)
    assert (hub.root / "me/open/README.md").read_text() == "my own words"


def test_lines_of_others_are_checked_before_they_are_merged(hub, tmp_path):
    folder = hub.root / "me/runs/records"
    folder.mkdir(parents=True)
    forged = json.loads(record().to_line()) | {"id": "0" * 16}
    (folder / "runs.jsonl").write_text(f"{record().to_line()}\n{json.dumps(forged)}\nno json\n")
    with pytest.warns(PulledRecordsWarning, match="2 lines are no records"):
        assert lk.pull("me/runs", tmp_path / "runs") == [record()]
    (folder / "later.jsonl").write_text(json.dumps(json.loads(record(5e-3).to_line()) | {"schema": 2}) + "\n")
    with pytest.raises(SchemaError):
        lk.pull("me/runs", tmp_path / "other")
    assert not Store(tmp_path / "other").files


@pytest.fixture(params=["trackio", "wandb"])
def tracker(request, monkeypatch):
    """A stand-in of a tracker; what it was told."""
    told: list = []
    module = types.ModuleType(request.param)
    module.__spec__ = SimpleNamespace(name=request.param)
    module.init = lambda **named: told.append(("init", named))
    module.log = lambda values, step: told.append(("log", step, values))
    module.finish = lambda: told.append(("finish",))
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, told, module


def test_a_record_becomes_a_run_of_the_tracker(tracker):
    name, told, _ = tracker
    lk.track([record()], name, project="mine")
    kind, begun = told[0]
    assert kind == "init"
    assert begun["project"] == "mine"
    assert begun["config"]["learning_rate"] == 1e-3
    assert begun["name"].startswith("rank 16, rate 0.001, seed 0")
    assert begun.get("id") == (f"{record().id}-packed" if name == "wandb" else None)
    assert told[1:] == [("log", 1, {"train_loss": 3.0, "validation_loss": 3.0, "test_loss": 3.5}),
                        ("log", 300, {"train_loss": 2.0, "test_loss": 2.5}), ("log", 300, {"final/test_loss": 2.5}),
                        ("finish",)]


def test_a_sweep_sends_every_finished_run_and_a_tracker_that_fails_stops_nothing(tracker, tmp_path):
    name, told, module = tracker
    specs = lk.vary(lk.SFTSpec(model="tiny-w32-s0", dataset="reworded-skills", learning_rate=1e-3, steps=2,
                               batch_size=1, evaluations=2, evaluation_tokens=64), rank=[1, 2])
    sweeps.run(specs, tmp_path, device="cpu", processes=1, track=name, experiment="mine")
    assert [entry[0] for entry in told if entry[0] != "log"] == ["init", "finish"] * 2
    assert {entry[1]["project"] for entry in told if entry[0] == "init"} == {"mine"}
    module.init = lambda **named: 1 / 0
    more = lk.vary(specs[0], seed=[1])
    with pytest.warns(TrackingWarning, match=r"1 runs are recorded, but could not be sent.*lorakit\.track"):
        assert len(sweeps.run(more, tmp_path, device="cpu", processes=1, track=name)) == 1


def test_a_tracker_that_is_unknown_or_not_installed_is_found_before_anything_is_trained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'wanbd' is none.*allowed: trackio, wandb"):
        sweeps.run([BASE], tmp_path, track="wanbd")
    monkeypatch.setattr("lorakit.sweep.tracking.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install wandb"):
        sweeps.run([BASE], tmp_path, track="wandb")
    assert not list(tmp_path.iterdir())
