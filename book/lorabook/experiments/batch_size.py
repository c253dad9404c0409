"""Batch size: what LoRA loses against full fine-tuning when the same samples come in larger batches.

Every batch size sees equally many samples, and every arm has a grid of its own at each of them: five rates, around a
centre that grows as the square root of the batch. The centres were fixed before the record runs, from a pilot with one
seed on `tiny`, which also said that full fine-tuning leaves post-training between batches of 32 and 128: so the record
ends at 32. The batch of 8 shares its runs with `rank-replay`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import sqrt

from lorabook.experiments.definition import Experiment, arms, grid
from lorabook.experiments.rank import LLAMA_PAPER, REPLAY, SMOLLM2_GPU
from lorakit.specs import LoRASpec, SFTSpec, vary


def _sweep(base: SFTSpec, batches: Iterable[int], center: float, per_decade: int, ranks: tuple[int, ...] = (16, 64),
           seeds: int = 5, every: int = 1, at_once: int = 128) -> list[SFTSpec]:
    """Full fine-tuning, LoRA, and the highest rank with A frozen, at batches that all see `base`'s number of samples.

    Args:
        center: at `base`'s batch, one point of the grid below LoRA's middle rate and one above full fine-tuning's; the
            middle with A frozen is half a decade above LoRA's.
        every: take every rate of the grids, or every second one.
        at_once: sequences in one forward pass; larger batches are accumulated.
    """
    specs = []
    for batch in batches:
        rates = grid(center * sqrt(batch / base.batch_size), 11, per_decade)
        full, lora, frozen = (rates[start : start + 5 : every] for start in (2, 4, 4 + per_decade // 2))
        micro = min(batch, at_once)
        spec = replace(base, batch_size=micro, accumulation=batch // micro,
                       steps=base.steps * base.batch_size // batch)
        a_frozen = replace(spec, lora=LoRASpec(rank=ranks[-1], train_a=False))
        specs += arms(spec, ranks, lora, full, seeds) + vary(a_frozen, learning_rate=frozen, seed=range(seeds))
    return specs


def _record() -> list[SFTSpec]:
    return _sweep(REPLAY, [4, 8, 32], 1e-3, per_decade=4)


def _live() -> list[SFTSpec]:
    short = replace(REPLAY, steps=40, evaluations=3, evaluation_tokens=1024)
    return _sweep(short, [8, 32], 1.5e-3, per_decade=4, seeds=2, every=2)


def _gpu() -> list[SFTSpec]:
    base = replace(SMOLLM2_GPU, steps=256, evaluations=10)
    return _sweep(base, [8, 32, 128], 3.16e-4, per_decade=2, seeds=3, at_once=8)


def _paper() -> list[SFTSpec]:
    """The article's setting as far as it is told: 10,000 examples; its batches and grids are not."""
    base = replace(LLAMA_PAPER, batch_size=32, accumulation=1, steps=320, evaluations=10)
    return _sweep(base, [32, 128, 512], 1e-4, per_decade=2, ranks=(16, 256), seeds=3, at_once=8)


EXPERIMENTS = (
    Experiment("batch-size", "Does LoRA lose more than full fine-tuning from large batches, and does rank help?", {
        ("cpu", "record"): _record, ("cpu", "live"): _live, ("gpu", "record"): _gpu, ("paper", "record"): _paper,
    }),
)
