import os
import re
import runpy
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT, BOOK = (tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
                 for folder in ("", "book/lorabook"))
PINS = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")]
TORCH = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "vllm"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements}


def triggers(workflow: dict) -> dict:
    return workflow[True]  # YAML 1.1 reads the key `on` as a truth value


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    # `make test` runs us: what it exports to its children must not reach the make under test
    outer = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "UV_FIND_LINKS")}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
                          env=outer | environment)


def test_the_books_wheel_holds_all_that_its_commands_import():
    text = (ROOT / "book" / "lorabook" / "pyproject.toml").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "book" / "lorabook").glob("*/*.py")} - {"pretrain"}  # scripts alone
    assert set(tomllib.loads(text)["tool"]["setuptools"]["packages"]) == {
        "lorabook", *(f"lorabook.{name}" for name in folders)}


def test_files_of_tests_that_come_first_or_are_slow_by_name_are_there():
    named = runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    assert {*named["FIRST"], *named["LONG"]} <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_constraints_are_exact_and_name_no_place():
    for pin in PINS:
        assert re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.]+", pin), pin
    pinned = [pin.split("==")[0] for pin in PINS]
    assert pinned == sorted(set(pinned))
    assert "torch==2.13.0" in PINS


def test_constraints_pin_every_direct_dependency():
    extras = PROJECT["optional-dependencies"]
    direct = names(PROJECT["dependencies"] + extras["train"] + extras["ray"] + extras["dev"] + BOOK["dependencies"])
    assert direct <= {pin.split("==")[0] for pin in PINS}


def test_packages_whose_insides_are_used_have_an_upper_bound_that_holds_the_pinned_version():
    train = {re.split(r"[^a-z-]", line)[0]: line for line in PROJECT["optional-dependencies"]["train"]}
    pinned = dict(pin.split("==") for pin in PINS)
    for package in ("trl", "peft", "transformers"):
        allowed = SpecifierSet(train[package].removeprefix(package))
        assert any(clause.operator == "<" for clause in allowed), package
        assert pinned[package] in allowed


def test_the_newest_versions_are_tried_without_constraints():
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    steps = [step["run"] for step in jobs["newest"]["steps"] if "run" in step]
    (install,) = [step for step in steps if ".[train" in step]
    assert "constraint" not in install
    assert steps[-1].endswith("pytest")


def test_torchvision_is_never_let_in():
    assert not {"torchvision", "torchaudio"} & {pin.split("==")[0] for pin in PINS}


