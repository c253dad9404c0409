"""How much a reward teaches: one secret out of N, learnt from examples and learnt from a reward.

Rates come from a pilot with one seed (18 runs, one core-minute). Steps are about eight times what a policy needs that
guesses evenly until it is right.
"""

from __future__ import annotations

from dataclasses import replace

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.study.experiments.definition import Experiment

STEPS = {10: 40, 26: 60, 100: 120, 676: 450, 10_000: 5000}
TOKENS = {10: 1, 26: 1, 100: 2, 676: 2, 10_000: 5}
REWARDED = GRPOSpec(task="secret-10", learning_rate=1e-3, prompts_per_step=1, group_size=16, evaluations=20,
                    evaluation_problems=1)
SHOWN = SFTSpec(dataset="secret-10", learning_rate=1e-3, batch_size=1, max_length=16, steps=20, evaluations=20)


def _by_reward(counts: tuple[int, ...], rates: list[float], seeds: int) -> list[GRPOSpec]:
    return [spec for count in counts for lora in (LoRASpec(rank=1), None)
            for spec in vary(replace(REWARDED, task=f"secret-{count}", steps=STEPS[count], lora=lora,
                                     max_completion_length=TOKENS[count]), learning_rate=rates, seed=range(seeds))]


def _by_example(counts: tuple[int, ...], rates: list[float], seeds: int) -> list[SFTSpec]:
    return [spec for count in counts for lora in (LoRASpec(rank=1), None)
            for spec in vary(replace(SHOWN, dataset=f"secret-{count}", lora=lora), learning_rate=rates,
                             seed=range(seeds))]


EXPERIMENTS = (
    Experiment("secret-reward", "How many episodes does a reward need to teach one secret out of N?", {
        ("cpu", "record"): lambda: _by_reward(tuple(STEPS), [3e-4, 1e-3], 5),
        ("cpu", "live"): lambda: _by_reward((10, 26, 100), [1e-3], 3),
    }),
    Experiment("secret-example", "How many examples does it take to learn the same secrets?", {
        ("cpu", "record"): lambda: _by_example(tuple(STEPS), [3e-4, 1e-3, 3e-3, 1e-2], 5),
        ("cpu", "live"): lambda: _by_example((10, 26, 100), [3e-3], 3),
    }),
)
