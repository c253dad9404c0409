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
from statistics import median
from typing import Any

from lorabook.benchmarks.base import base_name
from lorabook.benchmarks.benchmark import Setting, by_run, in_processes, require_equal, to_record
from lorabook.benchmarks.engines import packed, trl_default, trl_tuned
from lorabook.benchmarks.outcome import until
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
    found = in_processes(setting, pool, points, arms)
    require_equal({name: by_run(parts, [outcome.losses for outcome in found[name][-1].answers])
                   for name, (_, parts) in arms.items()}, TOLERANCE["float32"])
    waits = {f"{name}_until_{share:.0%}": median(until(one.answers, share, one.started) for one in rounds)
             for name, rounds in found.items() if arms[name][1] is halves for share in SHARES}
    fields = {"model": base.model, "rank": RANK, "points": points, "steps": steps, "batch_size": BATCH,
              "max_length": LENGTH, "processes": 2, "threads": 1, "shards": SHARDS}
    yield to_record(setting, f"packed-sweep-{which}", fields, waits | {"tokens_per_step": BATCH * LENGTH},
                    {name: [one.seconds for one in rounds] for name, rounds in found.items()})
