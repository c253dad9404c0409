"""All that a host without a network needs to train: wheels, models and data, packed in parts with checksums."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, BinaryIO

from lorakit.log import log
from lorakit.names import PACKAGE
from lorakit.specs import SFTSpec
from lorakit.sweep.belongings import belongings
from lorakit.sweep.call import AnySpec

CLONE = PACKAGE.parent
NAME = PACKAGE.name
PLATFORM = re.compile(r"manylinux_2_(\d+)_(x86_64|aarch64)")
OLD_NAMES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}  # by glibc 2.N
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # of a base of the hub


class _Text(Template):
    delimiter = "@@"  # a shell has its own use for $


SET_UP = _Text("""\
#!/usr/bin/env bash
# Installs @@name for Python @@python from the parts beside this file, without a network:  bash set-up.sh [FOLDER]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mkdir -p "${1:-@@name-offline}" && cd "${1:-@@name-offline}" && pwd)
(cd "$here" && sha256sum --check --quiet SHA256SUMS)
cat "$here"/part-* | tar --extract --directory "$folder"
"${PYTHON:-python@@python}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --no-index --no-deps "$folder"/wheels/*.whl
cat > "$folder/activate" <<END
. "$folder/environment/bin/activate"
export LORAKIT_CACHE="$folder/cache" HF_HUB_CACHE="$folder/hub" HF_HUB_OFFLINE=1
END
echo "Ready:  . $folder/activate"
""")


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


class _Parts(io.RawIOBase):
    """A file that is written in parts of one size, each with its checksum."""

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        self.folder, self.size = folder, size
        self.sums: dict[str, str] = {}
        self._part: BinaryIO | None = None
        self._left, self._digest = 0, hashlib.sha256()

    def writable(self) -> bool:
        """It is, and nothing else."""
        return True

    def write(self, data: Any) -> int:
        """Put bytes into the part that is open, and into as many new ones as it takes."""
        view = memoryview(data)
        while view:
            if self._part is None:
                self._part = (self.folder / f"part-{len(self.sums):04d}").open("wb")
                self._left, self._digest = self.size, hashlib.sha256()
            now, view = view[: self._left], view[self._left:]
            self._part.write(now)
            self._digest.update(now)
            self._left -= len(now)
            if not self._left:
                self._end()
        return len(data)

    def close(self) -> None:
        """End the last part."""
        self._end()
        super().close()

    def _end(self) -> None:
        if self._part is not None:
            self._part.close()
            self.sums[Path(self._part.name).name] = self._digest.hexdigest()
            self._part = None


def pack(content: Path, folder: Path, python: str, part_mb: int) -> list[Path]:
    """Put a folder into parts, with checksums and the set-up script; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with _Parts(folder, part_mb * 10**6) as parts, tarfile.open(fileobj=parts, mode="w|") as archive:
        archive.add(content, arcname=".", filter=_of_nobody)
    (folder / "set-up.sh").write_text(SET_UP.substitute(name=NAME, python=python), encoding="utf-8")
    (folder / "set-up.sh").chmod(0o755)
    sums = parts.sums | {"set-up.sh": hashlib.sha256((folder / "set-up.sh").read_bytes()).hexdigest()}
    lines = (f"{digest}  {name}\n" for name, digest in sums.items())
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    return sorted(folder.iterdir())


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of who packed it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
