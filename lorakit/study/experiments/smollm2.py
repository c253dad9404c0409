"""The same questions on a real pre-trained base: SmolLM2-135M-Instruct on two CPU cores.

Sizes, arms, grids and rules (`lorakit.study.rules.smollm2`) were written on 2026-11-25, before the first of these runs.
Rates are screened on few seeds and the verdict is read at the chosen rate on fresh ones. Both grids are the ones that
bracketed the best rates of 100 steps (experiment `learning-rate-smollm2`); a screened best rate at the end of its grid
widens that grid for every arm, and the page says so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lorakit.grpo_spec import GRPOSpec
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


# 26, 16 and 10 give attention, the MLP and both about 3.0 million weights each: within 2 %.
E2_ADAPTERS = (LoRASpec(rank=26, targets="attention"), LoRASpec(rank=16, targets="mlp"), LoRASpec(rank=10))
E3 = GRPOSpec(model=E1.model, learning_rate=1e-4, prompts_per_step=4, group_size=8, steps=150, max_completion_length=8,
              evaluations=6, evaluation_problems=128, final_evaluation_problems=1024)
E3_LORA_RATES, E3_FULL_RATES = grid(2.15e-4, 5), grid(2.15e-5, 5)  # ten apart, place by place
E3_TASKS = ("ordered-sums", "number-words")
E3_SCREENED = range(3)


def _layers(seed: int) -> list[SFTSpec]:
    return [spec for adapter in E2_ADAPTERS
            for spec in vary(replace(E1, lora=adapter, seed=seed), learning_rate=LORA_RATES)]


def _rl(task: str, seed: int) -> list[GRPOSpec]:
    base = replace(E3, task=task, seed=seed)
    return vary(replace(base, lora=None), learning_rate=E3_FULL_RATES) + vary(
        base, rank=[1, 16], learning_rate=E3_LORA_RATES)


def _rl_layers() -> list[GRPOSpec]:
    return [spec for adapter in E2_ADAPTERS[:2]
            for spec in vary(replace(E3, task=E3_TASKS[0], lora=adapter), learning_rate=E3_LORA_RATES)]


EXPERIMENTS = tuple(
    Experiment(f"smollm2-rank-{seed}", f"E1: LoRA and full fine-tuning of SmolLM2-135M, rates screened, seed {seed}.", {
        ("cpu", "record"): partial(_screen, seed),
    }, under_way=True) for seed in SCREENED) + tuple(
    Experiment(f"smollm2-layers-{seed}", f"E2: attention, MLP or both on SmolLM2-135M, rates screened, seed {seed}.", {
        ("cpu", "record"): partial(_layers, seed),
    }, under_way=True) for seed in BOTH_SCREENED) + tuple(
    Experiment(f"smollm2-grpo-{task}-{seed}", f"E3: GRPO on SmolLM2-135M, {task}, rates screened, seed {seed}.", {
        ("cpu", "record"): partial(_rl, task, seed),
    }, under_way=True) for task in E3_TASKS for seed in E3_SCREENED) + (
    Experiment("smollm2-grpo-layers", "E3: attention or MLP in GRPO on SmolLM2-135M, rates screened, one seed.", {
        ("cpu", "record"): _rl_layers,
    }, under_way=True),)
