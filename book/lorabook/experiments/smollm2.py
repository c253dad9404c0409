"""The same questions on a real pre-trained base: SmolLM2-135M-Instruct, on two CPU cores or on one GPU.

Sizes, arms, grids and rules (`lorabook.claims.smollm2`) were written on 2026-11-25, those of the GPU, of E4 and of E5
on 2026-11-26, each before the first of its runs. Rates are screened on few seeds and the verdict is read at the chosen
rate on fresh ones. Both grids are the ones that bracketed the best rates of 100 steps (experiment
`learning-rate-smollm2`); a screened best rate at the end of its grid widens that grid for every arm, and the page says
so. On a GPU the base weights are bfloat16 (full fine-tuning: over float32 masters), and supervised runs on real text
have 1,000 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lorabook.experiments.definition import Experiment, grid
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec, vary

LORA_RATES, FULL_RATES = grid(4.64e-4, 5), grid(4.64e-5, 5)
RANKS = (1, 4, 16, 64)
SCREENED = range(5)  # seeds; all arms have the first two
BOTH_SCREENED = range(2)
FRESH, FRESH_RL = range(100, 108), range(100, 105)  # seeds that the verdicts are read on
E1 = SFTSpec(model="smollm2-135m-instruct-q4", dataset="real-text", learning_rate=1e-4, batch_size=2, max_length=64,
             steps=400, evaluations=8, evaluation_tokens=1024, final_evaluation_tokens=16_384)
# A row of GSM8K's worked answers is padded to 384 tokens, of which a third is learnt.
E2_ANSWERS = replace(E1, dataset="gsm8k-answers", max_length=384, evaluation_tokens=2048,
                     final_evaluation_tokens=32_768)
GPU_STEPS, EARLY_STEPS = 1000, 10


def base_run(profile: str) -> SFTSpec:
    """E1's run in a profile."""
    return E1 if profile == "cpu" else replace(E1, dtype="bfloat16", steps=GPU_STEPS)


FULL, LINEAR = "full", "full, linear layers"


def rank_arms(base: SFTSpec) -> dict[str, SFTSpec]:
    """E1's arms by name."""
    return {FULL: replace(base, lora=None), LINEAR: replace(base, lora=None, full_targets="all-linear"),
            **{f"rank {rank}": replace(base, lora=LoRASpec(rank=rank)) for rank in RANKS}}


def _rates(arms: Iterable[Any], full: list[float] = FULL_RATES, lora: list[float] = LORA_RATES) -> list[Any]:
    return [spec for arm in arms for spec in vary(arm, learning_rate=full if arm.lora is None else lora)]


def _screen(profile: str, seed: int) -> list[SFTSpec]:
    """Arms with a rate for each of the claims: the first seeds have all, later ones those of C3 alone."""
    arms = rank_arms(replace(base_run(profile), seed=seed))
    return _rates(arms[name] for name in arms
                  if seed in BOTH_SCREENED or name in (FULL, "rank 1", "rank 16"))


def confirm(arms: Mapping[str, Any], rates: Mapping[str, float], seeds: Iterable[int] = FRESH) -> list[Any]:
    """Every arm at the rate that was chosen for it, on fresh seeds."""
    return [spec for name, rate in rates.items()
            for spec in vary(replace(arms[name], learning_rate=rate), seed=list(seeds))]


# Least mean validation loss of the screened seeds (a test chooses again from the records); no end of a grid among them.
CHOSEN: dict[str, dict[str, float]] = {"gpu": {FULL: 2.15e-5, LINEAR: 4.64e-5,
                                               **{f"rank {rank}": 2.15e-4 for rank in RANKS},
                                               "attention, rank 26": 4.64e-4, "MLP, rank 16": 4.64e-4,
                                               "both, rank 10": 2.15e-4}}


def _confirmed(profile: str, arms_of: Callable[[SFTSpec], Mapping[str, SFTSpec]]) -> list[SFTSpec]:
    arms = arms_of(base_run(profile))
    return confirm(arms, {name: CHOSEN[profile][name] for name in arms})


def confirm_early(base: SFTSpec, rate: float) -> list[SFTSpec]:
    """C4: the first steps of every rank at rank 16's rate, evaluated at each."""
    early = replace(base, steps=EARLY_STEPS, evaluations=EARLY_STEPS, learning_rate=rate, evaluation_tokens=16_384,
                    final_evaluation_tokens=None)
    return vary(early, rank=list(RANKS), seed=list(FRESH))


# 26, 16 and 10 give attention, the MLP and both about 3.0 million weights each: within 2 %.
E2_ADAPTERS = {"attention, rank 26": LoRASpec(rank=26, targets="attention"), "MLP, rank 16": LoRASpec(
    rank=16, targets="mlp"), "both, rank 10": LoRASpec(rank=10)}
