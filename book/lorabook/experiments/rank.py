"""Rank: which rank trains like full fine-tuning.

What is fixed here was fixed before the record runs, from a pilot with one seed on `tiny` (November 2026): which
rates bracket the best one for every arm, and how many steps the random associations need.
"""

from __future__ import annotations

from dataclasses import replace

from lorabook.experiments.definition import Experiment, arms, grid
from lorakit.specs import SFTSpec

LLAMA = "meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b"
QWEN = "Qwen/Qwen3-8B@b968826d9c46dd6066d109eabc6255188de91218"
TULU3 = "allenai/tulu-3-sft-mixture@b14afda60f1bbebe55d5d2fa1e4df5042f97f8be"
ASSOCIATIONS = SFTSpec(dataset="random-associations", learning_rate=1e-3, steps=800, evaluations=16)
SKILLS = SFTSpec(dataset="reworded-skills", learning_rate=1e-3, batch_size=8, max_length=40, evaluations=14)
TEXT = SFTSpec(dataset="real-text", learning_rate=1e-3, evaluations=14)
RANKS = [1, 2, 4, 8, 16, 64, 128]
REPLAY = SFTSpec(dataset="reworded-skills-replay", learning_rate=1e-3, batch_size=8, max_length=40, steps=400,
                 evaluations=10)
REPLAY_LIVE = replace(REPLAY, steps=54, evaluations=7, batch_size=4)


def _rank_record() -> list[SFTSpec]:
    return [spec for base in (ASSOCIATIONS, SKILLS, TEXT)
            for spec in arms(base, RANKS, grid(2.15e-3, 6), grid(1e-3, 6), seeds=5)]


def _replay_record() -> list[SFTSpec]:
    """Post-training: length and full fine-tuning's rates are chosen from the regime gate, before LoRA was run."""
    rates = grid(1e-3, 7, per_decade=4)
    return arms(REPLAY, [1, 4, 16, 64], rates[2:], rates[:5], seeds=5)


def _replay_live() -> list[SFTSpec]:
    """Full fine-tuning and rank 16 share their runs with the live size of `learning-rate`."""
    rates = grid(1e-3, 9, per_decade=4)
    return arms(REPLAY_LIVE, [1, 16], rates[4:], rates[2:7], seeds=2)


def _rank_live() -> list[SFTSpec]:
    short = replace(ASSOCIATIONS, steps=200, evaluations=10)
    return arms(short, [1, 16], [1e-3, 2.15e-3, 4.64e-3], [4.64e-4, 1e-3, 2.15e-3], seeds=2)


SMOLLM2 = SFTSpec(model="smollm2-135m-instruct-q4", dataset="real-text", learning_rate=1e-4, batch_size=2, steps=60,
                  evaluations=8, evaluation_tokens=1024)


def _smollm2_cpu() -> list[SFTSpec]:
    return arms(SMOLLM2, [16], [1e-4, 3e-4, 1e-3], [1e-5, 3e-5, 1e-4], seeds=1)


SMOLLM2_GPU = replace(SMOLLM2, batch_size=8, max_length=256, steps=300, evaluations=14, evaluation_tokens=16384,
                      dtype="bfloat16")
LLAMA_PAPER = SFTSpec(model=LLAMA, dataset=TULU3, learning_rate=1e-4, batch_size=8, accumulation=4, max_length=2048,
                      steps=1000, evaluations=14, evaluation_tokens=100_000, dtype="bfloat16")


def _rank_gpu() -> list[SFTSpec]:
    return arms(SMOLLM2_GPU, [1, 16, 64, 128], grid(1e-3, 5, per_decade=2), grid(1e-4, 5, per_decade=2), seeds=3)


def _rank_paper() -> list[SFTSpec]:
    """The article's setting as far as it is told: its grids, batch and steps are not."""
    ranks = [1, 4, 16, 64, 256, 512]
    return arms(LLAMA_PAPER, ranks, grid(3e-4, 5, per_decade=2), grid(3e-5, 5, per_decade=2), seeds=3)


def _control_record() -> list[SFTSpec]:
    """Skills that the base has never seen: the control that the regime gate has to turn away."""
    return arms(replace(SKILLS, dataset="new-skills"), [16], grid(2.15e-3, 6), grid(1e-3, 6), seeds=5)


def _control_live() -> list[SFTSpec]:
    short = replace(SKILLS, dataset="new-skills", steps=100, evaluations=8)
    return arms(short, [16], grid(4.64e-3, 3), grid(2.15e-3, 3), seeds=2)


def _control_gpu() -> list[SFTSpec]:
    """Random associations, here and on `paper`: whatever a larger base has met, it has not met these."""
    base = replace(SMOLLM2_GPU, dataset="random-associations", max_length=64)
    return arms(base, [16], grid(1e-3, 5, per_decade=2), grid(1e-4, 5, per_decade=2), seeds=3)


def _control_paper() -> list[SFTSpec]:
    base = replace(LLAMA_PAPER, dataset="random-associations", max_length=64, steps=300)
    return arms(base, [16], grid(3e-4, 5, per_decade=2), grid(3e-5, 5, per_decade=2), seeds=3)


CUT = ("base text", "truncation")
EXPERIMENTS = (
    Experiment("rank", "At which rank does LoRA train like full fine-tuning, and when does a rank fall behind?", {
        ("cpu", "record"): _rank_record, ("cpu", "live"): _rank_live,
        ("gpu", "record"): _rank_gpu, ("paper", "record"): _rank_paper,
    }, probes=CUT),
    Experiment("control", "Does the regime gate turn away skills that the base has never seen?", {
        ("cpu", "record"): _control_record, ("cpu", "live"): _control_live,
        ("gpu", "record"): _control_gpu, ("paper", "record"): _control_paper,
    }, probes=CUT),
    Experiment("rank-replay", "Does LoRA of high rank equal full fine-tuning in post-training, with replay?", {
        ("cpu", "record"): _replay_record, ("cpu", "live"): _replay_live,
    }, probes=CUT),
    Experiment("rank-smollm2", "Sixty steps of SmolLM2-135M on two cores: rank 16 beside full fine-tuning.", {
        ("cpu", "record"): _smollm2_cpu,
    }),
)
