"""A part of a list of specs for each of several machines that know nothing of each other, by the list alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lorakit.packed.packing import group, split_evenly, work
from lorakit.specs import AnySpec

SMALLEST_PART = 4  # specs of one shape that stay together where all shards have some: a pack of fewer gains little


class ShardError(ValueError):
    """What was named is no shard."""


def read_shard(text: str) -> tuple[int, int]:
    """The number of a shard and how many there are.

    Raises:
        ShardError: anything but `I/N` with 1 ≤ I ≤ N.

    >>> read_shard("3/8")
    (3, 8)
    """
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text.strip())
    number, count = (int(part) for part in found.groups()) if found else (1, 0)
    if number > count:
        raise ShardError(f"shard {text!r}; allowed: I/N, the I-th of N parts, such as 3/8, with I from 1 to N")
    return number, count


def shard_of(specs: Sequence[AnySpec], number: int, count: int) -> list[AnySpec]:
    """The specs of one shard; all shards together hold each spec once, and about as much work each.

    Specs of one shape stay together as far as all shards have something to do, since they train in one pack.

    Args:
        specs: the whole list; every machine must have the same one.
        number: of the shard, from 1.
        count: of all shards.

    >>> from lorakit.specs import SFTSpec, vary
    >>> specs = vary(SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3), seed=range(10))
    >>> [[spec.seed for spec in shard_of(specs, number, 3)] for number in (1, 2, 3)]
    [[6, 7, 8, 9], [3, 4, 5], [0, 1, 2]]
    """
    unique = {spec.id: spec for spec in specs}.values()
    smallest = max(1, min(SMALLEST_PART, len(unique) // count))
    parts = [part for alike in group(unique) for part in split_evenly(alike, max(smallest, -(-len(alike) // count)))]
    load, mine = [0] * count, list[AnySpec]()
    for part in sorted(parts, key=lambda part: -sum(map(work, part))):
        lightest = load.index(min(load))
        load[lightest] += sum(map(work, part))
        mine += part if lightest == number - 1 else []
    return mine
