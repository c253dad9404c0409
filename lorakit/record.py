"""What a run left: the spec that was asked, how it ended and what was measured, as one line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral
from typing import Any, Protocol

from pydantic_core import from_json

from lorakit.specs import SPECS, read_spec

SCHEMA = 1
STATUSES = ("ok", "diverged", "failed")
CURVE_POINTS = 20


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
