"""Where a step's time goes, packed and in a plain loop: torch's profiler, as microseconds of a step of one run.

The clock is read without the profiler. Each operation's own time is the profiler's, which lengthens small ones; where
their sum is more than the clock's, all are shortened to it. What remains of the clock is Python and the launching of
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from lorabook.benchmarks.base import base_name
from lorabook.benchmarks.benchmark import Setting, in_turns, to_record
from lorabook.benchmarks.engines import packed
from lorabook.benchmarks.packed_sweep import BATCH, LENGTH, POINTS, RANK
from lorabook.benchmarks.plain_loops import peft_tuned
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec, vary

STEPS = 20
KINDS = (  # the first whose words an operation's name holds
    ("products", ("mm", "linear", "matmul", "mkldnn", "scaled_dot_product", "flash_attention")),
    ("optimizer", ("adam", "_foreach", "Optimizer")),
)


def kind_of(operation: str) -> str:
    """`products` (attention's too), `optimizer` or `others`, by the name that the profiler gives.

    >>> [kind_of(name) for name in ("aten::addmm", "aten::_fused_adamw_", "aten::mul", "aten::_log_softmax")]
    ['products', 'optimizer', 'others', 'others']
    """
    return next((kind for kind, words in KINDS if any(word in operation for word in words)), "others")


def where_time_goes(setting: Setting) -> Iterator[Record]:
    """The record of half of P7's sweep at its smaller base, as each of its two processes trains it."""
    steps, count = (2, 2) if setting.quick else (STEPS, POINTS // 2)
    base = SFTSpec(model=base_name("small"), dataset="real-text", learning_rate=1e-3, lora=LoRASpec(rank=RANK),
                   steps=steps, batch_size=BATCH, max_length=LENGTH, evaluations=2, evaluation_tokens=1)
    specs = vary(base, learning_rate=[1e-4 * 1.5**k for k in range(count)])
    arms = {"packed": packed, "peft_tuned": peft_tuned}
    found = in_turns(setting, {name: partial(arm, specs, setting.device) for name, arm in arms.items()})
    metrics: dict[str, float] = {}
    for name, arm in arms.items():
        whole = 1e6 * median(outcome.step() for outcome in found[name])
        few, more = (profiled(partial(arm, [replace(spec, steps=n * steps) for spec in specs], setting.device))
                     for n in (1, 2))
        parts = {kind: max(0.0, more[kind] - few[kind]) / (steps * count) for kind in more}  # free of set-up
        metrics |= {f"{name}_dispatched": parts.pop("dispatched"), f"{name}_whole": whole}
        own = sum(parts.values())
        metrics |= {f"{name}_{kind}": value * min(1.0, whole / own) for kind, value in parts.items()}
        metrics |= {f"{name}_profiled": own, f"{name}_rest": max(0.0, whole - own)}
    yield to_record(setting, "profile", {"model": base.model, "rank": RANK, "configurations": count, "steps": steps,
                                         "batch_size": BATCH, "max_length": LENGTH}, metrics)


def profiled(train: Callable[[], Any]) -> dict[str, float]:
    """Microseconds of the operations of a training by kind, and how many are `dispatched` by none of them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        train()
    found = dict.fromkeys([kind for kind, _ in KINDS] + ["others", "dispatched"], 0.0)
    for event in profiler.key_averages():
        if event.key.startswith(("aten::", "mkldnn", "Optimizer", "autograd::")):
            found[kind_of(event.key)] += getattr(event, "self_device_time_total", 0.0) or event.self_cpu_time_total
    found["dispatched"] = sum(event.name.startswith("aten::") and not (
        event.cpu_parent and event.cpu_parent.name.startswith("aten::")) for event in profiler.events())
    return found
