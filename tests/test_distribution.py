"""What is handed on: a source distribution, and a wheel built from it, as an installer would."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build(what: str, folder: Path) -> Path:
    """One distribution of the project in `folder`, by its own backend and without a network."""
    code = f"from setuptools import build_meta as b; b.build_{what}('dist')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Names in the source distribution, names in the wheel, and the wheel's metadata."""
    folder = tmp_path_factory.mktemp("project")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", ":!book/results"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    sdist = build("sdist", folder)
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked)) as wheel:
        metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        size = sum(part.compress_size for part in wheel.infolist())
        return listed, names, wheel.namelist(), Parser().parsestr(wheel.read(metadata).decode()), size


def test_licence_and_notice_travel_with_the_texts_that_they_are_about(distributions):
    _, sdist, wheel, metadata, _ = distributions
    for name in ("LICENSE", "NOTICE"):
        assert name in sdist
        assert [path for path in wheel if path.endswith(f".dist-info/licenses/{name}")]
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]


def test_the_wheel_holds_the_whole_package_and_nothing_else(distributions):
    tracked, _, wheel, _, _ = distributions
    assert {name for name in wheel if ".dist-info/" not in name} == {n for n in tracked if n.startswith("lorakit/")}


def test_the_source_distribution_holds_no_test_that_lacks_its_data(distributions):
    _, sdist, _, _, _ = distributions
    assert not [name for name in sdist if name.startswith("tests")]
    assert {"README.md", "CITATION.cff", "constraints.txt", "pyproject.toml"} <= set(sdist)


def test_the_wheel_is_small(distributions):
    *_, size = distributions
    assert size <= 1_500_000
