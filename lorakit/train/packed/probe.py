"""What a pack will cost, from three steps of it: seconds a step, seconds an evaluation, bytes a configuration."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from lorakit.specs import SFTSpec
from lorakit.train.packed.engine import accumulate, evaluate
from lorakit.train.packed.model import PackedModel
from lorakit.train.tokens import TokenSplit


def probe_pack(specs: Sequence[SFTSpec], model: Any, splits: dict[str, TokenSplit]) -> dict[str, float]:
    """Train three steps and evaluate once, then put the base back.

    Args:
        specs: K specs that can share a pack; a few of them are enough.
        model: the base, unchanged afterwards.
        splits: `train` and `validation` sequences.

    Returns:
        `seconds`: predicted for one whole run of these specs, its share of the pack; `step_seconds` and
        `evaluation_seconds`, each per configuration; `bytes` per configuration: parameters trained, gradients,
        optimizer state and the activations that the backward pass keeps; `free_bytes` of the device's memory.
    """
    first, count = specs[0], len(specs)
    device = next(model.parameters()).device
    train, validation = splits["train"], splits["validation"].head(first.evaluation_tokens).to(device)
    chosen = torch.arange(count * first.accumulation * first.batch_size) % len(train)
    chosen = chosen.view(count, first.accumulation, first.batch_size)
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with PackedModel(model, specs) as packed:
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            accumulate(packed, train, chosen, device)
        packed.optimizer.step()
        started = time.perf_counter()
        for _ in range(2):
            accumulate(packed, train, chosen, device)
            packed.optimizer.step()
        _wait(device)
        step = (time.perf_counter() - started) / 2 / count
        started = time.perf_counter()
        evaluate(packed, validation)
        _wait(device)
        evaluation = (time.perf_counter() - started) / count
        state = 5 * packed.optimizer.flat.numel() * packed.optimizer.flat.element_size()
    activations = sum(size for pointer, size in saved.items() if pointer not in weights)
    return {"seconds": first.steps * step + (2 * first.evaluations + 4) * evaluation, "step_seconds": step,
            "evaluation_seconds": evaluation, "bytes": (state + activations) / count,
            "free_bytes": _free_bytes(device)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not on this system
        return 4e9
