"""Shell scripts with places to fill: a job on a cluster or in a cloud, and the set-up of a host without a network."""

from __future__ import annotations

from pathlib import Path
from string import Template


class _Shell(Template):
    delimiter = "@@"  # a shell has its own use for $


def template(name: str) -> Template:
    """The script of a file of this folder."""
    return _Shell(Path(__file__).with_name(name).read_text(encoding="utf-8"))
