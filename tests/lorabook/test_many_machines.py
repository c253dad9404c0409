"""The README's section *On many machines*, line by line as it stands, in a shell of stand-ins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lorakit as lk
from lorabook.cli import main as book
from lorakit import cli
from lorakit.records import Store
from lorakit.sweep import sweeps

ROOT = Path(__file__).parents[2]
SECTION = re.search(r"## On many machines\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
NOTE = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as out:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=out)
if sys.argv[1:2] == ["script"]:  # the real one: a shell gets what it prints
    from lorakit.cli import main
    sys.exit(main(sys.argv[1:]))
"""
SBATCH = """#!/bin/sh
for task in 1 8; do SLURM_ARRAY_TASK_ID=$task bash "$1"; done
"""


def test_each_line_is_a_call_that_the_commands_take(tmp_path, monkeypatch):
    assert len(SECTION.splitlines()) <= 10
    commands, calls = tmp_path / "commands", tmp_path / "calls"
    commands.mkdir()
    for name in ("ray", "lorakit", "sbatch"):
        (commands / name).write_text(SBATCH if name == "sbatch" else NOTE)
        (commands / name).chmod(0o755)
    (tmp_path / "sweep.yaml").write_text("learning_rate: 1e-3\ngrid: {rank: [1, 2, 16, 64, null], seed: [0, 1, 2, 3]}")
    done = subprocess.run(["bash", "-euc", SECTION], cwd=tmp_path, capture_output=True, text=True, check=False, env={
        **os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "book")])})
    assert done.returncode == 0, done.stderr
    called = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [call[:2] for call in called] == [["ray", "start"], *[["lorakit", "run"]] * 2, ["lorakit", "script"],
                                             *[["lorakit", "run"]] * 2, ["lorakit", "bundle"]]
    # the real command takes each of these, and trains what it says
    monkeypatch.chdir(tmp_path)
    asked: list = []
    monkeypatch.setattr(lk, "run", lambda specs, store, **wanted: asked.append((specs, wanted)) or lk.Sweep([]))
    monkeypatch.setattr(cli, "write_bundle", lambda folder, specs, files, **wanted: asked.append((specs, wanted)) or [])
    statuses = [cli.main(call[1:]) for call in called if call[0] == "lorakit" and call[1] != "script"]
    (whole, on_ray), (third, alone), (first, task), (_, last), (packed, host) = asked
    assert statuses == [cli.INCOMPLETE] * 4 + [0], "a stand-in trains nothing"
    assert (on_ray["executor"], on_ray["ray_address"]) == ("ray", "auto")
    assert alone["executor"] == "local"
    assert [wanted["experiment"] for wanted in (alone, task, last)] == ["runs-3of8", "runs-1of8", "runs-8of8"]
    assert len(whole) == len(packed) == 20
    assert 0 < len(third) < 20
    assert 0 < len(first) < 20
    assert (task["device"], host["python"]) == ("cuda", "3.12")
    assert task["time_budget"] > 0
    assert Store(tmp_path / "lorakit-runs").files == []


def test_an_experiment_of_the_book_runs_in_shards_and_on_ray(tmp_path, monkeypatch):
    asked: list = []
    monkeypatch.setattr(sweeps, "run", lambda specs, store, **wanted: asked.append((specs, wanted)) or lk.Sweep([]))
    for more in (["--shard", "2/3"], ["--shard", "2/3", "--size", "live"], ["--ray", "head:6379"],
                 ["--vllm-server", "host:8000"]):
        assert book(["run", "rank", "--results", str(tmp_path), *more]) == cli.INCOMPLETE
    assert [wanted["experiment"] for _, wanted in asked] == ["rank-2of3", "rank-live-2of3", "rank", "rank"]
    assert [(wanted["executor"], wanted["ray_address"]) for _, wanted in asked] == [
        ("local", None), ("local", None), ("ray", "head:6379"), ("local", None)]
    assert [wanted["vllm_server"] for _, wanted in asked] == [None, None, None, "host:8000"]
    assert 0 < len(asked[0][0]) < len(asked[2][0])
    assert book(["run", "rank", "--results", str(tmp_path), "--shard", "4/3"]) == 1