E3 = GRPOSpec(model=E1.model, learning_rate=1e-4, prompts_per_step=4, group_size=8, steps=150, max_completion_length=8,
              evaluations=6, evaluation_problems=128, final_evaluation_problems=1024)
E3_LORA_RATES, E3_FULL_RATES = grid(2.15e-4, 5), grid(2.15e-5, 5)  # ten apart, place by place
E3_TASKS = ("ordered-sums", "number-words")
# On the sums rank 1 was best at the lowest of these rates: two lower ones for every arm, as E1's protocol asks.
E3_LOWER = {"ordered-sums": 2}
E3_SCREENED = range(3)


def layer_arms(base: Any) -> dict[str, Any]:
    """Attention, the MLP, both, with equally many weights."""
    return {name: replace(base, lora=lora) for name, lora in E2_ADAPTERS.items()}


def _layers(profile: str, seed: int) -> list[SFTSpec]:
    return _rates(layer_arms(replace(base_run(profile), seed=seed)).values())


def answer_arms(profile: str, seed: int = 0) -> dict[str, SFTSpec]:
    """E2's arms on GSM8K's worked answers: those of the layers, full fine-tuning and rank 16 of everything."""
    base = replace(E2_ANSWERS, seed=seed, dtype=base_run(profile).dtype)
    return {FULL: replace(base, lora=None), "rank 16": replace(base, lora=LoRASpec(rank=16)), **layer_arms(base)}


def _answers(profile: str, seed: int) -> list[SFTSpec]:
    return _rates(answer_arms(profile, seed).values())


def rl_base(profile: str, task: str, seed: int = 0) -> GRPOSpec:
    """E3's run in a profile."""
    return replace(E3, task=task, seed=seed, dtype=base_run(profile).dtype)


def rl_arms(base: GRPOSpec) -> dict[str, GRPOSpec]:
    """E3's arms by name."""
    return {FULL: replace(base, lora=None), **{f"rank {rank}": replace(base, lora=LoRASpec(rank=rank))
                                               for rank in (1, 16)}}


def _rl(profile: str, task: str, seed: int) -> list[GRPOSpec]:
    return _rates(rl_arms(rl_base(profile, task, seed)).values(), E3_FULL_RATES, E3_LORA_RATES)


def rl_screens(task: str) -> tuple[str, ...]:
    """Names of the experiments that screen E3's rates on a task."""
    kinds = (f"smollm2-grpo-{task}", *([f"smollm2-grpo-{task}-lower"] if task in E3_LOWER else []))
    return tuple(f"{kind}-{seed}" for kind in kinds for seed in E3_SCREENED)


def _rl_lower(profile: str, task: str, seed: int) -> list[GRPOSpec]:
    """What widens the grid of every arm downwards."""
    more = E3_LOWER[task]
    full, lora = (grid(middle, 5 + 2 * more)[:more] for middle in (2.15e-5, 2.15e-4))
    return _rates(rl_arms(rl_base(profile, task, seed)).values(), full, lora)


# Least mean of wrong answers on the screened seeds, of the arms whose best rate is inside the grid.
CHOSEN_RL: dict[str, dict[str, dict[str, float]]] = {"gpu": {"ordered-sums": {FULL: 9.98e-6, "rank 16": 2.15e-4}}}


def confirm_rl(profile: str, task: str, rates: Mapping[str, float]) -> list[GRPOSpec]:
    """Every arm at its chosen rate on fresh seeds; for T1 rank 1 at ten times full fine-tuning's, on all seeds."""
    arms = rl_arms(rl_base(profile, task))
    ten = {"rank 1": float(f"{10 * rates[FULL]:.3g}")} if FULL in rates else {}
    found = confirm(arms, rates, FRESH_RL) + confirm(arms, ten, (*E3_SCREENED, *FRESH_RL))
    return list({spec.id: spec for spec in found}.values())


def _rl_confirmed(profile: str, task: str) -> list[GRPOSpec]:
    return confirm_rl(profile, task, CHOSEN_RL[profile][task])


def rl_layer_arms(base: GRPOSpec) -> dict[str, GRPOSpec]:
    """Attention and the MLP alone."""
    return dict(list(layer_arms(base).items())[:2])


def _rl_layers(profile: str) -> list[GRPOSpec]:
    return _rates(rl_layer_arms(rl_base(profile, E3_TASKS[0])).values(), lora=E3_LORA_RATES)


E5_SEQUENCES, E5_BATCHES, E5_LENGTH = 7680, (32, 256), 32


