"""P7: a LoRA sweep of 16 runs on two cores, packed, against everything that one would use without packs.

Arms take turns (A B C A B C …); start-up and imports are outside the clock, for every arm. The processes of all arms
have one thread; two of them halve the sweep, but TRL makes one run after another, of which some are timed, spread over
the rates, and their time is multiplied. All arms see the same tokens in the same order; equal losses are asserted. The
PEFT loop comes twice, with AdamW as torch builds it by default and tuned (fused); so does TRL, with its default
gradient checkpointing and tuned (without). `vmap` is torch.func over stacked adapters. `time_sliced` is what RapidFire
AI does: all runs of a process take turns on one model, a shard of the data each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorabook.benchmarks.base import base_name
from lorabook.benchmarks.benchmark import Setting, require_equal, spread, to_record
from lorabook.benchmarks.engines import packed, trl_default, trl_tuned
from lorabook.benchmarks.outcome import Outcome, clock, until
from lorabook.benchmarks.plain_loops import SHARDS, peft_default, peft_tuned, time_sliced, vmapped
from lorabook.benchmarks.step_times import TOLERANCE
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec, vary

POINTS, RANK, BATCH, LENGTH = 16, 8, 2, 64
STEPS = {"small": 100, "tiny": 50}
TRL_SHARE = 8  # of the runs one in so many is timed with TRL
SHARES = (0.25, 0.5, 0.75, 1.0)


def packed_sweep(which: str, setting: Setting, pool: Any) -> Iterator[Record]:
    """The record of one base.

    Args:
        which: `small`, 131,072 random weights in linear layers, or `tiny`.
        pool: of two processes.

    Raises:
        RuntimeError: the arms do not train the same thing, or one has no gradient.
    """
    points, steps = (4, SHARDS) if setting.quick else (POINTS, STEPS[which])
    base = SFTSpec(model=base_name(which), dataset="real-text", learning_rate=1e-3, lora=LoRASpec(rank=RANK),
                   steps=steps, batch_size=BATCH, max_length=LENGTH, evaluations=2, evaluation_tokens=1)
    specs = vary(base, learning_rate=[10 ** (-4 + i / (points - 1)) for i in range(points)])
    halves, some = [specs[0::2], specs[1::2]], [specs[::min(points, TRL_SHARE)]]
    arms = {"packed": (packed, halves), "vmap": (vmapped, halves), "time_sliced": (time_sliced, halves),
            "peft_tuned": (peft_tuned, halves), "peft_default": (peft_default, halves),
            "trl_tuned": (trl_tuned, some), "trl_default": (trl_default, some)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    waits: dict[str, list[float]] = {}
    losses: dict[str, dict[str, float]] = {}
    for function, parts in arms.values():  # imports, first touches: outside the clock
        if not setting.quick:
            pool.starmap(function, [(part[:1], "cpu") for part in parts], chunksize=1)
    for _ in range(setting.rounds):
        for name, (function, parts) in arms.items():
            started = clock()
            outcomes: list[Outcome] = pool.starmap(function, [(part, "cpu") for part in parts], chunksize=1)
            factor = len(specs) / sum(map(len, parts))
            seconds[name].append(factor * (clock() - started))
            losses[name] = {spec.id: loss for part, outcome in zip(parts, outcomes, strict=True)
                            for spec, loss in zip(part, outcome.losses, strict=True)}
            for share in SHARES if factor == 1 else ():
                waits.setdefault(f"{name}_until_{share:.0%}", []).append(until(outcomes, share, started))
        setting.say(f"P7, {which}: " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items()))
    require_equal(losses, TOLERANCE["float32"])
    metrics = spread(seconds) | {name: sorted(values)[len(values) // 2] for name, values in waits.items()}
    fields = {"model": base.model, "rank": RANK, "points": points, "steps": steps, "batch_size": BATCH,
              "max_length": LENGTH, "processes": 2, "threads": 1, "shards": SHARDS}
    yield to_record(setting, f"packed-sweep-{which}", fields, metrics | {"tokens_per_step": BATCH * LENGTH},
                    {"round": range(1, setting.rounds + 1), **seconds})
