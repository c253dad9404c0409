"""Names of bases, datasets, tasks and reward schemes, lorakit's own and those of other packages, in every process.

A package gives its names by a `Source`. Installed, it is an entry point of the group `lorakit.sources`; on the path
of a clone, the package calls `add_source` when imported. Worker processes are told of all sources of their parent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
GROUP = "lorakit.sources"
OWN = "lorakit.sources:LORAKIT"
KINDS = ("models", "datasets", "tasks")


@dataclass(frozen=True)
class Source:
    """What a package gives.

    Args:
        fingerprints: a JSON file that holds, for `models`, `datasets` and `tasks`, each name with its content hash
            (12 hex digits) or its commit on the hub.
        loaders: for each of these kinds, and for `rewards`, where the mapping from names to loaders is, as
            `module:name`; imported when a name is first loaded. A dataset's or task's loader takes nothing, or the
            commit where the name is one of the hub (`org/name`); a model's takes its pin and a dtype; a reward is the
            tuple of its functions.
        weights: a folder of embedded bases, `NAME.json` and `NAME.safetensors`.
        rewards: reward schemes, each with the number of its components.
    """

    fingerprints: Path
    loaders: Mapping[str, str]
    weights: Path | None = None
    rewards: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def pins(self) -> dict[str, dict[str, str]]:
        """The content of `fingerprints`."""
        found: dict[str, dict[str, str]] = json.loads(self.fingerprints.read_text(encoding="utf-8"))
        return found


LORAKIT = Source(
    PACKAGE / "fingerprints.json",
    {"datasets": "lorakit.data.skill_data:DATASETS", "tasks": "lorakit.data.skill_data:TASKS",
     "rewards": "lorakit.rewards:SCHEMES"},
    PACKAGE / "weights",
    {"exact": 1, "numeric": 1, "marked": 1, "boxed": 1, "math": 1, "format": 1, "reasoning": 1})
_added: list[str] = []


def add_source(place: str) -> None:
    """Make a source known in this process and in the workers that it starts; once is enough, again does no harm.

    Args:
        place: of the `Source`, as `module:name`.
    """
    if place not in _added:
        _added.append(place)
        for cached in (sources, pins, rewards):
            cached.cache_clear()


def add_sources(places: Iterable[str]) -> None:
    """Make known what `sources` of another process listed."""
    for place in places:
        add_source(place)


@cache
def sources() -> dict[str, Source]:
    """Every source by its place, lorakit's own first."""
    announced = [point.value for point in metadata.entry_points(group=GROUP)]
    return {place: _at(place) for place in dict.fromkeys([OWN, *announced, *_added])}


@cache
def pins(kind: str) -> dict[str, str]:
    """All names of a kind (`models`, `datasets`, `tasks`), each with its pin; the first source that has one counts."""
    return {name: pin for source in reversed(sources().values()) for name, pin in source.pins.get(kind, {}).items()}


@cache
def rewards() -> dict[str, int]:
    """All reward schemes, each with the number of its components."""
    return {name: count for source in sources().values() for name, count in source.rewards.items()}


def loader(kind: str, name: str) -> Any:
    """What loads a name, or None where no source has it; names of the hub may be loaded that no fingerprint lists."""
    for source in sources().values():
        if kind in source.loaders and name in (found := _at(source.loaders[kind])):
            return found[name]
    return None


def names(kind: str) -> list[str]:
    """All names of a kind that have a loader."""
    return [name for source in sources().values() if kind in source.loaders for name in _at(source.loaders[kind])]


def embedded() -> dict[str, Path]:
    """The embedded bases: what pre-training left of each (JSON), with the weights beside it."""
    folders = [source.weights for source in sources().values() if source.weights is not None]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
