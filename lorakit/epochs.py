"""Numerical epochs: which records today's code would repeat, known by a number and not by a hash of source files.

An engine's epoch for a kind of run changes only when its numbers do. Whether a change of code keeps them, the golden
curves of the tests show; a change that must alter numbers opens an epoch below, says why, and names the specs that it
touches. Only those are stale, and only those are trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.records import Record


class StaleRecordsWarning(UserWarning):
    """Records belong to another numerical epoch: today's code would give other numbers."""


@dataclass(frozen=True)
class Epoch:
    """A stretch of code that gives the same numbers.

    Args:
        number: 1, 2, …, one more than the epoch before.
        opened: date, ISO 8601.
        reason: what changed the numbers, and why it had to.
        touches: whether a spec (as JSON) has other numbers than in the epoch before.
    """

    number: int
    opened: str
    reason: str
    touches: Callable[[Mapping[str, Any]], bool]


def _first(opened: str) -> tuple[Epoch, ...]:
    return (Epoch(1, opened, "the first records", lambda spec: True),)


# By engine and kind of run. A user's own engine or kind has no history: its records are never stale.
EPOCHS: dict[tuple[str, str], tuple[Epoch, ...]] = {
    ("packed", "sft"): _first("2026-11-22"),
    ("peft", "sft"): _first("2026-11-22"),
    ("trl", "sft"): _first("2026-11-22"),
    ("packed", "grpo"): (
        *_first("2026-11-22"),
        Epoch(2, "2026-11-25", "the scheme numeric reads more forms of a number (42., .5, other signs of minus), as a "
              "right answer has to be paid in any of them; a policy that samples such a form is paid otherwise",
              lambda spec: spec.get("reward") == "numeric"),
    ),
    ("trl", "grpo"): _first("2026-11-22"),
}

# Records older than epochs carry a hash of source files instead; these are all that were ever recorded.
EPOCH_OF_HASH = {
    ("packed", "sft"): dict.fromkeys(("0994a1f00f78c0a9", "2a2c60e94aabf3dd", "635261b41b14d30e", "69912e6cc79c6468",
                                      "6b87781524365c38", "cc3109ab593dc34c", "de506cd3190f6012"), 1),
    ("peft", "sft"): {"b58e15a31309a347": 1},
    ("packed", "grpo"): {"483e42db38566359": 1},
}


def current(engine: str, kind: str) -> int:
    """The epoch of a run that is made now.

    >>> current("packed", "sft") >= 1
    True
    """
    history = EPOCHS.get((engine, kind))
    return history[-1].number if history else 1


def epoch_of(record: Record) -> int | None:
    """The epoch in which a record was made; None if it carries none and its code hash is unknown."""
    engine, kind = str(record.provenance.get("engine")), str(record.spec.get("kind"))
    given = record.provenance.get("epoch")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    return EPOCH_OF_HASH.get((engine, kind), {}).get(str(record.provenance.get("code")))


def stale(records: Iterable[Record]) -> list[Record]:
    """The records whose numbers today's code would not repeat.

    Those are the ones that a later epoch touches, and those of unknown code. Failed records are left out, since they
    count as missing, and so are engines and kinds without a history.
    """
    return [record for record in records if record.status != "failed" and _is_stale(record)]


def _is_stale(record: Record) -> bool:
    history = EPOCHS.get((str(record.provenance.get("engine")), str(record.spec.get("kind"))), ())
    made = epoch_of(record)
    return any(made is None or (epoch.number > made and epoch.touches(record.spec)) for epoch in history)
