"""What a pack will cost, from three steps of it: seconds a step, seconds an evaluation, bytes a configuration."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec
from lorakit.train.episodes import HELD_OUT, NoRewardWarning
from lorakit.train.packed.cpu import hastened
from lorakit.train.packed.engine import accumulate, evaluate
from lorakit.train.packed.grpo import train_grpo_pack
from lorakit.train.packed.model import PackedModel
from lorakit.train.rl_tasks import Task
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

    with PackedModel(model, specs) as packed, hastened(packed):
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


def probe_grpo(specs: Sequence[GRPOSpec], model: Any, tokenizer: Any, task: Task) -> dict[str, float]:
    """Train two short runs of these specs in a pack, then put the base back; the same keys as `probe_pack`.

    Completions are as long as the base's; a policy that learns to stop, or to go on, takes another time.
    """
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    first, ends = specs[0], list[float]()
    for steps in (first.iterations, 4 * first.iterations):  # the first run warms up and tells what is kept
        short = [replace(spec, steps=steps, evaluations=2) for spec in specs]
        hooks = nullcontext() if saved else torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        ends.clear()
        with hooks, warnings.catch_warnings():
            warnings.simplefilter("ignore", NoRewardWarning)
            results = train_grpo_pack(short, model, tokenizer, task,
                                      on_step=lambda step, steps: ends.append(time.perf_counter()))
    # of the second run's steps only the first and the last are evaluated
    step = (ends[-2] - ends[0]) / (len(ends) - 2) / len(specs)
    splits = len({*HELD_OUT, "shifted"} & task.splits.keys())
    evaluation = max(0.0, results[0].seconds - len(ends) * step) / (2 + splits)
    parameters = max(float(result.metrics["parameters"] or 0) for result in results)
    shape = model.config
    width = shape.num_key_value_heads * getattr(shape, "head_dim", shape.hidden_size // shape.num_attention_heads)
    cache = 8 * shape.num_hidden_layers * width * first.episodes_per_step * (first.max_completion_length + 64)
    activations = sum(size for pointer, size in saved.items() if pointer not in weights) / len(specs)
    return {"seconds": first.steps * step + (first.evaluations + splits) * evaluation, "step_seconds": step,
            "evaluation_seconds": evaluation, "bytes": 20 * parameters + 2 * cache + activations,
            "free_bytes": _free_bytes(next(model.parameters()).device)}


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
