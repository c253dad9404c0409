"""What README and the workflow `gpu` do on a GPU machine, executed as it stands against stand-ins."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kill_refresh import LORABOOK, ROOT, small_book

from lorabook.cli import main

HOPPER = "NVIDIA H100 80GB HBM3"
JOBS = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text(encoding="utf-8"))["jobs"]


def step(job: str, words: str) -> str:
    """The script of the step that holds these words."""
    (found,) = [one["run"] for one in JOBS[job]["steps"] if words in one.get("run", "")]
    return str(found)


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a runner runs it: the first command that fails ends it."""
    return subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True,
                          check=False, env=os.environ | environment)


@pytest.fixture
def machine(tmp_path):
    """A small book on a machine with one GPU, where `lorabook` and `.venv/bin/lorabook` are the real command."""
    program(tmp_path / "bin" / "nvidia-smi", "echo 'GPU 0: an NVIDIA GPU'")
    program(tmp_path / "bin" / "conda", 'echo "$@" >> conda.txt')
    text = f'exec {shlex.quote(sys.executable)} -c {shlex.quote(LORABOOK)} "$@"'
    program(tmp_path / "bin" / "lorabook", text)
    book = small_book(tmp_path / "clone")
    program(book / ".venv" / "bin" / "lorabook", text)
    paths = [str(ROOT / "tests" / "cuda_stand_in"), str(ROOT), str(ROOT / "book")]
    return book, {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(paths),
                  "STAND_IN_GPUS": HOPPER, "LORAKIT_RESULTS": str(book / "book" / "results")}


def devices(book: Path) -> list[str]:
    lines = (book / "book/results/gpu/first.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["provenance"]["device"] for line in lines]


def test_the_readme_s_lines_do_what_they_say(machine):
    book, environment = machine
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("## On a GPU\n")[2]
    script = re.search(r"```bash\n(.*?)```", part, flags=re.DOTALL)[1]
    assert len(script.splitlines()) <= 10
    done = bash(script, book, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (book / "conda.txt").read_text() == "env create -f environment.yml\nactivate lorakit\n"
    assert "1 classes ran, 0 failed, 0 not run" in done.stdout
    assert "first: 4 of 4 runs missing; all of them fit on one H100" in done.stdout
    assert "01-first: executed (never executed), 4 runs trained" in done.stdout
    assert devices(book) == [HOPPER] * 4


def test_the_workflow_trains_within_its_budget(tmp_path, monkeypatch):
    """What the command does is the test above."""
    program(tmp_path / ".venv" / "bin" / "lorabook", 'echo "$@" > asked')
    done = bash(step("refresh", "lorabook refresh"), tmp_path, CHAPTERS="first rank", HOURS="1.5", DOLLARS="20")
    assert done.returncode == 0, done.stderr
    asked = []
    monkeypatch.setattr("lorabook.cli.seconds_for", lambda dollars: 90 * dollars)
    monkeypatch.setattr("lorabook.refresh.refresh", lambda *given, **named: asked.append((given, named)) or [])
    assert main((tmp_path / "asked").read_text().split()) == 0
    (given, named), = asked
    assert given == (["first", "rank"], "gpu", "record", {})
    assert named["time_budget"] == 90 * 20 < 3600 * 1.5, "the lesser of the two"


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (3, 0), (1, 1)])
def test_a_spent_budget_is_no_failure(tmp_path, status, ends):
    program(tmp_path / ".venv" / "bin" / "lorabook", f'echo "$@" > asked; exit {status}')
    done = bash(step("refresh", "lorabook refresh"), tmp_path, CHAPTERS="", HOURS="1.5", DOLLARS="")
    assert done.returncode == ends
    assert (tmp_path / "asked").read_text() == "refresh --profile gpu --time-budget 5400\n"
    assert ("::notice::" in done.stdout) == (status == 3)


def test_a_machine_without_a_gpu_is_named(tmp_path):
    script = step("refresh", "for tool in")
    for tool in ("git", "make"):
        program(tmp_path / tool, "true")
    done = subprocess.run(["/bin/bash", "-eo", "pipefail", "-c", script], capture_output=True, text=True, check=False,
                          env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "::error::this runner has no nvidia-smi" in done.stdout


def test_new_records_become_a_branch_whose_checks_start_and_unchanged_ones_nothing(tmp_path):
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path / "clone", capture_output=True, text=True, check=True)
        return done.stdout

    environment = {"HOME": str(tmp_path), "GITHUB_RUN_ID": "7", "BRANCH": "gpu-records-7-1", "GIT_CONFIG_NOSYSTEM": "1",
                   "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    program(tmp_path / "gh", f'echo "$1 $2 $3" >> {tmp_path / "asked"}')
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "origin")], check=True)
    subprocess.run(["git", "clone", "-q", str(tmp_path / "origin"), str(tmp_path / "clone")], check=True,
                   capture_output=True)
    records = tmp_path / "clone" / "book" / "results" / "gpu"
    records.mkdir(parents=True)
    (records / "rank.jsonl").write_text("{}\n")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", "first")
    script = step("propose", "gh pr create")
    done = bash(script, tmp_path / "clone", **environment)
    assert (done.returncode, done.stdout) == (0, "No record changed.\n")
    assert not (tmp_path / "asked").exists()
    (records / "rank.jsonl").write_text("{}\n{}\n")
    done = bash(script, tmp_path / "clone", **environment)
    assert done.returncode == 0, done.stderr
    assert git("ls-remote", "--heads", "origin").split()[1] == "refs/heads/gpu-records-7-1"
    assert git("log", "-1", "--format=%an").strip() == "github-actions[bot]"
    assert (tmp_path / "asked").read_text().splitlines() == [
        "auth setup-git ", "pr create --base", "workflow run tests.yml", "workflow run book.yml"]
