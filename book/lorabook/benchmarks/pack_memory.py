"""The most bytes of tensors that a pack holds while it trains, counted as they are allotted and freed."""

from __future__ import annotations

from dataclasses import replace

import torch

from lorabook.benchmarks.base import load
from lorakit.packed.engine import train_pack
from lorakit.specs import SFTSpec


def peak(specs: list[SFTSpec], device: str) -> int:
    """Bytes beside the base's weights at the peak of two steps; a count, so that a busy machine changes nothing."""
    model, _, splits = load(specs[0], device)
    specs = [replace(spec, steps=2) for spec in specs]
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train_pack(specs, model, splits)
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_pack(specs, model, splits)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
