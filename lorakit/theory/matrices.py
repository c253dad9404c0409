"""Kinds of weight matrices, the entries that LoRA adds to each, and those that a rank wastes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """`count` weight matrices of one kind, each (d_out, d_in).

    `share_a` and `share_b` say how many of them share one A or one B (1: each has its own, as in PEFT);
    `rank_factor` multiplies the rank.
    """

    component: str
    name: str
    d_out: int
    d_in: int
    count: int
    share_a: int = 1
    share_b: int = 1
    rank_factor: int = 1

    def lora_parameters(self, rank: int) -> int:
        """Entries of A (rank, d_in) and B (d_out, rank), over all `count` matrices."""
        return self._entries(rank * self.rank_factor)

    def wasted_parameters(self, rank: int) -> int:
        """Entries of A and B beyond the rank that a (d_out, d_in) matrix can have."""
        return self._entries(max(0, rank * self.rank_factor - min(self.d_out, self.d_in)))

    def useful_parameters(self, rank: int) -> int:
        """Entries of A and B but for those."""
        return self.lora_parameters(rank) - self.wasted_parameters(rank)

    def _entries(self, rank: int) -> int:
        return rank * (self.d_in * self.count // self.share_a + self.d_out * self.count // self.share_b)


def waste_message(rank: int, matrices: list[Matrix]) -> str | None:
    """What a rank wastes on these matrices, in words; None when nothing is wasted.

    >>> waste_message(4, [Matrix("attention", "q_proj", 8, 8, 2)]) is None
    True
    """
    wasted = [m for m in matrices if m.wasted_parameters(rank)]
    if not wasted:
        return None
    least = min(wasted, key=lambda m: min(m.d_out, m.d_in))
    side = min(least.d_out, least.d_in)
    return (f"rank {rank} exceeds the smaller side of {sum(m.count for m in wasted)} adapted matrices (the smallest: "
            f"{least.name}, {least.d_out} × {least.d_in}, where B A has rank {side} at most): "
            f"{sum(m.wasted_parameters(rank) for m in wasted):,} adapter parameters are wasted; "
            f"rank {side} reaches every update of that matrix")
