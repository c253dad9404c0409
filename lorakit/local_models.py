"""A folder with a saved model as a model's name: its content is hashed, nothing is copied, and the folder may move."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lorakit.durable import write_whole

CHECKPOINT = "checkpoint"
AS_PATH = re.compile(r"(~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]")  # /x, ./x, ../x, ~/x, C:\x
# What training leaves beside a model; it says nothing about the model's numbers.
TRAINING_STATE = re.compile(r"\..*|(optimizer|scheduler|scaler)\.pt|rng_state.*|trainer_state\.json|training_args\.bin|"
                            r"README\.md")
# Fields of saved JSON that saving, loading or an upgrade of transformers changes: they say nothing about the numbers.
INCIDENTAL = ("architectures", "dtype", "transformers_version", "_name_or_path", "name_or_path", "use_cache", "padding",
              "truncation", "is_local", "local_files_only", "_from_model_config")


class CheckpointError(ValueError):
    """A folder was named as a model and cannot be one."""


def cache_folder() -> Path:
    """Where converted and registered models and datasets are kept: `$LORAKIT_CACHE`, else `~/.cache/lorakit`."""
    return Path(os.environ.get("LORAKIT_CACHE", Path.home() / ".cache" / "lorakit"))


def folder_hash(folder: Path, files: Iterable[Path] | None = None) -> str:
    """First 12 hex digits of the SHA-256 over every file of a saved model (or those given), its name and its bytes.

    Of JSON the parsed content counts, without what saving alone changes.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in files or folder.rglob("*") if path.is_file()):
        digest.update(f"\n{path.relative_to(folder).as_posix()} ".encode())
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                content = {key: value for key, value in content.items() if key not in INCIDENTAL}
            digest.update(json.dumps(content, sort_keys=True).encode())
        else:
            with path.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:12]


def model_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that belong to the model: those of the folder itself, without the training's state."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not TRAINING_STATE.fullmatch(path.name))


def name_checkpoint(folder: str | Path) -> str:
    """`checkpoint@HASH` for a folder; the hash is that of the content, and this machine notes where the folder lies.

    Raises:
        CheckpointError: no such folder, an adapter, or a part of a model is missing.
    """
    place = Path(folder).expanduser().absolute()
    if not place.is_dir():
        raise CheckpointError(f"model={str(folder)!r}: there is no such folder; give the folder that "
                              "model.save_pretrained(…) and tokenizer.save_pretrained(…) wrote")
    files = model_files(place)
    names = {path.name for path in files}
    if "adapter_config.json" in names:
        raise CheckpointError(f"model={str(folder)!r} holds an adapter, and a base has none: load it with peft, merge "
                              "it (model.merge_and_unload()) and save the whole model")
    missing = [what for what, there in (("config.json", "config.json" in names),
                                        ("weights (*.safetensors or *.bin)",
                                         any(path.suffix in (".safetensors", ".bin") for path in files)),
                                        ("tokenizer_config.json", "tokenizer_config.json" in names)) if not there]
    if missing:
        raise CheckpointError(f"model={str(folder)!r} lacks {', '.join(missing)}: save model and tokenizer into it "
                              "with save_pretrained")
    stats = [(path, path.stat()) for path in files]
    pin = _hash(place, tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats))
    note = _note(pin)
    if checkpoint_folder(pin) != place:
        write_whole(note, str(place))
    return f"{CHECKPOINT}@{pin}"


def checkpoint_folder(pin: str) -> Path | None:
    """Where the checkpoint with this hash was seen on this machine last, if ever; it may have changed since."""
    note, copy = _note(pin), cache_folder() / "models" / pin  # that another machine sent
    return Path(note.read_text(encoding="utf-8")) if note.exists() else copy if copy.is_dir() else None


def checkpoint_config(name: str) -> dict[str, Any] | None:
    """The configuration of a checkpoint, named by its folder or as `checkpoint@HASH`; None for any other name."""
    short, _, pin = name.partition("@")
    folder = (checkpoint_folder(pin) if short == CHECKPOINT else Path(name).expanduser() if AS_PATH.match(name)
              else None)
    if folder is None or not (folder / "config.json").exists():
        return None
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _note(pin: str) -> Path:
    return cache_folder() / "checkpoints" / pin


@cache
def _hash(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """The hash of the files, read once as long as their sizes and times of change stay."""
    return folder_hash(folder, [Path(name) for name, _, _ in files])
