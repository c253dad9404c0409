"""Capacity: how many bits an adapter stores, how many a dataset carries, and whether the one forecasts the other.

A pilot (November 2026, one seed, 90 seconds of one core) chose the alphabet of the strings and the middle rate of their
grids: from 4.6e-3 on LoRA learns less or nothing. Each set of strings carries about 4 bits for each weight of the
adapter that is trained on it, more than anything was known to hold; for rank 1, a set of half that size stands beside
it. Full fine-tuning has about 2 bits for each weight: its runs are the longest. Its grid got its highest rate after
a first sweep whose best rate lay at the end.
"""

from __future__ import annotations

from dataclasses import replace

from lorabook.experiments.definition import Experiment, arms, grid
from lorabook.experiments.rank import LLAMA, LLAMA_PAPER, QWEN, SMOLLM2_GPU
from lorakit.specs import LoRASpec, SFTSpec, vary

STRINGS = SFTSpec(model="tiny-w64-s0", dataset="random-strings-24", learning_rate=1.25e-3, max_length=64,
                  evaluations=15, evaluation_tokens=1_000_000)
LORA_RATES, FULL_RATES = [5e-4, 1.25e-3, 3e-3], [1e-3, 2.15e-3, 4.64e-3, 1e-2]
PASSES = replace(STRINGS, lora=LoRASpec(rank=16), dataset="reworded-skills", max_length=40, evaluations=2,
                 evaluation_tokens=2048)
PASS_RATES = grid(2e-3, 5, per_decade=2)
STRING_SETS = {f"random-strings-{count}": count for count in (12, 24, 48, 96, 192, 384, 1536)}  # strings of each set
NEW = SFTSpec(model="tiny-w64-s0", dataset="new-skills", learning_rate=1e-3, batch_size=8, max_length=40,
              evaluations=14)


def _strings(count: int, exposures: int, rank: int | None, targets: str | tuple[str, ...] = "all-linear", *,
             base: SFTSpec = STRINGS, rates: list[float] = LORA_RATES, seeds: int = 3) -> list[SFTSpec]:
    """Runs over `count` strings, each met `exposures` times; rank None is full fine-tuning."""
    base = replace(base, dataset=f"random-strings-{count}", steps=exposures * count // base.batch_size,
                   lora=None if rank is None else LoRASpec(rank=rank, targets=targets))
    return vary(base, learning_rate=rates, seed=range(seeds))


def capacity_record() -> list[SFTSpec]:
    """Over 1,000 exposures the best rate was first found at an end of the grid, so these grids have one rate more."""
    lower, higher = [2e-4, *LORA_RATES], [*LORA_RATES, 7.5e-3]
    return [*_strings(24, 1000, 1, rates=lower), *_strings(48, 1000, 2, rates=lower), *_strings(96, 300, 4),
            *_strings(192, 300, 8), *_strings(12, 1000, 1, rates=higher)]


def _capacity_live() -> list[SFTSpec]:
    return [*_strings(12, 150, 1, seeds=2), *_strings(24, 150, 2, seeds=2)]


def _full(count: int, exposures: int, seeds: int) -> list[SFTSpec]:
    return _strings(count, exposures, None, base=replace(STRINGS, model="tiny-w32-s0"), rates=FULL_RATES, seeds=seeds)


def _placement_record() -> list[SFTSpec]:
    """8,704 weights on all layers beside 8,192 on attention and 9,216 on the MLP: as near as whole ranks come."""
    return [*_strings(96, 300, 4), *_strings(96, 300, 8, "attention"), *_strings(96, 300, 8, "mlp")]


def _placement_live() -> list[SFTSpec]:
    return [*_strings(24, 60, 2, seeds=2), *_strings(24, 60, 4, "attention", seeds=2),
            *_strings(24, 60, 4, "mlp", seeds=2)]


STRINGS_GPU = replace(STRINGS, model="smollm2-135m-instruct-q4", batch_size=16, dtype="bfloat16")
STRINGS_PAPER = replace(STRINGS, model=LLAMA, batch_size=64, dtype="bfloat16")
GPU_RATES, PAPER_RATES = [3e-4, 1e-3, 3e-3], [1e-4, 3e-4, 1e-3]


def _capacity_gpu() -> list[SFTSpec]:
    return _strings(384, 300, 1, ("q_proj", "v_proj"), base=STRINGS_GPU, rates=GPU_RATES)


def _capacity_paper() -> list[SFTSpec]:
    return _strings(1536, 1000, 1, ("v_proj",), base=STRINGS_PAPER, rates=PAPER_RATES)


