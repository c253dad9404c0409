"""Policy-gradient RL in a pack: K policies sample and learn together, and the sampler is the learner itself."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.bases.families import require_family
from lorakit.bases.memory_saving import recomputed
from lorakit.bases.model_checks import refuse_changed, weights_hash
from lorakit.checkpoints import Checkpoint
from lorakit.data.rl_tasks import Task
from lorakit.data.tokens import order
from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.agreement import Own
from lorakit.packed.engine import evaluate
from lorakit.packed.layers import PackedEmbedding
from lorakit.packed.merging import base_drifts, base_only, bases_of, give_bases, restore_bases, sampler
from lorakit.packed.model import PackedModel
from lorakit.packed.packing import pack_key
from lorakit.probes import Probe, Subject, measure
from lorakit.result import HELD_OUT, OnStep, RunResult, training_metrics
from lorakit.rl.episodes import Episodes, HeldOut, pay
from lorakit.rl.objective import importance, token_losses, token_weights
from lorakit.rl.rollout import Rollout, log_probs, sample, stop_tokens, uniforms

ACTIVATIONS_AT_ONCE = {"cpu": 2**31, "cuda": 3 * 2**33}  # bytes that one forward pass may keep for its backward pass


@dataclass
class Batch:
    """A rollout of K policies with what each learns from it: P problems, N completions, at most C tokens.

    Args:
        rollout: of all configurations.
        temperature: (K · N, 1) of sampling.
        advantage: (K, N).
        weight: (K, N, C), by how much each token counts; `token_weights`.
        old: (K, N, C) of the learner when it sampled; None until the first pass over the batch.
        reference: (K, N, C) of the base, or None where no configuration asks for it.
        micro_batch: completions of a configuration in one pass, as in its spec.
    """

    rollout: Rollout
    temperature: torch.Tensor
    advantage: torch.Tensor
    weight: torch.Tensor
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    micro_batch: int | None = None


def train_grpo_pack(specs: Sequence[GRPOSpec], model: Any, tokenizer: Any, task: Task,
                    keep_weights: bool = False, on_step: OnStep | None = None, *, probes: Sequence[Probe] = (),
                    checkpoint: Checkpoint | None = None) -> list[RunResult]:
    """Train every spec of a pack together and measure each as if it had run alone.

    Args:
        specs: K specs with equal `pack_key`.
        model: the base; unchanged afterwards. Its device and dtype are the run's.
        tokenizer: the base's.
        task: problems with their grader.
        keep_weights: also return the trained weights.
        on_step: called with (steps done, steps in all, mean rewards (K,)) when the base is evaluated, and after every
            step.
        probes: measurements besides these; see `Subject`.
        checkpoint: as in `train_pack`; it is written between two batches of completions.

    Raises:
        ValueError: specs that cannot share a pack, or that sample with vLLM.
        DatasetError: a prompt that does not fit into the model's context.
        RewardError: a reward function raised, or returned what is no reward.
        FrozenWeightsError: the base changed although nothing is merged into it.
        UnsupportedModelError: a pack would not compute this model's own forward pass.
    """
    if len({pack_key(spec) for spec in specs}) != 1:
        raise ValueError("these specs cannot share a pack: they differ in model, task, shape, optimizer or rank bucket")
    first, count = specs[0], len(specs)
    if first.use_vllm:
        raise ValueError("the packed engine samples by itself: run specs with use_vllm=True with engine='trl'")
    require_family(model.config)
    own, device = Own(model), next(model.parameters()).device
    stop = stop_tokens(model, tokenizer, task.stop)
    held_out = HeldOut(first, task, tokenizer, model.config.max_position_embeddings, stop)
    prompts, problems = held_out.prompts["train"], task.splits["train"]
    logs = [Episodes(spec, task) for spec in specs]
    batches = -(-first.steps // first.iterations)
    orders = [order(spec.seed, len(problems), batches * first.prompts_per_step).tolist() for spec in specs]
    longest = max(map(len, prompts))
    tokens = first.prompts_per_step * (longest + first.group_size * first.max_completion_length)
    temperature = torch.tensor([[spec.temperature] for spec in specs], device=device,
                               dtype=torch.float64 if first.dtype == "float64" else torch.float32)
    temperature = temperature.repeat_interleave(first.episodes_per_step, 0)
    frozen = weights_hash(model.state_dict())
    started, first_norms, norms = time.perf_counter(), [0.0] * count, torch.zeros(count)

    with (PackedModel(model, specs, tokens) as packed,
          recomputed(packed.model, first.recompute)):
        if first.merge_to_sample:
            give_bases(packed)
        own.require_log_probs(packed)
        splits = [name for name in (*HELD_OUT, "shifted") if name in task.splits]
        subject = Subject(specs, packed.model, tokenizer, lambda split: evaluate(packed, split.to(device)).tolist(),
                          packed=packed)
        step, kl, saved = 0, [0.0] * count, None if checkpoint is None else checkpoint.load()
        if saved is None:
            before = held_out.accuracies(packed.model, splits, count, final=True)
            probed = measure(probes, subject)
            if on_step:
                on_step(0, first.steps, math.nan)
        else:
            step = saved.step
            packed.optimizer.restore(saved.tensors, step)
            restore_bases(packed, saved.tensors)
            before, probed, kl, first_norms = (saved.facts[n] for n in ("before", "probed", "kl", "first_norms"))
            for log, facts in zip(logs, saved.facts["logs"], strict=True):
                log.restore(facts)
            started -= saved.facts["seconds"]
        for number in range(step // first.iterations, batches):
            chosen = [row[number * first.prompts_per_step :][: first.prompts_per_step] for row in orders]
            draws = torch.cat([uniforms(s.seed, number, s.episodes_per_step, s.max_completion_length) for s in specs])
            with sampler(packed) as policy:
                rollout = sample(policy, [prompts[i] for row in chosen for i in row], first.group_size,
                                 first.max_completion_length, stop, temperature, draws.to(device))
            advantages = _score(logs, step + 1, tokenizer, task, chosen, rollout)
            batch = _batch(specs, rollout, temperature, advantages.to(device))
            ends = [point for point in logs[0].points if step < point <= step + first.iterations]
            if ends or any(spec.kl_coefficient for spec in specs):
                with base_only(packed) as base:
                    batch.reference = _in_parts(base, batch, count)
                kl = [log.add_base_log_probs(*rows) for log, rows in _each(logs, batch, batch.reference)]
            for _ in range(min(first.iterations, first.steps - step)):
                first_pass = batch.old is None
                step += 1
                packed.optimizer.factors = [spec.rate_factor(step) for spec in specs]
                norms = learn(packed, specs, batch)
                if first_pass:
                    for log, (learner, sampled, mask) in _each(logs, batch, batch.old):
                        log.add_log_probs(learner, sampled, mask)
                first_norms = norms.tolist() if step == 1 else first_norms
                if step in logs[0].points:
                    scores = held_out.accuracies(packed.model, HELD_OUT, count)
                    for k, log in enumerate(logs):
                        log.point(step, scores[k], kl[k])
                if on_step:
                    on_step(step, first.steps, [log.latest for log in logs])
            if checkpoint is not None and step < first.steps and checkpoint.due():
                checkpoint.save(step, packed.optimizer.tensors() | bases_of(packed), {
                    "before": before, "probed": probed, "kl": kl, "first_norms": first_norms,
                    "logs": [log.facts() for log in logs], "seconds": time.perf_counter() - started})
        probed = measure(probes, subject, probed)
        after = held_out.accuracies(packed.model, splits, count, final=True)
        deltas, drifts, trained = packed.delta_norms(), base_drifts(packed), packed.parameters_trained
        weights = [packed.configuration(k) if keep_weights else {} for k in range(count)]
    refuse_changed(frozen, weights_hash(model.state_dict()))
    seconds = (time.perf_counter() - started) / count
    metrics = [training_metrics(trained[k], deltas[k], first_norms[k]) | probed[k]
               | {"base_drift": drifts[k]} for k in range(count)]
    return [log.result(before[k], after[k], metrics[k], weights[k], seconds) for k, log in enumerate(logs)]


def _score(logs: Sequence[Episodes], step: int, tokenizer: Any, task: Task, chosen: Sequence[Sequence[int]],
           rollout: Rollout) -> torch.Tensor:
    """Reward every policy's completions and return the advantages (K, N)."""
    completions, ended = rollout.completions(), rollout.ended.tolist()
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    each = len(completions) // len(logs)
    advantages = []
    for k, log in enumerate(logs):
        own = slice(k * each, (k + 1) * each)
        problems = [task.splits["train"][i] for i in chosen[k] for _ in range(rollout.group)]
        parts = pay(log.functions, task, problems, texts[own], completions[own])
        advantages.append(log.add(step, parts, [len(c) for c in completions[own]], ended[own]))
    return torch.stack(advantages)


