"""Printed scripts: what they ask for, and that a shell runs them; schedulers are stand-ins that note their calls."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lorakit as lk
from lorakit.cli import main
from lorakit.spec_file import read_specs
from lorakit.sweep.job_scripts import Job, JobScriptError, script
from lorakit.theory.fitting import DoesNotFitError

SWEEP = """
model: HuggingFaceTB/SmolLM2-135M@93efa2f097d58c2a74874c7e644dbc9b0cee75a2
dataset: d@1
steps: 1000
dtype: bfloat16
grid: {rank: [1, 16, null], learning_rate: [1e-4, 1e-3], seed: [0, 1]}
"""
NOTE = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
task = Path(sys.argv[-1])
called = {{"name": Path(sys.argv[0]).name, "arguments": sys.argv[1:],
          "task": task.read_text() if task.suffix == ".yaml" and task.exists() else None}}
with open(os.environ["CALLS"], "a") as out:
    print(json.dumps(called), file=out)
"""
VENV = """#!/bin/sh
mkdir -p environment/bin && touch environment/bin/activate
"""
ELSEWHERE = {"package": "git+https://host.example/lorakit@abc123", "repo": "me/sweep"}
KINDS = {"slurm": {}, "hf-jobs": ELSEWHERE, "skypilot": ELSEWHERE}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my sweep.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def shell(tmp_path):
    """`shell(text, **environment)`: run a script where all commands are stand-ins; returns how they were called."""
    commands, calls = tmp_path / "commands", tmp_path / "calls"
    commands.mkdir()
    for name in ("lorakit", "hf", "sky", "pip", "uv", "python"):
        (commands / name).write_text(NOTE)
    (commands / "python3").write_text(VENV)
    for path in commands.iterdir():
        path.chmod(0o755)

    def run(text: str, **environment: str):
        calls.write_text("")
        places = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls)}
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False,
                              env=places | environment)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def option(call, name):
    return call["arguments"][call["arguments"].index(name) + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_says_what_it_takes_and_a_shell_understands_it(kind, file, tmp_path):
    text = script(kind, Job(file, read_specs(file), "H200", shards=3), **KINDS[kind])
    assert re.search(r"# 12 runs of my sweep.yaml in 3 shards, each on one H200.\n# Predicted: [\d.]+ hours for the "
                     r"longest shard, [\d.]+ of a card in all, [\d.]+ dollars.", text)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-"], input=text, text=True, check=False, capture_output=True)
        assert done.returncode == 0, done.stdout


def test_slurm_runs_one_shard_a_task_within_its_time(file, shell):
    text = script("slurm", Job(file, read_specs(file), "H200", shards=3, store="runs"))
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, flags=re.MULTILINE))
    assert (asked["array"], asked["gres"]) == ("1-3", "gpu:1")
    (call,) = shell(text, SLURM_ARRAY_TASK_ID="2")
    assert call["arguments"][:6] == ["run", str(file), "--shard", "2/3", "--store", "runs"]
    hours, minutes, _ = map(int, asked["time"].split(":"))
    longest = max(part.seconds for part in Job(file, read_specs(file), "H200", shards=3).estimates())
    assert longest < int(option(call, "--time-budget")) == 3600 * hours + 60 * minutes - 300


@pytest.mark.parametrize("kind", ["hf-jobs", "skypilot"])
def test_a_machine_that_has_nothing_installs_trains_its_shard_and_pushes(kind, file, shell, tmp_path):
    job = Job(file, read_specs(file), "H200", shards=2)
    started = shell(script(kind, job, **ELSEWHERE), HF_TOKEN="a token")
    assert [call["name"] for call in started] == ["hf" if kind == "hf-jobs" else "sky"] * 2
    for number, call in enumerate(started, 1):
        given = dict(text.split("=", 1) for text in call["arguments"] if re.match("[A-Z]+=", text))
        assert given["SHARD"] == f"{number}/2"
        assert base64.b64decode(given["SPECS"]).decode() == SWEEP
        assert "a token" not in str(call), "it is named, and never given on a command line"
        if kind == "hf-jobs":
            work = call["arguments"][-1]
            assert (option(call, "--flavor"), option(call, "--timeout")) == ("h200", f"{job.seconds // 60}m")
        else:
            task = yaml.safe_load(call["task"])
            assert task["resources"]["accelerators"] == "H200:1"
            assert task["secrets"] == {"HF_TOKEN": None}
            work = task["run"]
        done = shell(work, **given)
        assert [call["name"] for call in done] == ["pip", "uv", "python", "lorakit", "python"]
        assert done[1]["arguments"][-1] == "lorakit" + f"[train] @ {ELSEWHERE['package']}"
        assert done[3]["arguments"][:4] == ["run", "specs.yaml", "--shard", f"{number}/2"]
        assert done[4]["arguments"][1] == 'import lorakit; lorakit.push("lorakit-runs", "me/sweep")'
        assert (tmp_path / "specs.yaml").read_text() == SWEEP


@pytest.mark.skipif(shutil.which("hf", path=Path(sys.executable).parent) is None, reason="no `hf` beside this Python")
def test_the_command_of_hugging_face_takes_what_the_script_gives(file, tmp_path):
    text = script("hf-jobs", Job(file, read_specs(file), "L4", shards=1), **ELSEWHERE)
    done = subprocess.run(["bash", "-c", text.replace("hf jobs run ", "hf jobs run --dry-run ")], capture_output=True,
                          text=True, check=False, cwd=tmp_path, env={
                              "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                              "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert re.search(r"flavor +l4x1", done.stdout)


def test_what_cannot_be_meant_is_refused(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    specs = read_specs(file)
    rl = [lk.GRPOSpec(task="copy", learning_rate=1e-4)]
    with pytest.raises(JobScriptError, match=r"GRPOSpec has no estimate\): give the hours of the longest shard"):
        script("slurm", Job(file, rl, "H100"))
    assert "#SBATCH --time=03:20:00" in script("slurm", Job(file, rl, "H100", hours=2))
    with pytest.raises(DoesNotFitError, match="cannot fit on one H100"):
        Job(file, [lk.SFTSpec(model="meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b", dataset="d@1",
                              learning_rate=1e-4, dtype="bfloat16", lora=None)], "H100")
    with pytest.raises(JobScriptError, match="no single H100; allowed: T4"):
        script("hf-jobs", Job(file, specs, "H100"), **ELSEWHERE)
    with pytest.raises(JobScriptError, match="package='x; rm'"):
        script("hf-jobs", Job(file, specs, "H200"), "x; rm", "me/sweep")
    mine = [lk.SFTSpec(dataset=lk.register_dataset("own", [{"text": str(i)} for i in range(50)]), learning_rate=1e-4)]
    with pytest.raises(JobScriptError, match=r"on this machine alone \(datasets/.*train them with Ray"):
        script("skypilot", Job(file, mine, "L4"), **ELSEWHERE)
    assert main(["script", "hf-jobs", str(file), "--gpu", "H200"]) == 1
    assert "needs --package" in capsys.readouterr().err
    assert main(["script", "slurm", str(file), "--shards", "2"]) == 0
    assert capsys.readouterr().out.startswith("#!/usr/bin/env bash\n#SBATCH")