def _placement_gpu() -> list[SFTSpec]:
    """57,600 weights on attention, the runs of `capacity`, beside 63,360 on the MLP."""
    return _capacity_gpu() + _strings(384, 300, 1, ("down_proj",), base=STRINGS_GPU, rates=GPU_RATES)


def _bits_record() -> list[SFTSpec]:
    """All 6,000 reworded questions once at three batch sizes, real text, and strings of known bits as the control."""
    skills = [spec for batch in (2, 10, 50)
              for spec in vary(replace(PASSES, batch_size=batch, steps=6000 // batch), learning_rate=PASS_RATES)]
    full = vary(replace(PASSES, batch_size=10, steps=600, lora=None), learning_rate=grid(6.3e-4, 5, per_decade=2))
    text = vary(replace(PASSES, dataset="real-text", max_length=64, steps=250), learning_rate=PASS_RATES)
    control = vary(replace(PASSES, dataset="random-strings-384", max_length=64, steps=96), learning_rate=PASS_RATES)
    return [replace(spec, seed=seed) for spec in skills + full + text + control for seed in range(3)]


def _bits_live() -> list[SFTSpec]:
    skills = [spec for batch in (10, 50)
              for spec in vary(replace(PASSES, batch_size=batch, steps=1500 // batch), learning_rate=PASS_RATES[1:4])]
    control = replace(PASSES, dataset="random-strings-384", max_length=64, steps=96)
    return [replace(spec, seed=seed) for spec in skills + vary(control, learning_rate=PASS_RATES[1:4])
            for seed in range(2)]


def _bits_gpu() -> list[SFTSpec]:
    base = replace(PASSES, model="smollm2-135m-instruct-q4", evaluation_tokens=16384, dtype="bfloat16")
    text = replace(base, dataset="real-text", batch_size=8, max_length=256, steps=300)
    skills = replace(base, batch_size=16, steps=375, max_length=64)
    rates = grid(1e-3, 5, per_decade=2)
    return [spec for one in (text, skills) for spec in vary(one, learning_rate=rates, seed=range(3))]


def _bits_paper() -> list[SFTSpec]:
    base = replace(LLAMA_PAPER, lora=PASSES.lora, evaluations=PASSES.evaluations)
    return vary(base, learning_rate=grid(3e-4, 5, per_decade=2), seed=range(3))


def _forecast_record() -> list[SFTSpec]:
    return arms(NEW, [1, 2, 4, 8, 16, 32], grid(4.64e-3, 6), grid(2.15e-3, 6), seeds=3)


def _forecast_live() -> list[SFTSpec]:
    short = replace(NEW, steps=100, evaluations=8)
    return arms(short, [1, 4, 16], grid(4.64e-3, 3), grid(2.15e-3, 3), seeds=2)


def _forecast_gpu() -> list[SFTSpec]:
    base = replace(SMOLLM2_GPU, dataset="new-skills", max_length=64)
    return arms(base, [1, 4, 16, 64], grid(1e-3, 5, per_decade=2), grid(1e-4, 5, per_decade=2), seeds=3)


def _forecast_paper() -> list[SFTSpec]:
    """Another base than that of `rank`, on its data."""
    base = replace(LLAMA_PAPER, model=QWEN)
    return arms(base, [1, 4, 16, 64, 256], grid(3e-4, 5, per_decade=2), grid(3e-5, 5, per_decade=2), seeds=3)


EXPERIMENTS = (
    Experiment("capacity", "How many bits does a weight of an adapter store, and after how many exposures?", {
        ("cpu", "record"): capacity_record, ("cpu", "live"): _capacity_live,
        ("gpu", "record"): _capacity_gpu, ("paper", "record"): _capacity_paper,
    }, probes=("base text", "rounding")),
    Experiment("capacity-full", "How many bits does a weight store when every weight of a model is trained?", {
        ("cpu", "record"): lambda: _full(192, 300, 3), ("cpu", "live"): lambda: _full(48, 60, 2),
    }),
    Experiment("capacity-placement", "Does a weight of an adapter store more in attention or in the MLP?", {
        ("cpu", "record"): _placement_record, ("cpu", "live"): _placement_live,
        ("gpu", "record"): _placement_gpu,
    }),
    Experiment("dataset-bits", "How many bits does a dataset carry, and how does the estimate depend on training?", {
        ("cpu", "record"): _bits_record, ("cpu", "live"): _bits_live,
        ("gpu", "record"): _bits_gpu, ("paper", "record"): _bits_paper,
    }),
    Experiment("rank-forecast", "Is the predicted rank right on data and on a base that no constant was taken from?", {
        ("cpu", "record"): _forecast_record, ("cpu", "live"): _forecast_live,
        ("gpu", "record"): _forecast_gpu, ("paper", "record"): _forecast_paper,
    }),
)
