"""What `lorabook plan` says of chapters: missing, of another epoch, minutes, bytes, dollars."""

import json
import re

import pytest

from lorabook import experiments
from lorabook.cli import main
from lorabook.experiments import Experiment
from lorabook.experiments.planning import Needs, needs, together
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.theory.estimate import estimate

RUN = SFTSpec(model="tiny", dataset="d@1", learning_rate=1e-3, lora=LoRASpec(rank=4))
RL = GRPOSpec(model="tiny", task="t@1", learning_rate=1e-3, reward="numeric")
LARGE = SFTSpec(model="llama-3.1-70b@1", dataset="d@1", learning_rate=1e-3, lora=None, dtype="bfloat16")


def test_stale_missing_and_the_pace_of_the_records(tmp_path, monkeypatch):
    specs = vary(RUN, seed=range(4))
    monkeypatch.setitem(experiments.EXPERIMENTS, "x", Experiment("x", "?", {("cpu", "record"): lambda: specs}))
    monkeypatch.setitem(experiments.EXPERIMENTS, "y", Experiment("y", "?", {("cpu", "record"): lambda: vary(
        RL, seed=range(2))}))
    store = Store(tmp_path)
    assert needs("x", "cpu", "record", store) == Needs("x", "cpu", "record", 4, 4, 0, unpriced=4)
    made = {"engine": "packed", "epoch": 1, "date": "2026-11-22"}
    for spec, seconds in zip(specs[:3], (20, 30, 70), strict=True):
        store.append("cpu", "x", Record.from_run(spec, "ok", {}, {}, made | {"seconds": seconds}))
    assert needs("x", "cpu", "record", store).seconds == pytest.approx(30), "the median"
    store.append("cpu", "y", Record.from_run(vary(RL, seed=[0])[0], "ok", {}, {}, made | {"seconds": 5}))
    rl = needs("y", "cpu", "record", store)
    assert (rl.missing, rl.stale) == (1, 1), "its grader was changed in epoch 2"
    assert rl.seconds == pytest.approx(10)
    both = together("chapter", [needs("x", "cpu", "record", store), rl])
    assert (both.name, both.defined, both.missing, both.stale) == ("chapter", 6, 2, 1)
    assert both.seconds == pytest.approx(40)
    assert str(both) == "2 of 6 runs missing, 1 of another numerical epoch; about 0.7 minutes, one after another"


def test_a_named_card_has_minutes_bytes_and_a_price(tmp_path, monkeypatch):
    specs = vary(RUN, seed=range(4))
    monkeypatch.setitem(experiments.EXPERIMENTS, "x", Experiment("x", "?", {
        ("gpu", "record"): lambda: specs, ("paper", "record"): lambda: [LARGE], ("cpu", "record"): lambda: [RL]}))
    found, priced = needs("x", "gpu", "record", Store(tmp_path), "H100"), estimate(None, specs, "H100")
    assert (found.seconds, found.dollars, found.bytes) == (priced.seconds, priced.cost, priced.needed)
    assert "all of them fit on one H100" in str(found)
    large = needs("x", "paper", "record", Store(tmp_path), "H100")
    assert (large.too_large, large.missing) == (1, 1)
    assert "1 of them do not fit on one H100" in str(large)
    rl = needs("x", "cpu", "record", Store(tmp_path), "H100")
    assert (rl.unpriced, rl.seconds, rl.dollars) == (1, None, None)
    assert rl.bytes > 0


def test_the_command_says_it_chapter_by_chapter_and_as_json(tmp_path, capsys):
    place = ["--results", str(tmp_path), "--gpu", "H200"]
    assert main(["plan", "--profile", "all", *place]) == 0
    said = capsys.readouterr().out
    for profile in experiments.PROFILES:
        line = rf"^chapter rank, {profile}: (\d+) of \1 runs missing; about .* dollars"
        assert re.search(line, said, flags=re.MULTILINE)
    assert main(["plan", "--profile", "all", "--json", *place]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {(one["name"], one["profile"]) for one in data} == {
        (topic, profile) for topic in experiments.CHAPTERS.values() for profile in experiments.PROFILES}
    for one in data:
        assert one["missing"] == sum(part["missing"] for part in one["experiments"])
        assert {"stale", "seconds", "bytes", "dollars", "unpriced", "gpu"} <= one.keys()
