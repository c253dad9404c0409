"""The same questions on a real pre-trained base: SmolLM2-135M-Instruct on two CPU cores.

Sizes, arms, grids and rules (`lorakit.study.rules.smollm2`) were written on 2026-11-25, before the first of these runs.
Rates are screened on few seeds and the verdict is read at the chosen rate on fresh ones. Both grids are the ones that
bracketed the best rates of 100 steps (experiment `learning-rate-smollm2`); a screened best rate at the end of its grid
widens that grid for every arm, and the page says so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.study.experiments.definition import Experiment, grid

LORA_RATES, FULL_RATES = grid(4.64e-4, 5), grid(4.64e-5, 5)
RANKS = (1, 4, 16, 64)
SCREENED = range(5)  # seeds; all arms have the first two
BOTH_SCREENED = range(2)
E1 = SFTSpec(model="smollm2-135m-instruct-q4", dataset="real-text", learning_rate=1e-4, batch_size=2, max_length=64,
             steps=400, evaluations=8, evaluation_tokens=1024, final_evaluation_tokens=16_384)


def _screen(seed: int) -> list[SFTSpec]:
    """Arms with a rate for each of the claims: the first seeds have all, later ones those of C3 alone."""
    base = replace(E1, seed=seed)
    ranks = RANKS if seed in BOTH_SCREENED else (1, 16)
    full = [replace(base, lora=None), *([replace(base, lora=None, full_targets="all-linear")]
                                        if seed in BOTH_SCREENED else [])]
    lora = [replace(base, lora=LoRASpec(rank=rank)) for rank in ranks]
    return [spec for arm in full for spec in vary(arm, learning_rate=FULL_RATES)] + [
        spec for arm in lora for spec in vary(arm, learning_rate=LORA_RATES)]


EXPERIMENTS = tuple(
    Experiment(f"smollm2-rank-{seed}", f"E1: LoRA and full fine-tuning of SmolLM2-135M, rates screened, seed {seed}.", {
        ("cpu", "record"): partial(_screen, seed),
    }) for seed in SCREENED)
