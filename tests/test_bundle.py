"""Bundles for hosts without a network: packed, split, checked, installed; resolving and downloading are stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lorakit as lk
from lorakit.cli import main
from lorakit.local_models import cache_folder
from lorakit.sweep import bundle
from lorakit.sweep.bundle import BundleError

HOST = {"python": "3.12", "platform": "manylinux_2_28_x86_64"}


def wheel(folder: Path, name: str, padding: bytes = b"") -> None:
    """A wheel with one module of that name."""
    info = f"{name}-1.0.dist-info"
    files = {f"{name}.py": "VALUE = 7\n", f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             f"{name}.bin": padding}
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


@pytest.fixture
def tools(monkeypatch):
    """uv and pip are stand-ins, which note their arguments and leave two wheels."""
    called = []

    def run(module, *arguments):
        called.append((module, *arguments))
        if arguments[0] == "download":
            wheel(Path(arguments[arguments.index("--dest") + 1]), "other", os.urandom(2_500_000))
        if arguments[0] == "build":
            wheel(Path(arguments[arguments.index("--out-dir") + 1]), Path(arguments[-1]).name.replace("-", "_"))

    monkeypatch.setattr(bundle, "_run", run)
    return called


def test_what_was_packed_installs_on_an_empty_host_and_a_damaged_part_is_refused(tools, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    data = lk.register_dataset("mine", [{"prompt": f"{i} ", "completion": f"{i * i}"} for i in range(50)])
    (tmp_path / "sweep.yaml").write_text(f"dataset: {data}\nlearning_rate: 1e-3\n")
    project = tmp_path / "project"
    project.mkdir()
    assert main(["bundle", str(tmp_path / "parts"), "--file", str(tmp_path / "sweep.yaml"), "--python", "3.12",
                 "--part-mb", "1", "--project", str(project)]) == 0
    parts = sorted(path.name for path in (tmp_path / "parts").glob("part-*"))
    assert len(parts) >= 3
    assert {(tmp_path / "parts" / name).stat().st_size for name in parts[:-1]} == {10**6}
    host = tmp_path / "host"
    shutil.copytree(tmp_path / "parts", host / "parts")
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": str(host), "PIP_INDEX_URL": "none"}

    def set_up(folder):
        return subprocess.run(["bash", "parts/set-up.sh", folder], cwd=host, env=environment, capture_output=True,
                              text=True, check=False)

    done = set_up("here")
    assert done.returncode == 0, done.stderr
    code = "import os, project, other; print(project.VALUE + other.VALUE, os.environ['LORAKIT_CACHE'])"
    said = subprocess.run(["bash", "-c", f'. here/activate && python -c "{code}"'], cwd=host, env=environment,
                          capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["14", str(host / "here" / "cache")], said.stderr
    assert (host / "here" / "sweep.yaml").read_text() == (tmp_path / "sweep.yaml").read_text()
    monkeypatch.setenv("LORAKIT_CACHE", str(host / "here" / "cache"))
    from lorakit.data.datasets import load_dataset

    assert load_dataset(data).hash == data.partition("@")[2]
    with (host / "parts" / parts[1]).open("r+b") as part:
        part.write(b"damaged")
    done = set_up("there")
    assert done.returncode != 0
    assert f"{parts[1]}: FAILED" in done.stdout
    assert not list((host / "there").iterdir()), "nothing is unpacked"


def test_the_host_decides_what_is_resolved_and_downloaded(tools, tmp_path):
    bundle.bundle(tmp_path / "parts", python="3.13", platform="manylinux_2_17_aarch64", extras=["train", "ray"])
    resolve, download, build = tools
    assert resolve[:3] == ("uv", "pip", "compile")
    assert {"3.13", "aarch64-manylinux_2_17", "--extra=train", "--extra=ray"} <= set(resolve)
    assert download[:2] == ("pip", "download")
    tags = [argument.partition("=")[2] for argument in download if argument.startswith("--platform")]
    assert tags[0] == "manylinux_2_17_aarch64"
    assert {"manylinux2014_aarch64", "manylinux_2_5_aarch64", "linux_aarch64"} <= set(tags)
    assert not [tag for tag in tags if "2_18" in tag or "x86" in tag]
    assert build[:2] == ("uv", "build")


def test_a_model_that_a_source_has_fetched_is_packed(tools, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    spec = lk.SFTSpec(model="base@abc123", dataset="d@1", learning_rate=1e-3)
    folder = cache_folder() / "models" / "Base-135M-abc123"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    contents = []
    monkeypatch.setattr(bundle, "pack", lambda content, *_: contents.extend(
        path.relative_to(content).as_posix() for path in content.rglob("*") if path.is_file()) or [])
    bundle.bundle(tmp_path / "parts", [spec], **HOST)
    assert "cache/models/Base-135M-abc123/config.json" in contents


@pytest.mark.parametrize(("wanted", "words"), [
    ({"platform": "win_amd64"}, "platform='win_amd64'; allowed: manylinux_2_N_x86_64"),
    ({"python": "3"}, "python='3'; allowed: a version such as 3.12"), ({"part_mb": 0}, "part_mb=0; allowed: 1"),
    ({"specs": [lk.SFTSpec(model="m@1", dataset="org/rows@1", learning_rate=1e-3)]}, "register their rows")])
def test_what_cannot_be_meant_is_refused(wanted, words, tmp_path):
    with pytest.raises(BundleError, match=words):
        bundle.bundle(tmp_path / "parts", **HOST | wanted)


def test_a_folder_that_holds_something_stays(tools, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not empty"):
        bundle.bundle(tmp_path, **HOST)


def test_a_tool_that_fails_says_so(monkeypatch, tmp_path):
    for said, words in (("x: No module named uv", "needs uv: run"), ("No matching distribution", "No matching")):
        monkeypatch.setattr(subprocess, "run", lambda *_, said=said, **__: subprocess.CompletedProcess([], 1, "", said))
        with pytest.raises(BundleError, match=words):
            bundle.bundle(tmp_path / "parts", **HOST)
