"""Names of models, datasets and RL tasks, and the content or commit that each stands for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorakit import sources
from lorakit.local_models import AS_PATH, name_checkpoint
from lorakit.sources import PACKAGE as PACKAGE

REGISTER = {"models": "lorakit.register_model", "datasets": "lorakit.register_dataset",
            "tasks": "lorakit.register_task"}
NEW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PINNED = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?@[0-9a-f]{1,64}", re.ASCII)


class UnknownNameError(KeyError):
    """A model or dataset was named that nothing here can resolve."""

    def __str__(self) -> str:
        return str(self.args[0])


def near(name: object, known: Iterable[str]) -> str:
    """A question that names the nearest known name, or nothing.

    >>> near("tinny", ["tiny", "copy"]), near("x", ["tiny"])
    ("did you mean 'tiny'? ", '')
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def known_names() -> dict[str, dict[str, str]]:
    """Names of models, datasets and RL tasks of all sources, each with its content hash or its commit on the hub.

    >>> sorted(known_names()) == ["datasets", "models", "tasks"]
    True
    """
    return {kind: sources.pins(kind) for kind in sources.KINDS}


def resolve_name(kind: str, name: str | Path) -> str:
    """Pin a name to its content: `tiny` becomes `tiny@3fa9…`; a name that carries `@` is already pinned.

    The folder of a checkpoint, a path that begins with `/`, `./`, `../` or `~/`, becomes `checkpoint@HASH`.

    Args:
        kind: `models`, `datasets` or `tasks`.
        name: a name of `known_names()`, or `name@pin`: the value returned by `register_model`,
            `register_dataset` or `register_task`, or a hub id with its revision (`org/name@commit`).

    Raises:
        UnknownNameError: an unknown name, a hub id without a revision, or a pin that is not hex digits.
        CheckpointError: a folder that is missing, or holds no whole model.
    """
    if kind == "models" and isinstance(name, str | Path) and (isinstance(name, Path) or AS_PATH.match(name)) \
            and ("@" not in str(name) or Path(name).expanduser().is_dir()):  # else it is meant as a pinned name
        return name_checkpoint(name)
    if not isinstance(name, str) or not name:
        raise UnknownNameError(f"{kind[:-1]} must be a name, got {name!r}")
    if "@" in name:
        if not PINNED.fullmatch(name):
            raise UnknownNameError(f"{kind[:-1]} {name!r} is not a name and its pin: after '@' stands the hash that "
                                   f"{REGISTER[kind]}(…) gave, or the commit on the hub, in hex digits alone")
        return name
    names = known_names()[kind]
    if name in names:
        return f"{name}@{names[name]}"
    if kind == "models" and Path(name).is_dir():
        raise UnknownNameError(f"model {name!r} is no name, but a folder here is called so: write './{name}' for it")
    if "/" in name:
        raise UnknownNameError(
            f"{kind[:-1]} {name!r} has no revision: write '{name}@COMMIT', so that the record says which weights"
        )
    raise UnknownNameError(
        f"unknown {kind[:-1]} {name!r}; {near(name, names)}known: {', '.join(sorted(names))}; "
        f"your own: pass what {REGISTER[kind]}(…) returns; of the hub: 'org/name@COMMIT'"
    )


def hub_loader(kind: str, name: str) -> Any:
    """What loads a dataset or task of the hub, `org/name`; it takes the commit.

    Raises:
        UnknownNameError: no source knows its columns.
    """
    found = sources.loader(kind, name)
    if found is None:
        known = ", ".join(known for known in sources.names(kind) if "/" in known) or "none"
        raise UnknownNameError(f"{name!r} is no hub dataset whose columns are known here; known: {known}; "
                               "another one: load it yourself and register its rows")
    return found


def check_new_name(name: object, taken: Iterable[str]) -> None:
    """Raise ValueError unless `name` can be registered: characters that no path, page or record must escape.

    >>> check_new_name("my-model.2", taken=["tiny"])
    """
    if not isinstance(name, str) or not NEW_NAME.fullmatch(name) or name in taken:
        raise ValueError(f"name={name!r} cannot be used; give a short name of letters, digits, '.', '_' and '-' (64 at "
                         f"most, a letter or digit first) that is not one of {', '.join(taken)}")
