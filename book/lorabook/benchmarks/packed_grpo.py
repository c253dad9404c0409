"""P6, and P7's part of RL: GRPO in packs against TRL's GRPOTrainer, one run after another.

Each arm samples with its own sampler: tests hold that runs with the same draws are the same, so what is asserted here
is that TRL's rewards and lengths lie in the band of packed seeds, and that every run had something to learn.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

from lorabook.benchmarks.base import base_name, model_of
from lorabook.benchmarks.benchmark import Setting, by_run, in_processes, in_turns, to_record
from lorabook.benchmarks.outcome import clock
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record
from lorakit.specs import LoRASpec, vary

SEEDS, RATES, STEPS = 4, 4, 20
BAND = 8  # packed seeds that P6's arms are held against
TRL_RATES = 2  # of them with seed 0 are timed with TRL, and their time is multiplied
WIDEST = 4.0  # standard deviations over seeds that one more run may be away from their mean, enlarged as a t value
Episodes = list[tuple[float, float]]


def _summary(result: Any) -> tuple[float, float]:
    """Mean reward and mean length of all episodes of a run."""
    if not result.metrics["groups_with_spread"]:
        raise RuntimeError("no group of a run held two rewards: it would be timed without learning")
    episodes = [b - a for a, b in zip([0, *result.curve["episodes"]], result.curve["episodes"], strict=False)]
    reward, length = (sum(n * v for n, v in zip(episodes, result.curve[name], strict=True)) / sum(episodes)
                      for name in ("reward", "length"))
    return reward, length


def packed(specs: list[GRPOSpec], device: str) -> Episodes:
    """One pack."""
    from lorakit.data.rl_tasks import load_task
    from lorakit.packed.grpo import train_grpo_pack

    return [_summary(result) for result in
            train_grpo_pack(specs, *model_of(specs[0], device), load_task(specs[0].task))]


def trl(specs: list[GRPOSpec], device: str) -> Episodes:
    """One run after another."""
    from lorakit.data.rl_tasks import load_task
    from lorakit.reference.grpo import train_grpo

    return [_summary(train_grpo(spec, *model_of(spec, device), load_task(spec.task))) for spec in specs]


def trl_alone(specs: list[GRPOSpec], device: str) -> Episodes:
    """In a process of its own: vLLM samples for one run of a process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(trl, (specs, device))


def sweep(quick: bool) -> list[GRPOSpec]:
    """The 16 policies of P7: rates, and of each its seeds."""
    seeds, rates, steps = (2, 2, 2) if quick else (SEEDS, RATES, STEPS)
    base = GRPOSpec(task="copy", learning_rate=1e-3, lora=LoRASpec(rank=8), steps=steps, max_completion_length=12,
                    evaluations=2, evaluation_problems=16)
    return vary(base, learning_rate=[2e-4 * 2**i for i in range(rates)], seed=range(seeds))


def packed_grpo(setting: Setting, pool: Any) -> Iterator[Record]:
    """The record of a sweep of 16 policies on two cores.

    Raises:
        RuntimeError: TRL's runs do not do what the packed ones do, or one has nothing to learn.
    """
    specs = sweep(setting.quick)
    some = specs[::len(specs) // (1 if setting.quick else TRL_RATES)]  # seed 0 of some rates
    arms = {"packed": (packed, [specs[0::2], specs[1::2]]), "trl": (trl, [some])}
    found = in_processes(setting, pool, len(specs), arms)
    episodes = {name: by_run(parts, found[name][-1].answers) for name, (_, parts) in arms.items()}
    for spec in some:
        alike = [episodes["packed"][s.id] for s in specs if s.learning_rate == spec.learning_rate]
        require_alike(alike, episodes["trl"][spec.id], f"TRL's run at {spec.learning_rate:g}")
    fields = {"spec": specs[0].to_json(), "points": len(specs), "processes": 2, "threads": 1}
    yield to_record(setting, "packed-grpo", fields, {},
                    {name: [one.seconds for one in rounds] for name, rounds in found.items()})


def require_alike(seeds: Sequence[tuple[float, float]], one: tuple[float, float], name: str) -> None:
    """Raise RuntimeError unless a run's reward and length lie in the band of the seeds."""
    for what, place in (("reward", 0), ("length", 1)):
        values = [seed[place] for seed in seeds]
        away = abs(one[place] - statistics.mean(values))
        band = WIDEST * statistics.stdev(values) * (1 + 1 / len(values)) ** 0.5 + 0.01
        if len(values) > 2 and not away <= band:
            raise RuntimeError(f"{what} of {name} is {away:.3g} from the packed seeds' mean, beyond their band of "
                               f"{band:.3g}: the arms do not do the same")


def letters(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
    """A reward that differs between any two texts and teaches nothing that matters: their letters, counted."""
    return [sum(map(ord, text)) % 97 / 97 for text in completions]


def grpo_step(setting: Setting) -> Iterator[Record]:
    """P6: one policy, a step of GRPO, against TRL with `generate` and, on a GPU where it is installed, with vLLM.

    Every arm runs twice in a round, with few and with more steps: the difference is free of what it sets up.

    Raises:
        RuntimeError: as in `packed_grpo`.
    """
    from lorakit.data.rl_tasks import register_task
    from lorakit.rewards import register_reward

    few, more = (1, 2) if setting.quick else (2, 6)
    if setting.device == "cpu":
        base = GRPOSpec(task="copy", learning_rate=1e-4, lora=LoRASpec(rank=8), steps=few, max_completion_length=12,
                        evaluations=2, evaluation_problems=2)
    else:
        reward = register_reward(letters)
        task = register_task("letters", [{"prompt": f"Problem {n:03d}: "} for n in range(64)], grader=reward)
        base = GRPOSpec(model=base_name("smollm2-shape"), task=task, reward=reward, learning_rate=1e-5, steps=few,
                        lora=LoRASpec(rank=32), prompts_per_step=8, group_size=16, max_completion_length=128,
                        evaluations=2, evaluation_problems=2, dtype="bfloat16")
    arms = {"packed": (packed, base), "trl": (trl, base)}
    if setting.device != "cpu" and importlib.util.find_spec("vllm"):
        arms["trl_vllm"] = trl_alone, replace(base, use_vllm=True, merge_to_sample=True)

    def step(function: Any, spec: GRPOSpec) -> tuple[float, tuple[float, float]]:
        took = []
        for steps in (few, more):
            started = clock()
            episodes, = function([replace(spec, steps=steps)], setting.device)
            took.append(clock() - started)
        return (took[1] - took[0]) / (more - few), episodes

    found = in_turns(setting, {name: partial(step, *arm) for name, arm in arms.items()})
    band = packed(vary(base, steps=[more], seed=range(BAND)), setting.device)
    for name, rounds in found.items():
        require_alike(band, rounds[-1][1], name)
    fields = {"goal": "P6", "spec": base.to_json(), "steps": [few, more],
              "threads": 1 if setting.device == "cpu" else None}
    yield to_record(setting, "step-p6", fields, {},
                    {name: [took for took, _ in rounds] for name, rounds in found.items()})
