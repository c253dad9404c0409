"""Is anything left of alpha once the rate is tuned? And does high rank collapse in RL, where alpha grows with it?

Written on 2026-11-26, before the first of these runs; the rules are in `lorabook.claims.alpha`. On `tiny`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from lorabook.experiments.definition import Experiment, grid
from lorabook.experiments.grpo import COPY
from lorabook.experiments.learning_rate import LEAST_EPSILON, QUARTERS, SHORT
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec, vary

RANKS, SEEDS = [4, 16, 128], range(5)
# By alpha: places in the grid. The best rate goes with 1 / √alpha (`learning-rate-scale`): a place a factor 4.
PLACES = {8: slice(8, 13), 32: slice(7, 12), 128: slice(6, 11)}
# Four settings of the optimizer, in words: plain Adam, and one thing at a time that differs from it.
SETTINGS = {"plain": "plain Adam (epsilon 1e-8)", "decay": "weight decay 0.1", "clip": "clipping at 1",
            "epsilon": f"no epsilon ({LEAST_EPSILON:g})"}
DIFFERENT: dict[str, dict[str, Any]] = {"plain": {}, "decay": {"weight_decay": 0.1}, "clip": {"max_grad_norm": 1.0},
                                        "epsilon": {"epsilon": LEAST_EPSILON}}


def _alphas(setting: str) -> list[SFTSpec]:
    base = replace(SHORT, final_evaluation_tokens=8192, **DIFFERENT[setting])
    return [spec for alpha, places in PLACES.items()
            for spec in vary(base, rank=RANKS, alpha=[alpha], learning_rate=QUARTERS[places], seed=SEEDS)]


LOW, HIGH = 8, (64, 128)
BATCHES = {8: 300, 32: 75}  # problems in a step: steps, for equally many episodes
GROWING = 4  # alpha over rank, where alpha grows with it; rank 8 has its 32 either way


def _high_rank() -> list[GRPOSpec]:
    adapters = [LoRASpec(rank=rank) for rank in (LOW, *HIGH)] + [
        LoRASpec(rank=rank, alpha=GROWING * rank) for rank in HIGH]
    return [spec for problems, steps in BATCHES.items()
            for spec in vary(replace(COPY, prompts_per_step=problems, steps=steps), lora=adapters,
                             learning_rate=grid(1e-3, 5), seed=range(3))]


EXPERIMENTS = (
    *(Experiment(f"learning-rate-alpha-{setting}", f"Alpha against learning rate: grids of both, {words}.", {
        ("cpu", "record"): partial(_alphas, setting),
    }) for setting, words in SETTINGS.items()),
    Experiment("grpo-high-rank", "High rank in RL with alpha fixed and with alpha in proportion to the rank.", {
        ("cpu", "record"): _high_rank,
    }),
)
