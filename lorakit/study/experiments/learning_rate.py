"""Learning rate: where the best one lies for LoRA and for full fine-tuning, and what moves it.

Fixed before the record runs, from a pilot with one seed (fifteen runs of 251 steps of 4 × 40 tokens on `tiny`, November
2026) and the theory of the chapter: the ranges of the rates. Steps of a shorter run are evaluated where those of a
longer one are, so that every arm can be compared with full fine-tuning at its own length.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lorakit.specs import SFTSpec, vary
from lorakit.study.experiments.definition import Experiment, arms, grid
from lorakit.study.experiments.rank import REPLAY, SMOLLM2

RANKS = [1, 4, 16, 64]
QUARTERS = grid(1e-3, 16, per_decade=4)  # 1e-5 to 5.62e-2: the grids of the embedded models are parts of it
SHORT = replace(REPLAY, steps=206, evaluations=9)
# which part of `QUARTERS` an arm is trained at; that of rank 1, alpha 2, was widened downwards after its first rates
ALPHAS = {1: {1: slice(10, 16), 2: slice(8, 16), 8: slice(8, 14)}, 16: {16: slice(7, 13)},
          64: {64: slice(6, 12), 128: slice(5, 11)}}  # by rank and alpha
STARTS = {0.25: slice(7, 13), 4.0: slice(5, 11)}  # by the factor on A's start
WIDTHS = {"tiny-w32-s0": (slice(6, 12), slice(7, 13)), "tiny-w64-s0": (slice(5, 11), slice(7, 13)),
          "tiny": (slice(4, 10), slice(6, 12))}  # by base: full fine-tuning, LoRA
WIDEST = {"tiny-w256-s0": (slice(4, 10), slice(6, 12))}  # as `tiny`: the best rates had not moved below it


def _record() -> list[SFTSpec]:
    return arms(REPLAY, RANKS, QUARTERS[6:14], QUARTERS[3:12], seeds=5)


def _live() -> list[SFTSpec]:
    return arms(replace(REPLAY, steps=54, evaluations=7, batch_size=4), [16], QUARTERS[7:14], QUARTERS[6:13], seeds=2)


def _scale_record() -> list[SFTSpec]:
    runs = [spec for rank, alphas in ALPHAS.items() for alpha, part in alphas.items()
            for spec in vary(SHORT, rank=[rank], alpha=[alpha], learning_rate=QUARTERS[part], seed=range(5))]
    return runs + [spec for start, part in STARTS.items() for spec in vary(
        SHORT, rank=[16], init_a_scale=[start], learning_rate=QUARTERS[part], seed=range(5))]


def _width_record(bases: dict[str, tuple[slice, slice]]) -> list[SFTSpec]:
    return [spec for model, (full, lora) in bases.items()
            for spec in arms(replace(SHORT, model=model), [4], QUARTERS[lora], QUARTERS[full], seeds=5)]


EXACT = replace(REPLAY, learning_rate=1e-3, steps=50, evaluations=4, dtype="float64", evaluation_tokens=1024)
PAIRS = ((1, 1), (4, 1), (1, 1 / 16), (1 / 4, 8))  # (p, q) of the invariance
LEAST_EPSILON = 1e-30
SMOLLM2_SEEDS = range(5)  # an experiment each: one is a quarter of an hour of two cores


def transformed(spec: SFTSpec, p: float, q: float) -> SFTSpec:
    """The run that the invariance says is the same: (alpha / (p q), p init_A, p LR_A, q LR_B)."""
    assert spec.lora is not None
    lora = replace(spec.lora, alpha=spec.lora.alpha / (p * q), init_a_scale=spec.lora.init_a_scale * p,
                   learning_rate_b_ratio=spec.lora.learning_rate_b_ratio * q / p)
    return replace(spec, lora=lora, learning_rate=spec.learning_rate * p)


def _invariance_record() -> list[SFTSpec]:
    seeds = vary(EXACT, rank=[4], seed=range(5))
    none = [replace(transformed(s, *pair), epsilon=LEAST_EPSILON) for s in seeds for pair in PAIRS]
    usual = [transformed(s, *pair) for s in seeds for pair in (*PAIRS, (4, 4))]
    return none + usual + [replace(transformed(s, 4, 4), epsilon=s.epsilon / 4) for s in seeds]


def _smollm2(seed: int) -> list[SFTSpec]:
    base = replace(SMOLLM2, steps=100, seed=seed, evaluations=7, evaluation_tokens=1024)
    specs = arms(base, [1, 16], grid(2.15e-3, 5), grid(2.15e-4, 5), seeds=1)
    return [replace(spec, seed=seed) for spec in specs]


def _gpu() -> list[SFTSpec]:
    base = replace(SMOLLM2, batch_size=8, max_length=256, steps=1000, evaluations=16, evaluation_tokens=16384)
    return arms(base, [1, 4, 16, 128], grid(2.15e-3, 6), grid(2.15e-4, 6), seeds=3)


def _paper() -> list[SFTSpec]:
    base = SFTSpec(model="meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b",
                   dataset="allenai/tulu-3-sft-mixture@b14afda60f1bbebe55d5d2fa1e4df5042f97f8be", learning_rate=3e-4,
                   batch_size=8, accumulation=4, max_length=2048, steps=1000, dtype="bfloat16", evaluations=16,
                   evaluation_tokens=65536)
    return arms(base, [1, 4, 16, 512], grid(3e-4, 6), grid(3e-5, 6), seeds=3)


EXPERIMENTS = (
    Experiment("learning-rate", "How far apart are the best rates of LoRA and full fine-tuning, at each run length?", {
        ("cpu", "record"): _record, ("cpu", "live"): _live, ("gpu", "record"): _gpu, ("paper", "record"): _paper,
    }),
    Experiment("learning-rate-width", "Does the ratio of the best rates grow with the width of the model?", {
        ("cpu", "record"): partial(_width_record, WIDTHS),
    }),
    Experiment("learning-rate-width-256", "The same, on the widest embedded base.", {
        ("cpu", "record"): partial(_width_record, WIDEST),
    }),
    Experiment("learning-rate-scale", "How do alpha and A's start move LoRA's best rate?", {
        ("cpu", "record"): _scale_record,
    }),
    Experiment("learning-rate-invariance", "Do settings that the invariance calls equal train alike, in float64?", {
        ("cpu", "record"): _invariance_record,
    }),
    *(Experiment(f"learning-rate-smollm2-{seed}", f"SmolLM2-135M on two cores: best rates, seed {seed}.", {
        ("cpu", "record"): partial(_smollm2, seed),
    }) for seed in SMOLLM2_SEEDS),
)
