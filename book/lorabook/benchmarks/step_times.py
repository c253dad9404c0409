"""P1 to P5: seconds of a step, packed and with the peers, over tokens a step; what a full and a LoRA step reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from lorabook.benchmarks.base import base_name
from lorabook.benchmarks.benchmark import Setting, in_turns, require_equal, to_record
from lorabook.benchmarks.engines import packed, trl_default, trl_tuned
from lorabook.benchmarks.outcome import Outcome
from lorabook.benchmarks.pack_memory import peak
from lorabook.benchmarks.plain_loops import peft_tuned
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec
from lorakit.theory.compute import training_flops
from lorakit.theory.hardware import find_gpu, is_known_gpu
from lorakit.theory.shapes import ModelShape

TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}  # nats
Engine = Callable[[list[SFTSpec], str], Outcome]
LORA, FULL = "lora", "full"


# of each goal, by name: engine, what is trained, configurations; the first is what the others are divided by
ARMS: dict[str, dict[str, tuple[Engine, str, int]]] = {
    "P1": {"packed": (packed, LORA, 16), "packed_4": (packed, LORA, 4), "packed_1": (packed, LORA, 1),
           "peft_tuned": (peft_tuned, LORA, 1), "trl_tuned": (trl_tuned, LORA, 1),
           "trl_default": (trl_default, LORA, 1)},
    "P2": {"packed": (packed, FULL, 8), "trl_tuned": (trl_tuned, FULL, 1)},
    "P3": {"packed": (packed, LORA, 1), "peft_tuned": (peft_tuned, LORA, 1), "trl_tuned": (trl_tuned, LORA, 1),
           "trl_default": (trl_default, LORA, 1)},
    "P4": {"full": (packed, FULL, 1), "packed": (packed, LORA, 16)},
    "P5": {"full": (packed, FULL, 1), "lora": (packed, LORA, 1), "peft_full": (peft_tuned, FULL, 1),
           "peft_lora": (peft_tuned, LORA, 1)},
}


@dataclass(frozen=True)
class Sizes:
    """Base, rank, and by goal the sequences of a step.

    Args:
        rate: the highest learning rate.
        fewer: configurations of the largest pack in a rehearsal; None for those of the goal.
        at_once: tokens of a step of all configurations, which memory holds; larger packs are cut to it.
    """

    base: dict[str, str]
    rank: int
    length: int
    steps: int
    batches: dict[str, tuple[int, ...]]
    dtype: Literal["float32", "bfloat16"] = "float32"
    rate: float = 1e-3
    fewer: int | None = None
    at_once: int = 2**15


SIZES = {
    "cpu": Sizes({"P1": "small"}, 8, 64, 6, {"P1": (1, 2, 8, 32), "P2": (2,), "P3": (2,), "P4": (8,), "P5": (8,)}),
    "gpu": Sizes({}, 32, 512, 12, {"P1": (2, 4, 8, 16, 32), "P2": (4,), "P3": (8,), "P4": (8,), "P5": (8,)},
                 "bfloat16", rate=1e-5),
}
BASE = {"cpu": "tiny", "gpu": "smollm2-shape"}
QUICK = Sizes({"P1": "small"}, 2, 16, 3, dict.fromkeys(ARMS, (1,)), fewer=2)


def step_times(goal: str, setting: Setting) -> Iterator[Record]:
    """A record for each number of tokens; seconds are those of a step of one run, in a pack its share.

    Raises:
        RuntimeError: the arms do not train the same thing, or one has no gradient.
    """
    sizes = QUICK if setting.quick else SIZES[setting.profile]
    model = base_name(sizes.base.get(goal, BASE["cpu" if setting.quick else setting.profile]))
    for batch in sizes.batches[goal]:
        base = SFTSpec(model=model, dataset="real-text", learning_rate=sizes.rate, steps=sizes.steps, batch_size=batch,
                       max_length=sizes.length, evaluations=2, evaluation_tokens=1, dtype=sizes.dtype)
        arms = {name: (engine, _specs(base, kind, sizes, count))
                for name, (engine, kind, count) in ARMS[goal].items()}
        found = in_turns(setting, {name: partial(engine, specs, setting.device)
                                   for name, (engine, specs) in arms.items()})
        for kind in (LORA, FULL):  # runs of one kind and seed are the same run in every arm
            require_equal({name: {arms[name][1][0].id: rounds[-1].losses[0]} for name, rounds in found.items()
                           if ARMS[goal][name][1] == kind}, TOLERANCE[sizes.dtype])
        seconds = {name: [outcome.step() for outcome in rounds] for name, rounds in found.items()}
        counts = {name: len(specs) for name, (_, specs) in arms.items()}
        fields = {"goal": goal, "model": model, "dtype": sizes.dtype, "rank": sizes.rank, "steps": sizes.steps,
                  "batch_size": batch, "max_length": sizes.length, "tokens": batch * sizes.length, "arms": counts,
                  "threads": 1 if setting.device == "cpu" else None}
        metrics: dict[str, Any] = {}
        if goal == "P1" and batch == sizes.batches[goal][-1]:
            metrics |= {f"{name}_peak_bytes": peak(specs, setting.device) for name, (engine, specs) in arms.items()
                        if engine is packed}
        if goal == "P4":
            metrics |= _utilization({name: (specs[0], statistics.median(seconds[name]))
                                     for name, (_, specs) in arms.items()}, setting.device)
        yield to_record(setting, f"step-{goal.lower()}", fields, metrics, seconds)


def _specs(base: SFTSpec, kind: str, sizes: Sizes, count: int) -> list[SFTSpec]:
    count = min(count, sizes.fewer or count, sizes.at_once // (base.batch_size * base.max_length))
    lora = LoRASpec(rank=sizes.rank) if kind == LORA else None
    return [replace(base, lora=lora, learning_rate=sizes.rate * 0.8**k) for k in range(count)]


def _utilization(steps: dict[str, tuple[SFTSpec, float]], device: str) -> dict[str, float]:
    """Share of the FLOP/s of a matrix product here, and of the card's data sheet, that each arm's steps reach."""
    from lorabook.benchmarks.base import model_of
    from lorakit.sweep.device import device_name

    spec, name = next(iter(steps.values()))[0], device_name(device)
    limits = {"reached": product_flops(device, getattr(torch, spec.dtype))}
    if device != "cpu" and is_known_gpu(name):
        limits["mfu"] = find_gpu(name).flops
    shape = ModelShape.of(model_of(spec, device)[0].config)
    done = {arm: sum(training_flops(shape, one.lora, one.max_length).values()) * one.batch_size * one.max_length / took
            for arm, (one, took) in steps.items()}
    return {"product_flops": limits["reached"], **{f"{arm}_{what}": flops / limit for arm, flops in done.items()
                                                   for what, limit in limits.items()}}


def product_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product: the best of five."""
    import time

    side = 1024 if device == "cpu" else 8192
    a, took = torch.randn(side, side, device=device).to(dtype), []
    for _ in range(6):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        took.append(time.perf_counter() - started)
    return 2 * side**3 / min(took[1:])