def batch_arms(base: SFTSpec, batch: int) -> dict[str, SFTSpec]:
    """E5's arms at one batch size; every run sees equally many sequences."""
    sized = replace(base, max_length=E5_LENGTH, batch_size=batch, steps=E5_SEQUENCES // batch)
    arms = rank_arms(sized)
    return {name: arms[name] for name in (FULL, "rank 16", "rank 64")}


def _batches(profile: str, seed: int) -> list[SFTSpec]:
    return [spec for batch in E5_BATCHES
            for spec in _rates(batch_arms(replace(base_run(profile), seed=seed), batch).values())]


# Strings of 4 bits for each of rank 1's weights on the value projections, 150 times: more than ranks 1 and 2 hold.
E4 = replace(E1, dataset="random-words-122", batch_size=8, steps=122 * 150 // 8, evaluations=20,
             evaluation_tokens=4096, final_evaluation_tokens=None)
E4_RANKS = (1, 2, 4, 16)


def memory_arms(profile: str, seed: int = 0) -> dict[str, SFTSpec]:
    """E4's arms: few weights, so that few strings exceed them."""
    base = replace(E4, seed=seed, dtype=base_run(profile).dtype)
    return {FULL: replace(base, lora=None), **{f"rank {rank}": replace(base, lora=LoRASpec(
        rank=rank, targets=("v_proj",))) for rank in E4_RANKS}}


def _memory(profile: str) -> list[SFTSpec]:
    return _rates(memory_arms(profile).values(), lora=grid(2.15e-3, 5))


def _long(profile: str, seed: int) -> list[SFTSpec]:
    """E1 once more with rows of 256 tokens: what rows of 64 tokens may hide."""
    arms = rank_arms(replace(base_run(profile), seed=seed, max_length=256))
    return _rates((arms[FULL], arms["rank 16"]))


def _early(profile: str) -> list[SFTSpec]:
    return confirm_early(base_run(profile), CHOSEN[profile]["rank 16"])


def _defined(name: str, question: str, make: Any, profiles: Iterable[str] = ("cpu", "gpu")) -> Experiment:
    """An experiment; `make(profile)` lists its specs."""
    runs: dict[tuple[str, str], Any] = {(profile, "record"): partial(make, profile) for profile in profiles}
    return Experiment(name, question, runs, under_way=True)


EXPERIMENTS = (
    *(_defined(f"smollm2-rank-{seed}", f"E1: LoRA and full fine-tuning of SmolLM2-135M, rates screened, seed {seed}.",
               partial(_screen, seed=seed)) for seed in SCREENED),
    _defined("smollm2-rank-confirmed", "E1: every arm at the rate that was chosen for it, eight fresh seeds.",
             partial(_confirmed, arms_of=rank_arms), CHOSEN),
    _defined("smollm2-rank-early", "E1: the first ten steps of every rank at one rate, eight fresh seeds.",
             _early, CHOSEN),
    *(_defined(f"smollm2-layers-{seed}", f"E2: attention, MLP or both on SmolLM2-135M, rates screened, seed {seed}.",
               partial(_layers, seed=seed)) for seed in BOTH_SCREENED),
    _defined("smollm2-layers-confirmed", "E2 on real text: every arm at the rate that was chosen for it, eight fresh "
             "seeds.", partial(_confirmed, arms_of=layer_arms), CHOSEN),
    *(_defined(f"smollm2-layers-gsm8k-{seed}", f"E2 on GSM8K's worked answers, rates screened, seed {seed}.",
               partial(_answers, seed=seed)) for seed in BOTH_SCREENED),
    *(_defined(f"smollm2-grpo-{task}-{seed}", f"E3: GRPO on SmolLM2-135M, {task}, rates screened, seed {seed}.",
               partial(_rl, task=task, seed=seed)) for task in E3_TASKS for seed in E3_SCREENED),
    *(_defined(f"smollm2-grpo-{task}-lower-{seed}",
               f"E3: GRPO on SmolLM2-135M, {task}, lower rates for every arm, seed {seed}.",
               partial(_rl_lower, task=task, seed=seed)) for task in E3_LOWER for seed in E3_SCREENED),
    *(_defined(f"smollm2-grpo-{task}-confirmed", f"E3: {task}, arms at the rate that was chosen for them so far, five "
               "fresh seeds.", partial(_rl_confirmed, task=task), ("gpu",)) for task in CHOSEN_RL["gpu"]),
    _defined("smollm2-grpo-layers", "E3: attention or MLP in GRPO on SmolLM2-135M, rates screened, one seed.",
             _rl_layers),
    *(_defined(f"smollm2-batch-{seed}", f"E5: batches of 32 and 256 sequences on SmolLM2-135M, seed {seed}.",
               partial(_batches, seed=seed)) for seed in BOTH_SCREENED),
    _defined("smollm2-capacity", "E4: strings beyond what low ranks hold, rates screened, one seed.", _memory),
    *(_defined(f"smollm2-rank-256-{seed}", f"E1 with rows of 256 tokens, rates screened, seed {seed}.",
               partial(_long, seed=seed)) for seed in BOTH_SCREENED),
)