def test_base_install_needs_no_torch():
    assert not names(PROJECT["dependencies"]) & TORCH
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"train", "vllm", "gym", "ray", "dev"}
    assert not TORCH & names(extras["dev"] + BOOK["dependencies"])
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_nothing_sends_anyone_to_a_package_that_is_not_ours():
    """No index holds lorakit: whoever took the name would be installed. A path or an extra of the clone is meant."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    on_an_index = re.compile(r"lorakit" r"\[|trl" r"\[vllm|"
                             r"(?:pip install|uv add|uvx|pipx \w+)(?:[ \"']+-[-\w=]+)*[ \"']+lorakit\b")
    assert on_an_index.search("pip install --upgrade " + "lorakit")
    assert not on_an_index.search("pip install '.[train]'` in a clone of lorakit")
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".cff", ""} and path.is_file():
            found = on_an_index.search(" ".join(path.read_text(encoding="utf-8").split()))
            assert not found, f"{name}: {found[0]}"


def test_conda_environment_installs_the_pinned_extras():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c constraints.txt", "-e .[train,dev,vllm]", "-e ./book/lorabook"]
    (python,) = [entry.partition("=")[2] for entry in environment["dependencies"] if str(entry).startswith("python=")]
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert f"python_version >= '{python}'" in PROJECT["optional-dependencies"]["vllm"][0], "the oldest that vLLM takes"
    named = {re.split(r"[=<>]", entry)[0] for entry in environment["dependencies"] if isinstance(entry, str)}
    assert named == {"python", "pip", "make", "git"}, "all packages come from pip, at the versions of constraints.txt"


def test_ci_runs_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for command in ("make test", "make book"):
        assert f"\n{command}\n" in script
        assert f"\n{command} " in readme


def test_make_builds_with_warnings_as_errors_and_passes_the_size():
    dry = make("--dry-run", "--assume-old=.venv/.ready", "book", "SIZE=live").stdout
    assert "LORAKIT_SIZE=live" in dry
    assert re.search(r"jupyter-book build \. -W -n --keep-going", dry)
    assert "_build/html/index.html" in dry


def test_make_refuses_an_unknown_size():
    done = make("--dry-run", "book", "SIZE=big")
    assert done.returncode != 0
    assert "SIZE=big is unknown; allowed: record" in done.stderr


def fresh_copy(folder: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "book/lorabook/pyproject.toml", "constraints.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def test_make_names_an_unsuitable_python(tmp_path):
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make("-C", str(fresh_copy(tmp_path)), "test", f"PYTHON={old}")
    assert done.returncode != 0
    assert "lorakit needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert "make test PYTHON=python3.12" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_gives_uv_the_wheels_that_pip_is_told_of(tmp_path):
    probe = tmp_path / "probe.mk"
    probe.write_text(f"include {ROOT / 'Makefile'}\nprobe:\n\t@echo \"$$UV_FIND_LINKS|$$VIRTUAL_ENV\"\n")
    environment = {"PIP_FIND_LINKS": "/wheels /more", "VIRTUAL_ENV": "/another"}
    assert make("-f", str(probe), "probe", **environment).stdout == "/wheels,/more|\n"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_pin_actions_limit_rights_and_end(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert "pull_request_target" not in text
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] > 0, name
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "text of an event in a script can run as code; pass it by env"
    for line in re.findall(r"uses:.*", text):
        assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_workflows_are_the_three_that_the_book_needs():
    assert [path.stem for path in WORKFLOWS] == ["book", "gpu", "tests"]
    tests, book = (yaml.safe_load((ROOT / f".github/workflows/{n}.yml").read_text()) for n in ("tests", "book"))
    assert tests["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert book["jobs"]["deploy"]["if"] == "github.ref == 'refs/heads/main'"
    assert book["jobs"]["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert book["jobs"]["notebooks"]["if"] == "github.ref == 'refs/heads/main'"


def test_gpu_workflow_never_runs_for_a_pull_request():
    workflow = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text(encoding="utf-8"))
    assert set(triggers(workflow)) == {"workflow_dispatch", "schedule"}
    refresh, propose = workflow["jobs"]["refresh"], workflow["jobs"]["propose"]
    assert "self-hosted" in refresh["runs-on"]
    assert "refs/heads/main" in refresh["if"]
    assert "permissions" not in refresh, "the job on our own machine may read and nothing else"
    assert propose["runs-on"] == "ubuntu-latest"
    assert propose["permissions"] == {"actions": "write", "contents": "write", "pull-requests": "write"}
    assert all(step["with"]["persist-credentials"] is False for job in (refresh, propose) for step in job["steps"]
               if "actions/checkout" in step.get("uses", ""))
    scripts = [step["run"] for step in refresh["steps"] if "run" in step]
    order = [next(i for i, script in enumerate(scripts) if words in script) for words in (
        "make .venv/.ready", "pytest -m gpu", "lorabook rehearse --profile gpu", "lorabook refresh --profile gpu")]
    assert order == sorted(order)


def test_gpu_workflow_keeps_its_environment_tests_the_gpu_and_starts_the_checks_of_its_pull_request():
    workflow = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text(encoding="utf-8"))
    refresh, propose = (workflow["jobs"][name]["steps"] for name in ("refresh", "propose"))
    assert refresh[0]["with"]["clean"] is False
    assert "--exclude=.venv" in refresh[2]["run"]
    assert "setup-python" in refresh[3]["uses"]
    (tested,) = (step for step in refresh if "-m gpu" in step.get("run", ""))
    assert tested["env"] == {"LORAKIT_GPU": "1"}
    started = set(re.findall(r"gh workflow run (\w+)\.yml", propose[-1]["run"]))
    assert started == {"tests", "book"}
    for name in started:
        assert "workflow_dispatch" in triggers(yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text()))


def test_pre_commit_hooks_use_the_pinned_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["id"] for hook in hooks[0]["hooks"]} >= {"ruff", "mypy"}


def test_this_python_is_one_of_those_promised():
    assert (3, 11) <= sys.version_info[:2] <= (3, 13)


def test_the_book_reads_no_page_of_an_environment():
    """Each environment that the Makefile makes in the clone holds Markdown of its packages."""
    made = set(re.findall(r"\.venv[\w-]*", (ROOT / "Makefile").read_text(encoding="utf-8")))
    patterns = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["exclude_patterns"]
    assert len(made) == 2
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in made)


def test_the_book_reads_no_page_of_a_hidden_folder():
    """Jupyter Book leaves out what its contents do not name, but does not look into hidden folders."""
    patterns = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["exclude_patterns"]
    hidden = {path.relative_to(ROOT).parts[0] for path in ROOT.glob(".*/**/*.md")}
    assert ".github" in hidden
    assert not [name for name in hidden if not any(fnmatch(name, pattern) for pattern in patterns)]
