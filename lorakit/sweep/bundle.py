"""All that a host without a network needs to train: wheels, models and data, packed in parts with checksums."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lorakit.log import log
from lorakit.names import PACKAGE
from lorakit.specs import AnySpec, SFTSpec
from lorakit.sweep.belongings import belongings
from lorakit.sweep.scripts import template

CLONE = PACKAGE.parent
NAME = PACKAGE.name
PLATFORM = re.compile(r"manylinux_2_(\d+)_(x86_64|aarch64)")
OLD_NAMES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}  # by glibc 2.N
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # of a base of the hub


class BundleError(RuntimeError):
    """A bundle cannot be made of what was given, or with what is installed here."""


def bundle(folder: Path, specs: Sequence[AnySpec] = (), files: Sequence[Path] = (), *, python: str, platform: str,
           part_mb: int = 60, extras: Sequence[str] = ("train",), projects: Sequence[Path] = ()) -> list[Path]:
    """Write parts, checksums and a set-up script into a folder.

    Args:
        folder: a new one.
        specs: whose registered models, data, tasks and rewards, and bases of the hub, are packed.
        files: packed as they are, such as that of the specs.
        python: of the host, such as `3.12`.
        platform: of the host, `manylinux_2_28_x86_64` for glibc 2.28 or newer.
        part_mb: size of a part, in millions of bytes.
        extras: of the package.
        projects: folders of other packages that are built and packed with all that they need.

    Returns:
        The files written.

    Raises:
        BundleError: a value that cannot be meant, no clone, no uv or pip, or a package that has no wheel for the host.
    """
    if not re.fullmatch(r"3\.\d+", python):
        raise BundleError(f"python={python!r}; allowed: a version such as 3.12")
    if not PLATFORM.fullmatch(platform):
        raise BundleError(f"platform={platform!r}; allowed: manylinux_2_N_x86_64 or manylinux_2_N_aarch64, where 2.N "
                          "is the host's glibc (`ldd --version`), such as manylinux_2_28_x86_64")
    if part_mb < 1:
        raise BundleError(f"part_mb={part_mb}; allowed: 1 or more, in millions of bytes")
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder} is not empty: name a new folder")
    if strange := sorted({spec.dataset for spec in specs if isinstance(spec, SFTSpec) and "/" in spec.dataset}):
        raise BundleError(f"data of the hub are not packed ({', '.join(strange)}): register their rows "
                          "(lorakit.register_dataset), and name what it returns")
    with tempfile.TemporaryDirectory() as scratch:
        content = Path(scratch, "content")
        _wheels(content, python, platform, extras, [CLONE, *projects])
        for place, found in belongings(specs).items():
            for file in found:
                target = content / "cache" / place / ("" if "." in Path(place).name else file.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        for model in sorted({spec.model for spec in specs if "/" in spec.model}):
            _from_hub(model, content / "hub")
        for file in files:
            shutil.copy(file, content)
        return pack(content, folder, python, part_mb)


def _wheels(content: Path, python: str, platform: str, extras: Sequence[str], projects: Sequence[Path]) -> None:
    """Resolve for the host, download what was found, and build what lies here."""
    found = PLATFORM.fullmatch(platform)
    assert found is not None
    glibc, machine = int(found[1]), found[2]
    if not (CLONE / "pyproject.toml").exists():
        raise BundleError(f"a bundle is made in a clone of {NAME}, which this is not: {NAME} lies in {PACKAGE}")
    wheels, asked = content / "wheels", content.with_name("asked.txt")
    wheels.mkdir(parents=True)
    constraints = CLONE / "constraints.txt"
    _run("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python,
         "--python-platform", f"{machine}-manylinux_2_{glibc}", *(f"--extra={extra}" for extra in extras),
         *(["--constraint", str(constraints)] if constraints.exists() else []), "--output-file", str(asked),
         *(str(project / "pyproject.toml") for project in projects))
    tags = [f"manylinux_2_{old}_{machine}" for old in range(glibc, 4, -1)]
    tags += [f"{name}_{machine}" for old, name in OLD_NAMES.items() if old <= glibc] + [f"linux_{machine}"]
    _run("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python,
         "--implementation", "cp", *(f"--platform={tag}" for tag in tags), "--dest", str(wheels),
         "--requirement", str(asked))
    for project in projects:
        _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(project))
    log.info("%d wheels for Python %s on %s", len(list(wheels.glob("*.whl"))), python, platform)


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip()[-1500:]
        if f"No module named {module}" in said:
            raise BundleError(f"a bundle needs {module}: run `python -m ensurepip` and `python -m pip install uv`")
        raise BundleError(f"`{module} {' '.join(arguments[:2])}` found no way: {said}")


def _from_hub(model: str, cache: Path) -> None:
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=list(HUB_FILES))


def pack(content: Path, folder: Path, python: str, part_mb: int) -> list[Path]:
    """Put a folder into parts, with checksums and the set-up script; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            archive.add(content, arcname=".", filter=_of_nobody)
        whole.seek(0)
        for number, part in enumerate(iter(lambda: whole.read(part_mb * 10**6), b"")):
            (folder / f"part-{number:04d}").write_bytes(part)
    (folder / "set-up.sh").write_text(template("set-up.sh").substitute(name=NAME, python=python), encoding="utf-8")
    (folder / "set-up.sh").chmod(0o755)
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir()))
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    return sorted(folder.iterdir())


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of who packed it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
