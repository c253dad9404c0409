"""P6, and P7's part of RL: GRPO in packs against TRL's GRPOTrainer, one run after another.

Rates times seeds. Each arm samples with its own sampler: tests hold that runs with the same draws are the same, so what
is asserted here is that TRL's rewards and lengths lie in the band of the packed seeds.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from typing import Any

from lorabook.benchmarks.base import base_name, model_of
from lorabook.benchmarks.benchmark import Setting, in_turns, spread, to_record
from lorabook.benchmarks.outcome import clock
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record
from lorakit.specs import LoRASpec, vary

SEEDS, RATES, STEPS = 4, 4, 20
TRL_RATES = 2  # of them with seed 0 are timed with TRL, and their time is multiplied
WIDEST = 4.0  # standard deviations over seeds that one more run may be away from their mean, enlarged as a t value
Episodes = list[tuple[float, float]]


def _summary(result: Any) -> tuple[float, float]:
    """Mean reward and mean length of all episodes of a run."""
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


def packed_grpo(setting: Setting, pool: Any) -> Iterator[Record]:
    """The record of a sweep of 16 policies on two cores.

    Raises:
        RuntimeError: TRL's runs do not do what the packed ones do.
    """
    seeds, rates, steps = (2, 2, 2) if setting.quick else (SEEDS, RATES, STEPS)
    base = GRPOSpec(task="copy", learning_rate=1e-3, lora=LoRASpec(rank=8), steps=steps, max_completion_length=12,
                    evaluations=2, evaluation_problems=16)
    specs = vary(base, learning_rate=[2e-4 * 2**i for i in range(rates)], seed=range(seeds))
    some = specs[::len(specs) // (1 if setting.quick else TRL_RATES)]  # seed 0 of some rates
    arms = {"packed": (packed, [specs[0::2], specs[1::2]]), "trl": (trl, [some])}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for function, parts in arms.values():  # imports, first touches: outside the clock
        if not setting.quick:
            pool.starmap(function, [(part[:1], "cpu") for part in parts], chunksize=1)
    for _ in range(setting.rounds):
        for name, (function, parts) in arms.items():
            started = clock()
            results = pool.starmap(function, [(part, "cpu") for part in parts], chunksize=1)
            seconds[name].append(len(specs) / sum(map(len, parts)) * (clock() - started))
            found[name] = {spec.id: one for part, result in zip(parts, results, strict=True)
                           for spec, one in zip(part, result, strict=True)}
        setting.say("P7, GRPO: " + ", ".join(f"{name} {values[-1]:.1f} s" for name, values in seconds.items()))
    for spec in some:
        alike = [found["packed"][s.id] for s in specs if s.learning_rate == spec.learning_rate]
        require_alike(alike, found["trl"][spec.id], f"TRL's run at {spec.learning_rate:g}")
    fields = {"spec": base.to_json(), "points": len(specs), "processes": 2, "threads": 1}
    yield to_record(setting, "packed-grpo", fields, spread(seconds), {"round": range(1, setting.rounds + 1), **seconds})


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

    Both arms run twice in a round, with few and with more steps: the difference is free of what they set up.
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
        arms["trl_vllm"] = trl_alone, GRPOSpec.from_json(base.to_json() | {"use_vllm": True})

    def step(function: Any, spec: GRPOSpec) -> float:
        took = []
        for steps in (few, more):
            started = clock()
            function([GRPOSpec.from_json(spec.to_json() | {"steps": steps})], setting.device)
            took.append(clock() - started)
        return (took[1] - took[0]) / (more - few)

    seconds = in_turns(setting, {name: partial(step, *arm) for name, arm in arms.items()})
    setting.say("P6: " + ", ".join(f"{name} {statistics.median(values):.2f} s a step"
                                   for name, values in seconds.items()))
    fields = {"goal": "P6", "spec": base.to_json(), "steps": [few, more],
              "threads": 1 if setting.device == "cpu" else None}
    yield to_record(setting, "step-p6", fields, spread(seconds), {"round": range(1, setting.rounds + 1), **seconds})
