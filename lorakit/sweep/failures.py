"""What went wrong in a sweep, in words: equal reasons once, and no folder of this machine in a record."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAMED = 6  # ids of one reason that are listed
QUOTED = re.compile(r"(?P<quote>['\"])(?:/|~/|[A-Za-z]:[\\/])[^'\"\n]*(?P=quote)")
BARE = re.compile(r"(?<![\w/.:~>…])(?:/|~/|[A-Za-z]:[\\/])(?:[^\s'\":,;()\[\]]+)")


def without_folders(text: str) -> str:
    """The text with every absolute path cut down to its last name.

    >>> without_folders("OSError: [Errno 2] No such file: '/home/jo doe/x.jsonl', see https://hub.org/a/b")
    "OSError: [Errno 2] No such file: '…/x.jsonl', see https://hub.org/a/b"
    """
    for folder in {str(Path.home()), str(Path.cwd()), tempfile.gettempdir(), sys.prefix, sys.base_prefix} - {"/"}:
        text = text.replace(folder, "/…")  # also where its name holds blanks
    text = QUOTED.sub(lambda found: f"{found['quote']}{_last(found[0][1:-1])}{found['quote']}", text)
    return BARE.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return f"…/{name}" if name not in ("", "…", "~") else "…"


def grouped(reasons: Mapping[str, str], run: str = "run") -> str:
    """One line a reason: how many runs failed so, and which.

    >>> print(grouped({"a": "no memory", "b": "no memory", "c": "no data"}))
      2 runs (a, b): no memory
      1 run (c): no data
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, ids in by_reason.items():
        named = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
        lines.append(f"  {len(ids)} {run if len(ids) == 1 else f'{run}s'} ({named}): {reason}")
    return "\n".join(lines)