def _batch(specs: Sequence[GRPOSpec], rollout: Rollout, temperature: torch.Tensor, advantages: torch.Tensor) -> Batch:
    masks = rollout.mask.view(len(specs), -1, rollout.mask.shape[1])
    ended = rollout.ended.view(len(specs), -1, 1)
    counted = [mask & whole if spec.mask_truncated else mask
               for spec, mask, whole in zip(specs, masks, ended, strict=True)]
    weight = torch.stack([token_weights(spec, mask) for spec, mask in zip(specs, counted, strict=True)])
    return Batch(rollout, temperature, advantages, weight, micro_batch=specs[0].micro_batch)


def activation_bytes(config: Any) -> int:
    """What a forward pass keeps of a token for its backward pass, about."""
    return int(4 * config.num_hidden_layers * (16 * config.hidden_size + 4 * config.intermediate_size))


def _parts(batch: Batch, count: int, config: Any) -> list[slice]:
    """Problems in slices, so that a pass over all configurations stays within `ACTIVATIONS_AT_ONCE`."""
    problems = len(batch.rollout.lengths) // count
    tokens = batch.rollout.prompts.shape[1] + batch.rollout.group * batch.rollout.tokens.shape[1]
    some = max(1, ACTIVATIONS_AT_ONCE[batch.temperature.device.type] // (count * tokens * activation_bytes(config)))
    some = min(some, max(1, (batch.micro_batch or problems * batch.rollout.group) // batch.rollout.group))
    return [slice(start, min(problems, start + some)) for start in range(0, problems, some)]


@torch.no_grad()
def _in_parts(model: Any, batch: Batch, count: int) -> torch.Tensor:
    """Log-probabilities (K, N, C) of a batch under a model, without gradients."""
    group = batch.rollout.group
    temperature = batch.temperature.view(count, -1, 1)
    return torch.cat([
        log_probs(model, batch.rollout.part(count, part),
                  temperature[:, part.start * group : part.stop * group].flatten(0, 1)).view(
                      count, -1, batch.rollout.tokens.shape[1])
        for part in _parts(batch, count, model.config)], 1)


def _each(logs: Sequence[Episodes], batch: Batch, log_probs: torch.Tensor | None) -> Any:
    """(log, (log-probabilities, the sampler's, mask)) of each configuration."""
    count = len(logs)
    shape = (count, -1, batch.rollout.tokens.shape[1])
    sampled, mask = batch.rollout.log_probs.view(shape), batch.rollout.mask.view(shape)
    assert log_probs is not None
    return zip(logs, zip(log_probs, sampled, mask, strict=True), strict=True)


def learn(packed: PackedModel, specs: Sequence[GRPOSpec], batch: Batch) -> torch.Tensor:
    """One optimizer step from a batch; returns the gradients' norms (K,). The first call fills in `batch.old`."""
    accumulate(packed, specs, batch)
    return packed.optimizer.step()


def accumulate(packed: PackedModel, specs: Sequence[GRPOSpec], batch: Batch) -> torch.Tensor:
    """Add the gradients of one optimizer step; each configuration's loss (K,)."""
    count, group, width = len(specs), batch.rollout.group, batch.rollout.tokens.shape[1]
    total = torch.zeros(count, dtype=torch.float64, device=batch.weight.device)
    olds: list[torch.Tensor] = []
    for part in _parts(batch, count, packed.model.config):
        rows = slice(part.start * group, part.stop * group)
        piece = batch.rollout.part(count, part)
        temperature = batch.temperature.view(count, -1, 1)[:, rows].flatten(0, 1)
        sampled, mask = (t.view(count, -1, width) for t in (piece.log_probs, piece.mask))
        # behind a completion's end everything is 0: a large ratio there would make NaN of a gradient of weight 0
        found = log_probs(packed.model, piece, temperature, specs[0].recompute).view(count, -1, width).where(mask, 0.0)
        old = found.detach() if batch.old is None else batch.old[:, rows]
        olds.append(old)
        losses = []
        for k, spec in enumerate(specs):
            reference = batch.reference[k, rows] if spec.kl_coefficient and batch.reference is not None else None
            weight = importance(spec, old[k], sampled[k], mask[k])
            each = token_losses(spec, found[k], old[k], batch.advantage[k, rows], weight, reference)
            losses.append((each * batch.weight[k, rows].to(each.dtype)).sum())
        loss = torch.stack(losses)
        loss.sum().backward()
        total += loss.detach()
    batch.old = torch.cat(olds, 1)
    _spare_padding(packed)
    return total


def _spare_padding(packed: PackedModel) -> None:
    """Drop the gradient of the padding token's embedding, as torch.nn.Embedding does; a policy may well sample it.

    Where the head shares the weight, its part of the gradient cannot be separated, and nothing is dropped.
    """
    tied = getattr(packed.model.config, "tie_word_embeddings", False)
    for name, layer in packed.layers.items():
        if isinstance(layer, PackedEmbedding) and not tied and packed.originals[name].padding_idx is not None:
            assert layer.weight.grad is not None
            layer.weight.grad[:, packed.originals[name].padding_idx] = 0
