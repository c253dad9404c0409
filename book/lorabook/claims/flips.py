"""Which verdicts new records have changed, from one refresh to the next."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.durable import write_whole
from lorakit.records import Store


@dataclass
class Verdicts:
    """The outcome of every claim before records were added, noted in a file so that a killed refresh loses none.

    Args:
        path: of the note.
        store: the book's records.
    """

    path: Path
    store: Store

    def before(self) -> None:
        """Note the outcomes, unless an earlier refresh has: call it before anything is trained."""
        if self._noted() is None:
            self._note(self._judged())

    def flips(self) -> list[str]:
        """What became of them, in words, and noted anew; nothing where no record was added, or nothing was noted."""
        noted = self._noted()
        if noted is None or noted["records"] == self._hash():
            return []
        judged, before = self._judged(), noted["outcomes"]
        self._note(judged)
        changed = [f"{claim}: {before.get(claim, 'no claim')} → {outcome}" for claim, outcome in judged.items()
                   if outcome != before.get(claim)]
        return [f"verdict changed: {line}" for line in changed] or ["the new records change no verdict"]

    def _judged(self) -> dict[str, str]:
        from lorabook.claims.ledger import ledger

        return {verdict.claim.id: str(verdict.outcome) for verdict in ledger(self.store)}

    def _noted(self) -> dict[str, Any] | None:
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return noted if isinstance(noted, dict) and noted.keys() == {"records", "outcomes"} else None

    def _note(self, outcomes: dict[str, str]) -> None:
        write_whole(self.path, json.dumps({"records": self._hash(), "outcomes": outcomes}, indent=1))

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for place, name in self.store.files:
            path = self.store.path(place, name)
            digest.update(f"{place}/{name} {path.stat().st_size} ".encode() + path.read_bytes())
        return digest.hexdigest()[:16]
