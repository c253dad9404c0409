"""The two engines of lorakit as arms: packs, and TRL as its defaults are and tuned."""

from __future__ import annotations

from typing import Any

import torch

from lorabook.benchmarks.base import load
from lorabook.benchmarks.outcome import Outcome, clock
from lorakit.packed.engine import train_pack
from lorakit.result import RunResult
from lorakit.specs import SFTSpec


def _losses(results: list[RunResult]) -> list[float]:
    if not all(float(result.metrics["grad_norm_first"] or 0) > 0 for result in results):
        raise RuntimeError("a run had no gradient in its first step: it would be timed without learning")
    return [float(result.curve["train_loss"][-1]) for result in results]


def packed(specs: list[SFTSpec], device: str) -> Outcome:
    """All runs in one pack."""
    model, _, splits = load(specs[0], device)
    ends = list[float]()

    def on_step(step: int, *_: Any) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        ends.extend([clock()] * (step > 0))

    results = train_pack(specs, model, splits, on_step=on_step)
    return Outcome(_losses(results), [ends] * len(specs))


def _trl(specs: list[SFTSpec], device: str, defaults: bool) -> Outcome:
    from lorakit.reference.sft import train_sft

    model, tokenizer, splits = load(specs[0], device)
    results, ends = [], []
    for spec in specs:
        own: list[float] = []

        def on_step(step: int, _: int, loss: Any, own: list[float] = own) -> None:
            float(loss)  # waits for a GPU
            own.extend([clock()] * (step > 0))

        results.append(train_sft(spec, model, tokenizer, splits, trl_defaults=defaults, on_step=on_step))
        ends.append(own)
    return Outcome(_losses(results), ends)


def trl_tuned(specs: list[SFTSpec], device: str) -> Outcome:
    """One run after another, without gradient checkpointing."""
    return _trl(specs, device, defaults=False)


def trl_default(specs: list[SFTSpec], device: str) -> Outcome:
    """One run after another, with TRL's gradient checkpointing."""
    return _trl(specs, device, defaults=True)
