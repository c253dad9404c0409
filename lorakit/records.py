"""What a run left: one line of JSON per run, in files that survive a kill, two writers and a full disk."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic_core import from_json

from lorakit.durable import append_line
from lorakit.specs import SPECS, read_spec

SCHEMA = 1
STATUSES = ("ok", "diverged", "failed")
CURVE_POINTS = 20
SHARD = re.compile(r"-[1-9]\d*of[1-9]\d*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class RecordError(ValueError):
    """A record, or a line that should hold one, is not what it must be."""


class SchemaError(RecordError):
    """A line was written by a version of lorakit whose records this one cannot read."""


class Spec(Protocol):
    """What a record needs of a spec; `SFTSpec` and `GRPOSpec` are some."""

    @property
    def id(self) -> str:
        """Equal specs, and only they, have equal ids."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with `kind`."""


AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what was asked (spec), how it ended (status), what was measured, and where it was measured.

    Its values are those of JSON; `from_run` makes them so.

    Args:
        spec: `spec.to_json()`.
        id: `spec.id`; one that does not belong to the spec is an error.
        status: `ok`, `diverged` (a result, too) or `failed` (kept, but the run counts as missing).
        metrics: name to number; losses in nats per label token.
        curve: name of a column (`step`, `tokens`, `train_loss`, …) to its values, all equally long, 20 at most.
        provenance: date (ISO 8601, UTC), code hash, versions, device, seconds, …: anything that JSON can hold.

    Raises:
        RecordError: which value is wrong, and what it may be.

    >>> from lorakit import SFTSpec
    >>> spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    >>> record = Record.from_run(spec, "ok", {"test_loss": 1.5}, {"step": [0, 9], "test_loss": [2.0, 1.4999999]}, {})
    >>> record.curve["test_loss"]
    [2.0, 1.5]
    >>> Record.from_line(record.to_line()) == record
    True
    """

    spec: dict[str, Any]
    id: str
    status: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    curve: dict[str, list[float | None]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise RecordError(f"status={self.status!r}; allowed: {', '.join(STATUSES)}")
        if not isinstance(self.id, str) or not self.id:
            raise RecordError(f"id={self.id!r}; allowed: the spec's id, a string")
        for name in ("spec", "metrics", "curve", "provenance"):
            if not isinstance(getattr(self, name), dict):
                raise RecordError(f"{name} must be a JSON object, got {getattr(self, name)!r}")
        lengths = {name: len(c) if isinstance(c, list | tuple) else None for name, c in self.curve.items()}
        if len(set(lengths.values())) > 1 or any(n is None or n > CURVE_POINTS for n in lengths.values()):
            raise RecordError(f"curve columns must be lists of one length, at most {CURVE_POINTS}; got {lengths}")
        _require_numbers("metrics", self.metrics.values())
        for name, column in self.curve.items():
            _require_numbers(name, column)
        _check_id(self.spec, self.id)

    @classmethod
    def from_run(cls, spec: Spec, status: str, metrics: dict[str, Any], curve: dict[str, Any],
                 provenance: dict[str, Any]) -> Record:
        """The record of a run of `spec`; `provenance` gets the date of now unless it has one.

        Numbers may be numpy's or torch's scalars; they become plain ones. NaN and infinities become None, and floats
        of the curve keep 5 significant digits (metrics keep all).
        """
        dated = {"date": datetime.now(UTC).isoformat(timespec="seconds")} | provenance
        return cls(spec=_plain(spec.to_json()), id=spec.id, status=status, provenance=_plain(dated),
                   metrics={name: _number(name, value) for name, value in metrics.items()},
                   curve={name: [_number(name, value, digits=5) for value in column] for name, column in curve.items()})

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the schema's number."""
        return {"schema": SCHEMA, "id": self.id, "status": self.status, "spec": self.spec, "metrics": self.metrics,
                "curve": self.curve, "provenance": self.provenance}

    def to_line(self) -> str:
        """One line of ASCII JSON, without the line's end."""
        try:
            return json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecordError(f"record {self.id} holds something that JSON cannot: {error}") from error

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """The record that `to_json` wrote; another schema is a SchemaError that says what to do."""
        if not isinstance(data, dict) or "schema" not in data:
            raise RecordError("not a record: a JSON object with 'schema' was expected")
        newer = type(data["schema"]) is int and SCHEMA < data["schema"] < 1000
        if data["schema"] != SCHEMA and not newer:
            raise RecordError(f"schema is no number that any lorakit wrote: {str(data['schema'])[:60]}")
        if newer:
            raise SchemaError(f"record of schema {data['schema']!r}, but this lorakit reads {SCHEMA}: update it "
                              "(`git pull` in the clone, then `pip install .`); the file was left as it is")
        try:
            return cls(**{name: value for name, value in data.items() if name != "schema"})
        except TypeError as error:
            raise RecordError(f"fields are not those of a record: {error}") from error

    @classmethod
    def from_line(cls, line: str | bytes) -> Record:
        """The record that `to_line` wrote."""
        try:
            data = from_json(line, allow_inf_nan=False)
        except ValueError as error:  # also of bytes that are not UTF-8
            raise RecordError(f"not JSON: {error}") from error
        try:
            return cls.from_json(data)
        except RecordError:
            raise
        except Exception as error:  # whatever one line holds (deep nesting, …), it takes no other
            raise RecordError(f"cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _require_numbers(name: str, values: Iterable[Any]) -> None:
    """See that a line can hold them: finite floats, whole numbers of 64 bits, None.

    Raises:
        RecordError: it cannot.
    """
    for value in values:
        if value is not None and not (type(value) is float and math.isfinite(value)) \
                and not (type(value) is int and abs(value) < 2**63):
            _number(name, value)
            raise RecordError(f"{name} holds {value!r}; allowed: a finite number, or None where there is none")


def _number(name: str, value: Any, digits: int | None = None) -> Any:
    if type(value) is int and abs(value) >= 2**63:
        raise RecordError(f"{name} is a whole number beyond 64 bits; allowed: a number, or None where there is none")
    if value is None or type(value) is int:
        return value
    if type(value) is not float:
        if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
            raise RecordError(f"{name}={value!r} is no number; allowed: a number, or None where there is none")
        value = int(value) if isinstance(value, Integral) else float(value)
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value


def _plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples as lists, None for NaN and infinities."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_id(spec: dict[str, Any], given: str) -> None:
    if spec.get("kind") not in SPECS:  # other kinds bring their own check
        return
    try:
        expected = read_spec(spec).id
    except Exception as error:  # what a line calls a spec may be anything
        raise RecordError(f"record {given} has a spec that cannot be read: {error}; if a newer lorakit wrote it, "
                          "upgrade this one") from error
    if expected != given:
        raise RecordError(f"id {given!r} does not belong to its spec, whose id is {expected!r}: the line was edited by "
                          f"hand, or a default of {SPECS[spec['kind']].__name__} changed;"
                          " restore the line, or delete it and run again")


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
