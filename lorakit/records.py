"""The records of runs in files of JSON lines that survive a kill, two writers and a full disk."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic_core import from_json

from lorakit.durable import append_line
from lorakit.record import CURVE_POINTS as CURVE_POINTS
from lorakit.record import Record, RecordError, SchemaError, Spec

SHARD = re.compile(r"-[1-9]\d*of[1-9]\d*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
AnySpec = TypeVar("AnySpec", bound=Spec)


class Store:
    """Records in JSON Lines: `root/<experiment>.jsonl`, or `root/<profile>/<experiment>.jsonl` under a profile.

    A shard of an experiment has a file of its own, `<experiment>-3of8.jsonl`, which is read with the experiment's.

    A run exists when its whole line does. Lines that are torn or corrupt are skipped, kept in the file, and
    listed in `problems`. A line is checked once; what is held of it is its text, and records are made of those that
    are asked for. Appends hold a lock on the file and end in fsync, so several processes may write.

    >>> import tempfile
    >>> from lorakit import SFTSpec
    >>> store = Store(tempfile.mkdtemp())
    >>> specs = [SFTSpec(model="m@1", dataset="d@1", learning_rate=rate) for rate in (1e-3, 1e-2)]
    >>> store.append(None, "rank", Record.from_run(specs[0], "ok", {"test_loss": 1.5}, {}, {}))
    >>> [spec.learning_rate for spec in store.missing(specs)]
    [0.01]
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise NotADirectoryError(f"{self.root} is a file, and a store of records is a folder: name another place")
        self._read_files: dict[Path, tuple[tuple[int, int, int], list[_Line], list[str]]] = {}

    def path(self, profile: str | None, experiment: str) -> Path:
        """The file of an experiment, under a profile if there is one; names are letters, digits, `-` and `_`."""
        for what, name in (("profile", profile), ("experiment", experiment)):
            if not (name is None and what == "profile") and not (isinstance(name, str) and NAME.fullmatch(name)):
                raise ValueError(f"{what}={name!r}; allowed: up to 100 letters, digits, '-' and '_', no sign first")
        return self.root / (profile or "") / f"{experiment}.jsonl"

    def append(self, profile: str | None, experiment: str, record: Record) -> None:
        """Add a run, durably: when this returns, its line is on the disk.

        Raises:
            StoreError: a full disk, or no permission; the file is as it was before.
        """
        append_line(self.path(profile, experiment), record.to_line().encode())

    def records(self, profile: str | None, experiment: str) -> list[Record]:
        """The runs of an experiment, one record per id: the newest that did not fail, else the newest."""
        path = self.path(profile, experiment)
        shards = (other for other in sorted(path.parent.glob(f"{experiment}-*of*.jsonl"))
                  if SHARD.fullmatch(other.stem.removeprefix(experiment)))
        lines = (line for file in (path, *shards) for line in self._read(file)[1])
        return [line.record() for line in _newest(lines).values()]

    def find(self, ids: Iterable[str], engine: str | None = None) -> dict[str, Record]:
        """The newest record that did not fail of each id, from all files; ids without one are left out.

        What `Recorder` made of somebody's own script is none: no engine of lorakit has trained it.

        Args:
            ids: of specs, which do not say who trained them.
            engine: count only the records that this engine made; None counts any engine's.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids={ids!r} is one string; give a list of ids")
        found = self._find(wanted := dict.fromkeys(ids), engine)
        return {wanted_id: found[wanted_id].record() for wanted_id in wanted if wanted_id in found}

    def missing(self, specs: Iterable[AnySpec], engine: str | None = None) -> list[AnySpec]:
        """The specs, each once, that no file has a record for (a failed run is none), of the named engine if any."""
        by_id = {spec.id: spec for spec in specs}
        found = self._find(by_id, engine)
        return [spec for spec_id, spec in by_id.items() if spec_id not in found]

    def _find(self, ids: Mapping[str, Any], engine: str | None) -> dict[str, _Line]:
        lines = (line for path in self._files() for line in self._read(path)[1])
        return _newest(line for line in lines if line.id in ids and not line.failed and not line.recorded
                       and engine in (None, line.engine))

    @property
    def problems(self) -> list[str]:
        """What was skipped in any file, with its line number."""
        return [problem for path in self._files() for problem in self._read(path)[2]]

    @property
    def files(self) -> list[tuple[str | None, str]]:
        """Profile (or None) and experiment of every file there is."""
        return [(None if path.parent == self.root else path.parent.name, path.stem) for path in self._files()]

    def _files(self) -> list[Path]:
        return sorted([*self.root.glob("*.jsonl"), *self.root.glob("*/*.jsonl")])

    def _read(self, path: Path) -> tuple[tuple[int, int, int], list[_Line], list[str]]:
        try:
            stat = path.stat()
            version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if path in self._read_files and self._read_files[path][0] == version:
                return self._read_files[path]
            file = path.open("rb")
        except FileNotFoundError:
            return (0, 0, 0), [], []
        lines: list[_Line] = []
        problems: list[str] = []
        with file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    lines.append(_Line.of(text))
                except SchemaError as error:
                    raise SchemaError(f"{path}:{number}: {error}") from None
                except RecordError as error:
                    torn = not text.endswith(b"\n") and str(error).startswith("not JSON")
                    what = "skipped, torn last line (a killed writer, or one at work)" if torn else "skipped"
                    problems.append(f"{path}:{number}: {what}: {error}; a run that has no other line will run again")
        self._read_files[path] = (version, lines, problems)
        return self._read_files[path]


class _Line(NamedTuple):
    """A line that was checked, and what is asked of it before it becomes a record again."""

    id: str
    failed: bool
    date: str
    engine: str | None
    recorded: bool  # by `Recorder`, of somebody's own script
    text: bytes

    @classmethod
    def of(cls, text: bytes) -> _Line:
        record = Record.from_line(text)
        made = record.provenance
        return cls(record.id, record.status == "failed", sys.intern(str(made.get("date", ""))), made.get("engine"),
                   "recorder" in made, text)

    def record(self) -> Record:
        record = object.__new__(Record)
        record.__dict__.update({"metrics": {}, "curve": {}, "provenance": {}} | from_json(self.text))
        del record.__dict__["schema"]
        return record


def _newest(lines: Iterable[_Line]) -> dict[str, _Line]:
    """The newest line of each id that did not fail, else the newest; of one date, the later line."""
    best: dict[str, _Line] = {}
    for line in lines:
        if line.id not in best or (not line.failed, line.date) >= (not best[line.id].failed, best[line.id].date):
            best[line.id] = line
    return best
