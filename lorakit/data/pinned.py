"""A dataset or task by its pinned name: of the hub, of a source, or registered on this machine; checked by its hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from lorakit import sources
from lorakit.data.data_files import DatasetError
from lorakit.durable import write_whole
from lorakit.local_models import cache_folder
from lorakit.names import REGISTER, UnknownNameError, hub_loader, resolve_name

T = TypeVar("T")


def load_pinned(kind: str, name: str, read: Callable[[str, Any], T]) -> T:
    """What a name stands for.

    Args:
        kind: `datasets` or `tasks`.
        name: as in `resolve_name`.
        read: makes it of its short name and of what `keep_pinned` was given.

    Raises:
        UnknownNameError: neither known nor registered on this machine.
        DatasetError: the content is not what the name pins.
    """
    pinned = resolve_name(kind, name)
    short, _, pin = pinned.partition("@")
    if "/" in short:
        return hub_loader(kind, short)(pin)
    path, again = cache_folder() / kind / f"{pin}.json", f"call {REGISTER[kind]}({short!r}, …) again"
    if path.exists():
        try:
            found: Any = read(short, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{kind[:-1]} {pinned!r} cannot be read from the cache ({path}): delete that file, and "
                               f"if it is your own, {again}") from error
    elif short in sources.pins(kind):
        found = sources.loader(kind, short)()
    else:
        raise UnknownNameError(f"{kind[:-1]} {pinned!r} was registered on another machine or its cache was emptied: "
                               f"{again}")
    if found.hash != pin:
        raise DatasetError(f"{short} is pinned to {pin}, but its content now hashes to {found.hash}: use the version "
                           "(of what generates it, too) that made the record, or register your own and run the spec "
                           "anew")
    return found


def keep_pinned(kind: str, pin: str, content: dict[str, Any]) -> None:
    """Put what `load_pinned` reads into the cache."""
    write_whole(cache_folder() / kind / f"{pin}.json", json.dumps(content))
