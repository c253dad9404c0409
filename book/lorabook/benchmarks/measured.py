"""What was measured, as the `spec` of a record."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any, ClassVar


class Measured:
    """Base of dataclasses: their fields and `kind` say what was measured."""

    kind: ClassVar[str]

    @property
    def id(self) -> str:
        """16 hex digits of its JSON."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The `spec` of its record."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]
