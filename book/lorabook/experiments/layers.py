"""Layers: attention, MLP or both, with and without the head; and the rank of experts.

Ranks are chosen so that the arms that are compared have equally many weights: on `tiny` a unit of rank costs attention
2,048 weights and the MLP 2,304, so ranks 18 and 16 cost 36,864 each. Full fine-tuning and `all-linear` share their
runs with the experiments of *Rank*, and the other arms have its rates. For the mixture a pilot of seven runs with one
seed, of two arms, placed the rates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorabook.experiments.definition import Experiment, grid
from lorabook.experiments.rank import LLAMA_PAPER, REPLAY, SMOLLM2_GPU, TEXT
from lorakit.specs import LoRASpec, SFTSpec, vary

QWEN_MOE = "Qwen/Qwen3-30B-A3B@ad44e777bcd18fa416d9da3bd8f70d33ebb85d39"
ATTENTION, MLP, ALL, ALL_MATCHED = (LoRASpec(rank=rank, targets=targets) for rank, targets in (
    (18, "attention"), (16, "mlp"), (16, "all-linear"), (8, "all-linear")))
WITH_HEAD = tuple(LoRASpec(rank=lora.rank, targets=f"{lora.targets}+head") for lora in (ATTENTION, MLP, ALL))


def _arms(base: SFTSpec, adapters: Iterable[LoRASpec], lora_rates: list[float], full_rates: list[float],
          seeds: int) -> list[SFTSpec]:
    lora = vary(base, lora=list(adapters), learning_rate=lora_rates, seed=range(seeds))
    return lora + vary(base, lora=[None], learning_rate=full_rates, seed=range(seeds))


def _layers_record() -> list[SFTSpec]:
    rates, adapters = grid(1e-3, 7, per_decade=4), (ATTENTION, MLP, ALL, ALL_MATCHED)
    return (_arms(REPLAY, (*adapters, *WITH_HEAD), rates[2:], rates[:5], seeds=5)
            + _arms(TEXT, adapters, grid(2.15e-3, 6), grid(1e-3, 6), seeds=5))


def _layers_live() -> list[SFTSpec]:
    short = replace(TEXT, steps=100, evaluations=8)
    return _arms(short, (ATTENTION, MLP, ALL), grid(4.64e-3, 3), grid(2.15e-3, 3), seeds=2)


def _layers_gpu() -> list[SFTSpec]:
    """SmolLM2 ties its head to the embedding, so no arm adapts it; ranks 26 and 16 match within 2 %."""
    adapters = (LoRASpec(rank=26, targets="attention"), MLP, ALL)
    return _arms(SMOLLM2_GPU, adapters, grid(1e-3, 5, per_decade=2), grid(1e-4, 5, per_decade=2), seeds=3)


def _layers_paper() -> list[SFTSpec]:
    """The article's ranks, and its head; its grids, batch and steps are not told."""
    adapters = [LoRASpec(rank=rank, targets=f"{targets}+head")
                for rank, targets in ((256, "attention"), (128, "mlp"), (256, "mlp"), (256, "all-linear"))]
    return _arms(LLAMA_PAPER, adapters, grid(3e-4, 5, per_decade=2), grid(3e-5, 5, per_decade=2), seeds=3)


MOE = replace(REPLAY, model="tiny-moe", steps=200)
BOTH = LoRASpec(rank=16, targets="attention+experts")
BY_ACTIVE, BY_ALL = replace(BOTH, expert_rank=8), replace(BOTH, expert_rank=2)
SHARED, SHARED_MATCHED = replace(BOTH, shared_outer=True), replace(BOTH, shared_outer=True, expert_rank=12)
EXPERTS, MOE_ATTENTION = LoRASpec(rank=8, targets="experts"), LoRASpec(rank=40, targets="attention")


def moe_record() -> list[SFTSpec]:
    """Two active experts of eight, total rank 16: 8 and 2 an expert; ranks 8 and 40 are 40,960 weights each."""
    adapters = (MOE_ATTENTION, EXPERTS, BY_ACTIVE, BY_ALL, SHARED, SHARED_MATCHED)
    return _arms(MOE, adapters, grid(2.15e-3, 6), grid(4.64e-4, 5), seeds=5)


def _moe_live() -> list[SFTSpec]:
    short = replace(MOE, steps=60, evaluations=6)
    return _arms(short, (MOE_ATTENTION, EXPERTS, BY_ACTIVE), grid(2.15e-3, 3), grid(1e-3, 3), seeds=2)


def _moe_paper() -> list[SFTSpec]:
    """Qwen3-30B-A3B, total rank 256: 32 an expert by the article's convention (8 active), 2 by PEFT's (128 in all)."""
    both = LoRASpec(rank=256, targets="attention+experts")
    single = [LoRASpec(rank=rank, targets=targets)  # 5 and 235 match within 1 %
              for rank, targets in ((235, "attention"), (5, "experts"), (32, "experts"))]
    adapters = (*single, replace(both, expert_rank=32), replace(both, expert_rank=2), replace(both, shared_outer=True))
    return _arms(replace(LLAMA_PAPER, model=QWEN_MOE), adapters, grid(3e-4, 5, per_decade=2),
                 grid(3e-5, 5, per_decade=2), seeds=3)


EXPERIMENTS = (
    Experiment("layers", "Attention, MLP or both, at matched parameters, with and without the head?", {
        ("cpu", "record"): _layers_record, ("cpu", "live"): _layers_live,
        ("gpu", "record"): _layers_gpu, ("paper", "record"): _layers_paper,
    }),
    Experiment("moe", "Which layers, and which rank for an expert, in a mixture of experts?", {
        ("cpu", "record"): moe_record, ("cpu", "live"): _moe_live, ("paper", "record"): _moe_paper,
    }, engine="peft"),
)
