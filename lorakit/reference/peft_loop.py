"""A plain loop over a PEFT model: the engine for what the packed one cannot hold, such as adapters on fused experts."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lorakit.adapters.factors import relative_change, start_of, weights_of
from lorakit.adapters.peft_layers import attach, require_gradients
from lorakit.bases.memory_saving import recomputed
from lorakit.checkpoints import Checkpoint
from lorakit.data.tokens import IGNORE, TokenSplit, order
from lorakit.probes import Probe, Subject, measure
from lorakit.reference.adamw import adamw
from lorakit.reference.resuming import restore, restore_random, tensors_of
from lorakit.reference.sft import mean_loss, summed_loss
from lorakit.result import (
    CURVE,
    HELD_OUT,
    OnStep,
    RunResult,
    evaluation_steps,
    loss_metrics,
    training_metrics,
)
from lorakit.specs import SFTSpec


def train_peft(spec: SFTSpec, model: Any, splits: dict[str, TokenSplit], keep_weights: bool = False,
               on_step: OnStep | None = None, *, probes: Sequence[Probe] = (), tokenizer: Any = None,
               checkpoint: Checkpoint | None = None) -> RunResult:
    """Train one spec with PEFT's layers and torch's AdamW, and measure it as the packed engine does.

    Args:
        spec: what to run.
        model: the base; a copy of it is trained, every parameter of it in full fine-tuning (routers, fused experts).
        splits: `train`, `validation` and `test` sequences.
        keep_weights: also return the trained weights, as the packed engine does; PEFT has no form for shared factors.
        on_step, probes, tokenizer, checkpoint: as in `train_pack`.
    """
    started = time.perf_counter()
    base = model
    model = require_gradients(copy.deepcopy(base), spec)
    if spec.lora is not None:
        model = attach(model, spec.lora, spec.seed)
    start = start_of(model, spec.lora)
    train, device = splits["train"], next(model.parameters()).device
    held_out = {name: splits[name].head(spec.evaluation_tokens) for name in HELD_OUT}
    final = {name: splits[name].head(spec.final_evaluation_tokens or spec.evaluation_tokens) for name in held_out}
    subject = Subject([spec], model, tokenizer, lambda split: [mean_loss(model, split)], held_out)
    saved = None if checkpoint is None else checkpoint.load()
    if saved is None:
        probed = measure(probes, subject)
        before = {name: mean_loss(model, split) for name, split in final.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(spec, model)
    per_step = spec.batch_size * spec.accumulation
    chosen = order(spec.seed, len(train), spec.steps * per_step).view(
        spec.steps, -1, spec.micro_batch or spec.batch_size)
    points = evaluation_steps(spec.steps, spec.evaluations)
    curve: dict[str, list[Any]] = {name: [] for name in CURVE}
    recent: list[float] = []
    tokens, first_norm, finite = 0, math.nan, True
    if saved is not None:
        restore(model, optimizer, saved.tensors)
        probed, before, curve, recent, tokens, first_norm, finite = saved.facts["measured"]
        started -= saved.facts["seconds"]
    elif on_step:
        on_step(0, spec.steps, before["validation"])
    model.train()
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, recomputed(model, spec.recompute):
        torch.manual_seed(spec.seed)  # what dropout, where the model has any, leaves out
        if saved is not None:
            restore_random(saved)
        begin = 0 if saved is None else saved.step
        for step, rows in enumerate(chosen[begin:], start=begin + 1):
            counted = int((train.labels[rows][..., 1:] != IGNORE).sum())
            loss = sum(_backward(model, train, micro, counted, device) for micro in rows)
            recent.append(loss)
            tokens += counted
            norm = nn.utils.clip_grad_norm_(trained, spec.max_grad_norm or math.inf)
            first_norm = float(norm) if step == 1 else first_norm
            optimizer.set_factor(spec.rate_factor(step))
            optimizer.step()
            optimizer.zero_grad()
            if step in points:
                losses = [sum(recent) / len(recent), *(mean_loss(model, split) for split in held_out.values())]
                finite = finite and all(map(math.isfinite, losses))
                for name, value in zip(CURVE, (step, tokens, *losses), strict=True):
                    curve[name].append(value)
                recent = []
            if on_step:
                on_step(step, spec.steps, loss)
            if checkpoint is not None and checkpoint.due():
                checkpoint.save(step, tensors_of(model, optimizer, start is not None), {
                    "measured": [probed, before, curve, recent, tokens, first_norm, finite],
                    "seconds": time.perf_counter() - started})
    probed = measure(probes, subject, probed)
    ends = ({name: mean_loss(model, split) for name, split in final.items()} if spec.final_evaluation_tokens else
            {name: curve[f"{name}_loss"][-1] for name in HELD_OUT})
    metrics = loss_metrics(before, ends, curve["train_loss"][-1]) | training_metrics(
        sum(p.numel() for p in trained), relative_change(base, model), first_norm) | probed[0]
    weights = weights_of(model, start) if keep_weights else {}
    return RunResult(spec, "ok" if finite else "diverged", metrics, curve, weights, time.perf_counter() - started,
                     tokens)


def _backward(model: Any, train: TokenSplit, rows: torch.Tensor, counted: int, device: torch.device) -> float:
    """Add the gradient of these rows' share of the step's mean loss; the share, in nats."""
    loss = summed_loss(model, train.input_ids[rows].to(device), train.labels[rows].to(device)) / counted
    loss.backward()
    return loss.item()


def probe_peft(spec: SFTSpec, model: Any, splits: dict[str, TokenSplit]) -> dict[str, float]:
    """Seconds that a run of this spec will take, from one step and a part of an evaluation.

    One run trains at a time, so it is not asked how many bytes it takes.
    """
    trained = require_gradients(copy.deepcopy(model), spec)
    if spec.lora is not None:
        trained = attach(trained, spec.lora, spec.seed)
    train, device = splits["train"], next(trained.parameters()).device
    optimizer = adamw(spec, trained)
    started = time.perf_counter()
    for micro in torch.arange(spec.accumulation * spec.batch_size).view(spec.accumulation, -1) % len(train):
        _backward(trained, train, micro, 1, device)
    optimizer.step()
    step = time.perf_counter() - started
    whole, part = (splits["validation"].head(max(1, spec.evaluation_tokens // parts)) for parts in (1, 8))
    started = time.perf_counter()
    mean_loss(trained, part)
    evaluation = (time.perf_counter() - started) * whole.label_tokens / part.label_tokens
    return {"seconds": spec.steps * step + (2 * spec.evaluations + 4) * evaluation, "bytes": 0.0}
