"""Train a pack: K configurations, one forward and backward, each with its own loss, rate, data order and fate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from lorakit.bases.families import require_family
from lorakit.bases.memory_saving import recomputed
from lorakit.checkpoints import Checkpoint
from lorakit.data.tokens import IGNORE, TokenSplit, order
from lorakit.packed.agreement import Own
from lorakit.packed.compiling import begin_pass, compiled
from lorakit.packed.model import PackedModel
from lorakit.packed.packing import pack_key
from lorakit.probes import Probe, Subject, measure
from lorakit.result import CURVE, HELD_OUT, OnStep, RunResult, evaluation_steps, loss_metrics, training_metrics
from lorakit.specs import SFTSpec

EVALUATION_ROWS = 16_384  # tokens in one evaluation forward pass over all configurations


@torch.no_grad()
def evaluate(packed: PackedModel, split: TokenSplit) -> torch.Tensor:
    """Mean negative log likelihood per label token of `split`, (K,), in nats."""
    count = len(packed.specs)
    rows = max(1, EVALUATION_ROWS // (count * split.input_ids.shape[1]))
    total, tokens = None, 0
    for start in range(0, len(split), rows):
        ids, labels = split.input_ids[start : start + rows], split.labels[start : start + rows]
        sums, counts = packed.loss_sums(ids.expand(count, -1, -1), labels.expand(count, -1, -1))
        total = sums if total is None else total + sums
        tokens += int(counts[0])
    assert total is not None
    return total / tokens


def train_pack(specs: Sequence[SFTSpec], model: Any, splits: dict[str, TokenSplit],
               keep_weights: bool = False, on_step: OnStep | None = None, *, probes: Sequence[Probe] = (),
               tokenizer: Any = None, checkpoint: Checkpoint | None = None) -> list[RunResult]:
    """Train every spec of a pack together and measure each as if it had run alone.

    Args:
        specs: K specs with equal `pack_key`.
        model: the base; unchanged afterwards. Its device and dtype are the run's.
        splits: `train`, `validation` and `test` sequences.
        keep_weights: also return the trained weights.
        probes: measurements besides these; see `Subject`.
        tokenizer: of the base, for probes that need it.
        on_step: called with (steps done, steps in all, losses (K,)) when the base is evaluated, and after every step.
        checkpoint: of this pack; training goes on from it, and writes it from time to time.

    Returns:
        One result a spec, in the order of the specs.

    Raises:
        ValueError: specs that cannot share a pack.
        UnsupportedModelError: a pack would not compute this model's own forward pass.
    """
    if len({pack_key(spec) for spec in specs}) != 1:
        raise ValueError("these specs cannot share a pack: they differ in model, data, shape, optimizer or rank bucket")
    first, count = specs[0], len(specs)
    device = next(model.parameters()).device
    train, held_out = splits["train"], {n: splits[n].head(first.evaluation_tokens).to(device) for n in HELD_OUT}
    final = {name: splits[name].head(first.final_evaluation_tokens or first.evaluation_tokens).to(device)
             for name in HELD_OUT}
    per_step = first.batch_size * first.accumulation
    orders = torch.stack([order(spec.seed, len(train), first.steps * per_step) for spec in specs])
    points = evaluation_steps(first.steps, first.evaluations)

    require_family(model.config)
    started, own = time.perf_counter(), Own(model)
    with PackedModel(model, specs) as packed, compiled(packed), recomputed(packed.model, first.recompute):
        own.require_losses(packed)
        subject = Subject(specs, packed.model, tokenizer, lambda split: evaluate(packed, split.to(device)).tolist(),
                          held_out, packed)
        saved = None if checkpoint is None else checkpoint.load()
        if saved is None:
            before = {name: evaluate(packed, split).tolist() for name, split in final.items()}
            probed = measure(probes, subject)
            if on_step:
                on_step(0, first.steps, before["validation"])
        columns = CURVE if packed.is_full else (*CURVE, "norm_a", "norm_b")
        curves: list[dict[str, list[Any]]] = [{name: [] for name in columns} for _ in specs]
        recent, seen, first_norm = [], torch.zeros(count, dtype=torch.long), torch.zeros(count)
        finite = torch.ones(count, dtype=torch.bool)
        nats = torch.zeros(count, dtype=torch.float64, device=device)
        if saved is not None:
            packed.optimizer.restore(saved.tensors, saved.step)
            seen, first_norm, finite = (saved.tensors[name] for name in ("seen", "first_norm", "finite"))
            nats, recent = saved.tensors["nats"].to(device), list(saved.tensors["recent"].to(device).unbind())
            before, probed, curves = (saved.facts[name] for name in ("before", "probed", "curves"))
            started -= saved.facts["seconds"]
        for step in range(1 if saved is None else saved.step + 1, first.steps + 1):
            chosen = orders[:, (step - 1) * per_step : step * per_step].view(
                count, first.accumulation, first.batch_size)
            loss, tokens = accumulate(packed, train, chosen, device)
            recent.append(loss)
            seen += tokens
            nats += loss.double() * tokens.to(device, non_blocking=True)
            packed.optimizer.factors = [spec.rate_factor(step) for spec in specs]
            norm = packed.optimizer.step()
            first_norm = norm.cpu() if step == 1 else first_norm
            if step in points:
                mean = torch.stack(recent).mean(0).cpu()
                recent = []
                now = [evaluate(packed, split).cpu() for split in held_out.values()]
                finite &= torch.isfinite(mean) & torch.isfinite(now[0]) & torch.isfinite(now[1])
                norms = () if packed.is_full else packed.factor_norms()
                for k, curve in enumerate(curves):
                    row = (step, int(seen[k]), mean[k].item(), now[0][k].item(), now[1][k].item(),
                           *[norm[k] for norm in norms])
                    for column, value in zip(curve.values(), row, strict=True):
                        column.append(value)
            if on_step:
                on_step(step, first.steps, loss)
            if checkpoint is not None and checkpoint.due():
                checkpoint.save(step, packed.optimizer.tensors() | {
                    "seen": seen, "first_norm": first_norm, "finite": finite, "nats": nats,
                    "recent": torch.stack(recent) if recent else torch.zeros(0, count)}, {
                    "before": before, "probed": probed, "curves": curves,
                    "seconds": time.perf_counter() - started})
        probed = measure(probes, subject, probed)
        after = ({name: evaluate(packed, split).tolist() for name, split in final.items()}
                 if first.final_evaluation_tokens else
                 {name: [curve[f"{name}_loss"][-1] for curve in curves] for name in HELD_OUT})
        deltas = packed.delta_norms()
        seconds = (time.perf_counter() - started) / count
        results = []
        for k, (spec, curve) in enumerate(zip(specs, curves, strict=True)):
            first_loss, last_loss = ({name: losses[name][k] for name in HELD_OUT} for losses in (before, after))
            metrics = loss_metrics(first_loss, last_loss, curve["train_loss"][-1]) | training_metrics(
                packed.parameters_trained[k], deltas[k], first_norm[k].item())
            metrics |= {"train_nats": nats[k].item(), **probed[k]}
            results.append(RunResult(spec, "ok" if finite[k] else "diverged", metrics, curve,
                                     packed.configuration(k) if keep_weights else {}, seconds, int(seen[k])))
    return results


def accumulate(packed: PackedModel, train: TokenSplit, chosen: torch.Tensor,
               device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradients of one optimizer step: each configuration's loss is the mean over its own label tokens."""
    chosen, size = chosen.flatten(1), packed.specs[0].micro_batch or chosen.shape[2]
    labels = train.labels[chosen]  # (K, accumulation · B, T)
    lengths = (labels[..., 1:] != IGNORE).sum(2)
    counts = lengths.sum(1)
    divisor = counts.clamp(min=1).to(device, non_blocking=True)
    total = torch.zeros(len(counts), device=device)
    for start in range(0, chosen.shape[1], size):
        part = slice(start, start + size)
        begin_pass(packed, first=start == 0, last=start + size >= chosen.shape[1])
        sums, _ = packed.loss_sums(train.input_ids[chosen[:, part]].to(device, non_blocking=True),
                                   labels[:, part].to(device, non_blocking=True), int(lengths[:, part].sum(1).max()))
        losses = sums / divisor
        losses.sum().backward()
        total = total + losses.detach()
    return total, counts

