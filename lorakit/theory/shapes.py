"""Shapes of causal language models: how many weights each component has, and how many a LoRA adapter adds."""

from __future__ import annotations


class RankWasteWarning(UserWarning):
    """A LoRA rank exceeds the smaller side of a matrix, so part of the adapter can add nothing."""


def waste_message(rank: int, matrices: list[tuple[str, int, int, int]]) -> str | None:
    """What a rank wastes on matrices (name, d_out, d_in, count), in words; None when nothing is wasted.

    >>> waste_message(4, [("q_proj", 8, 8, 2)]) is None
    True
    """
    wasted = [(name, o, i, c) for name, o, i, c in matrices if rank > min(o, i)]
    if not wasted:
        return None
    parameters = sum((rank - min(o, i)) * (o + i) * c for _, o, i, c in wasted)
    name, o, i, _ = min(wasted, key=lambda m: min(m[1], m[2]))
    return (f"rank {rank} exceeds the smaller side of {len(wasted)} of the adapted matrices (the smallest is {name}, "
            f"{o} × {i}): B A can never have a rank above {min(o, i)} there, so {parameters:,} adapter parameters "
            f"are wasted; rank {min(o, i)} reaches every update of that matrix")
