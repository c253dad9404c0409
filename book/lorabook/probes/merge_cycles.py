"""One matrix and an adapter, merged and taken out again: how far the matrix drifts, and what of a change arrives."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

WIDTH, SIZE, RANK, ALPHA = 256, 0.02, 8, 32.0  # of the matrix: width and rms; of the adapter: rank and alpha
SIGN_STEP = 1e-4  # B's step where the adapter learns: Adam's, of one learning rate


def matrix(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Generator]:
    """A square matrix with normal entries, and the generator that draws what follows."""
    draw = torch.Generator().manual_seed(0)
    return (SIZE * torch.randn(WIDTH, WIDTH, generator=draw)).to(dtype), draw


def changes(draw: torch.Generator, learns: bool) -> Iterator[torch.Tensor]:
    """ΔW = (alpha / rank) · B A in float32, a cycle each: four per cent of the matrix, the same or one that learns."""
    a = (2 * torch.rand(RANK, WIDTH, generator=draw) - 1) / math.sqrt(WIDTH)
    b = 0.002 * torch.randn(WIDTH, RANK, generator=draw)
    while True:
        yield ALPHA / RANK * b @ a
        b = b + learns * SIGN_STEP * torch.randn(b.shape, generator=draw).sign()


def drift(dtype: torch.dtype, *, learns: bool, cycles: int = 1000, round_first: bool = False) -> list[float]:
    """‖W′ − W‖ / ‖W‖ after each cycle of PEFT's merge and unmerge; `round_first` is its `safe_merge=True`."""
    w, draw = matrix(dtype)
    base, found = w.double(), []
    for _, delta in zip(range(cycles), changes(draw, learns), strict=False):
        w += delta.to(dtype) if round_first else delta
        w -= delta.to(dtype)
        found.append(((w - base).norm() / base.norm()).item())
    return found


def lost(dtype: torch.dtype, share: float) -> float:
    """‖seen − ΔW‖ / ‖ΔW‖ in merged weights, for a change of ‖ΔW‖ / ‖W‖ = `share`: 1 where nothing of it arrives."""
    w, draw = matrix(dtype)
    delta = next(changes(draw, learns=False))
    delta *= share * w.float().norm() / delta.norm()
    seen = w.clone().add_(delta).double() - w.double()
    return float((seen - delta).norm() / delta.norm())


def steps_until_seen(learning_rate: float, width: int, rank: int = 32, alpha: float = 32.0,
                     size: float = SIZE) -> float:
    """Steps after which half of the change arrives in merged bfloat16 weights, at the earliest.

    All of Adam's steps move B in one direction, by the rate each, so ΔW grows by (alpha / rank) · rate · √(rank / 3
    width) a step (rms), since A's entries have the rms 1/√(3 width).

    Args:
        size: rms of the matrix's entries.
    """
    needed = next(share for share in (n / 1e5 for n in range(1, 10_000)) if lost(torch.bfloat16, share) < 0.5)
    return needed * size / (alpha / rank * learning_rate * math.sqrt(rank / (3 * width)))
