"""The README's examples run as they stand, on the user's own model and data."""

from __future__ import annotations

import json
import linecache
import re
import shlex
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import stand_in_hub
import typer

import lorabook.cli
import lorakit.cli
from lorakit.records import Store

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_calculators_answer_as_the_readme_calls_them(capsys):
    exec(compile(blocks()[1], "README.md", "exec"), {})  # noqa: S102 - it is our own text
    out = capsys.readouterr().out
    assert all(word in out for word in ("take rank 8 to 16", "fits", "; sweep ", "tinker: alpha 32, learning rate"))


def test_every_command_in_its_text_can_be_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").touch()
    named = re.findall(r"`(lorakit|lorabook) ([a-z-]+ [^`]+)`", README.read_text(encoding="utf-8"))
    assert len(named) > 10
    for program, words in named:
        name, *rest = shlex.split(words)
        command = typer.main.get_command({"lorakit": lorakit.cli, "lorabook": lorabook.cli}[program].app).commands[name]
        command.make_context(name, rest)  # raises what the call would end with


def test_its_speeds_are_the_last_recorded_ones():
    path = README.parent / "book/lorabook/benchmarks/results/cpu/packed-sweep.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    last = {record["spec"]["name"]: record["metrics"].get("peft_tuned_over_packed_median")
            for record in map(json.loads, lines)}
    said = re.search(r"take ([\d.]+) times less than .* and ([\d.]+) times less for `tiny`", README.read_text("utf-8"))
    assert said.groups() == (f"{last['packed-sweep-small']:.1f}", f"{last['packed-sweep-tiny']:.1f}")


def test_the_example_trains_resumes_and_loads_as_an_adapter(tmp_path, monkeypatch, capsys):
    code = blocks()[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - it is our own text
    assert len(names["sweep"]) == len(names["specs"])
    assert {r.status for r in names["sweep"]} == {"ok"}
    assert names["mine"].startswith("mine@")
    assert "rank 16" in capsys.readouterr().out
    assert "vega" in (tmp_path / "u_curve.html").read_text(encoding="utf-8")
    assert names["best"].metrics["test_loss"] < names["best"].metrics["base_test_loss"]
    # the adapter acts: its logits differ from the bare base's
    ids = names["tokenizer"]("3 and 4 make ", return_tensors="pt")["input_ids"]
    with names["tuned"].disable_adapter():
        bare = names["tuned"](input_ids=ids).logits
    assert (names["tuned"](input_ids=ids).logits - bare).abs().max() > 0.01
    # called again, nothing is trained
    from lorakit.sweep.workers import Worker

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "_start", lambda self: pytest.fail("trained again"))
        assert len(names["lk"].run(names["specs"], "runs")) == len(names["specs"])
    # it goes on: a folder as a base, a script of one's own, trackers and the Hub (stand-ins)
    hub, sent = stand_in_hub.install(monkeypatch, tmp_path / "hub"), []
    tracker = SimpleNamespace(__spec__=True, init=lambda **named: sent.append(named["project"]), finish=lambda: None,
                              log=lambda values, step: None)
    for block in blocks()[3:]:
        with warnings.catch_warnings(), monkeypatch.context() as patched:
            if "lk.track" in block:  # TRL asks trackio for more than the stand-in has
                patched.setitem(sys.modules, "trackio", tracker)
            warnings.simplefilter("ignore")  # of TRL and datasets
            exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - it is our own text
    assert names["further"].model.startswith("checkpoint@")
    recorded = names["recorder"].record
    assert recorded.metrics["test_loss"] < recorded.metrics["base_test_loss"]
    assert sent == ["sums"] * len(names["sweep"])
    assert hub.private == {"me/sums": True}
    assert len(Store("runs-of-a-colleague").find(spec.id for spec in names["specs"])) == len(names["specs"])
    assert (tmp_path / "adapters-of-a-colleague" / names["best"].id / "adapter_config.json").exists()


def test_the_rl_example_learns_from_a_reward_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    names: dict = {"__name__": "__main__"}
    linecache.cache["<cell>"] = (0, None, blocks()[2].splitlines(True), "<cell>")  # as Jupyter keeps a cell's source
    exec(compile(blocks()[2], "<cell>", "exec"), names)  # noqa: S102 - it is our own text
    frame = names["frame"]
    assert set(frame["arm"]) == {"rank 1", "rank 8", "full"}
    assert set(frame["step"]) == {1, 2, 5, 10}
    assert (frame["reward"] > 0.5).any(), "tiny writes words in capitals"
    assert "advantage_entropy" in capsys.readouterr().out
