"""Half-way states of runs, so that what was killed goes on: a file for each pack, replaced whole and checked when read.

A file holds all that decides the rest of the numbers: trained weights, their moments, random states, and what was
measured so far. That is 12 bytes a trained weight in single precision, 4 more for bfloat16 weights with masters, and
the base where runs change it (PiSSA, policies that are merged to sample); twice as much while a new file takes the
place of the old one. A pack has one file, from its first minutes to its records. Files are in the format of
safetensors, which no code hides in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.durable import sync_folder

if TYPE_CHECKING:
    import torch

EVERY = 300.0  # seconds between two writes: ten minutes are lost at most where steps take less than five
FOLDER = ".checkpoints"  # of a store


class CheckpointWarning(UserWarning):
    """A checkpoint could not be used, or not be written."""


@dataclass(frozen=True)
class Saved:
    """A half-way state.

    Args:
        step: optimizer steps that were done.
        tensors: by name.
        facts: everything else, as JSON holds it.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


def path_of(folder: str | Path, engine: str, ids: Sequence[str]) -> Path:
    """The file of a pack, which its engine and the ids of its specs, in order, decide."""
    name = hashlib.sha256(" ".join([engine, *ids]).encode()).hexdigest()[:16]
    return Path(folder) / f"{name}.safetensors"


def head(path: Path) -> dict[str, Any]:
    """What a file says of itself, read without torch: `engine`, `ids`, `made`, `step`, `facts`, `checksum`.

    Raises:
        OSError, ValueError, KeyError: no file, or none of ours.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("it is shorter than it says")
        return dict(json.loads(json.loads(file.read(length))["__metadata__"]["lorakit"]))


def unfinished(folder: str | Path) -> list[tuple[str, tuple[str, ...]]]:
    """Engine and ids of the packs that have a file here, the oldest first."""
    found = []
    for path in sorted(Path(folder).glob("*.safetensors"), key=lambda path: path.stat().st_mtime):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = head(path)
            found.append((str(said["engine"]), tuple(map(str, said["ids"]))))
    return found


def remove(folder: str | Path, engine: str, ids: Sequence[str]) -> None:
    """Take a pack's file away, and the folder with the last one."""
    path = path_of(folder, engine, ids)
    for part in (path, path.with_suffix(".tmp")):
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are in it, or it has never been
        path.parent.rmdir()


def _warn(text: str) -> None:
    warnings.warn(text, CheckpointWarning, stacklevel=4)


class Checkpoint:
    """One pack's file.

    Args:
        folder: made when it is first needed.
        engine: that trains the pack.
        ids: of its specs, in order.
        made: epoch, versions and device of this run: a file that another code or device wrote is not used.
        every: seconds between two writes; 0 writes after each step.
        warn: gets the words where a file is not used or not written; a CheckpointWarning by default.
    """

    def __init__(self, folder: str | Path, engine: str, ids: Iterable[str], made: Mapping[str, Any],
                 every: float = EVERY, warn: Callable[[str], None] = _warn) -> None:
        self._about = {"engine": engine, "ids": list(ids), "made": json.loads(json.dumps(dict(made)))}
        self.path = path_of(folder, engine, self._about["ids"])
        self.every, self.warn = every, warn
        self.resumed_at: list[int] = []  # steps at which this pack went on, in all processes that trained it
        self._written = time.monotonic()

    def load(self) -> Saved | None:
        """The state to go on from; None where there is none, or none that can be used (which is removed)."""
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - a damaged file may raise anything, and costs only what it held
            why = str(error) if isinstance(error, CheckpointWarning) else f"it is damaged ({error!r})"
            self.warn(f"the checkpoint {self.path.name} is not used, since {why}: its runs start at their first step")
            self.path.unlink(missing_ok=True)
            return None

    def _read(self) -> Saved:
        said, own = head(self.path), self._about["made"]
        other = sorted(name for name in said["made"].keys() | own.keys() if said["made"].get(name) != own.get(name))
        if other or any(said[name] != self._about[name] for name in ("engine", "ids")):
            raise CheckpointWarning(f"it is of another run ({', '.join(other) or 'other specs'} differ)")
        from safetensors.torch import load_file

        tensors = load_file(self.path)
        if _checksum(tensors) != said["checksum"]:
            raise CheckpointWarning("it is damaged (its checksum differs)")
        self.resumed_at = [*said["resumed_at"], said["step"]]
        return Saved(said["step"], tensors, said["facts"])

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written >= self.every

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Put a state in the place of the one before; what the disk refuses is a warning, and training goes on.

        Args:
            step: optimizer steps done.
            tensors: none two of which share memory.
            facts: everything else that `load` is to return, as JSON holds it.
        """
        from safetensors.torch import save_file

        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in whole.values())
        said = {**self._about, "step": step, "facts": dict(facts), "checksum": _checksum(whole),
                "resumed_at": self.resumed_at}
        partial = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.path.parent).free < 2 * size:
                raise OSError(f"it would take {size / 1e9:.2g} GB, more than half of what is free")
            save_file(whole, partial, {"lorakit": json.dumps(said)})
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.path)
            sync_folder(self.path.parent)
        except Exception as error:  # noqa: BLE001 - safetensors raises its own where the disk is full
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            self.warn(f"no checkpoint of step {step} was written: {error}")
        self._written = time.monotonic()


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    import torch

    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode(), found)
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), found)
    return found
