"""What runs will cost, before any is trained: seconds, and bytes a configuration, for a twentieth of it at the most."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lorakit.data.rl_tasks import Task, encode_prompts
from lorakit.data.tokens import TokenSplit
from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.engine import accumulate, evaluate
from lorakit.packed.grpo import ACTIVATIONS_AT_ONCE, _batch, _score, activation_bytes, learn
from lorakit.packed.model import PackedModel
from lorakit.result import HELD_OUT
from lorakit.rl.episodes import Episodes
from lorakit.rl.rollout import sample, stop_tokens, uniforms
from lorakit.specs import SFTSpec
from lorakit.sweep.host_memory import available_bytes

COST = 0.05  # of the steps that are predicted, at the most, are trained to predict them
PART_OF_EVALUATION = 8  # an eighth of the held-out tokens tells the time of all


def probe_pack(specs: Sequence[SFTSpec], model: Any, splits: dict[str, TokenSplit], runs: int) -> dict[str, float]:
    """Train a step or two of a few specs and evaluate a part, then put the base back.

    Args:
        specs: that can share a pack; as many of them are trained as `COST` allows, one at least.
        model: the base, unchanged afterwards.
        splits: `train` and `validation` sequences.
        runs: of this shape, whose cost is predicted.

    Returns:
        `seconds`: predicted for one whole run of these specs, its share of the pack; `bytes`: of one configuration.
    """
    first, allowed = specs[0], int(COST * runs * specs[0].steps)
    specs = specs[: max(1, min(len(specs), allowed // 2))]
    count, device = len(specs), next(model.parameters()).device
    train, tokens = splits["train"], max(1, first.evaluation_tokens // PART_OF_EVALUATION)
    whole, part = splits["validation"].head(first.evaluation_tokens), splits["validation"].head(tokens)
    chosen = torch.arange(count * first.accumulation * first.batch_size) % len(train)
    chosen = chosen.view(count, first.accumulation, first.batch_size)
    with PackedModel(model, specs) as packed:
        for _ in range(2 if allowed >= 2 * count else 1):  # the first one warms up
            started = time.perf_counter()
            accumulate(packed, train, chosen, device)
            packed.optimizer.step()
            step = (_now(device) - started) / count
        started = time.perf_counter()
        evaluate(packed, part.to(device))
        evaluation = (_now(device) - started) / count * whole.label_tokens / part.label_tokens
    return {"seconds": first.steps * step + (2 * first.evaluations + 4) * evaluation,
            "bytes": sft_bytes(first, model, train)}


def sft_bytes(spec: SFTSpec, model: Any, train: TokenSplit) -> float:
    """Bytes of one configuration in a pack: its parameters, gradients and AdamW's state, and the activations.

    The activations that a backward pass would keep are counted in one forward pass of one row.
    """
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    device = next(model.parameters()).device
    with PackedModel(model, [spec]) as packed:
        packed.decoder = None  # it keeps its activations out of autograd's sight
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            packed.loss_sums(train.input_ids[None, :1].to(device), train.labels[None, :1].to(device))
        state = 5 * packed.optimizer.flat.numel() * packed.optimizer.flat.element_size()
        return state + spec.batch_size * float(sum(size for at, size in saved.items() if at not in weights))


def probe_grpo(spec: GRPOSpec, model: Any, tokenizer: Any, task: Task, runs: int) -> dict[str, float]:
    """Sample and learn once, from as many problems as `COST` allows, then put the base back; as `probe_pack`.

    An evaluation takes the time of sampling, by the number of its answers. Completions are as long as the base's; a
    policy that learns to stop, or to go on, takes another time.
    """
    allowed = int(COST * runs * spec.steps * spec.prompts_per_step)
    short = replace(spec, steps=1, prompts_per_step=max(1, min(spec.prompts_per_step, allowed)))
    few, device = short.prompts_per_step, next(model.parameters()).device
    stop = stop_tokens(model, tokenizer, task.stop)
    prompts = encode_prompts(task, "train", tokenizer, model.config.max_position_embeddings, spec.max_completion_length)
    chosen = [number % len(prompts) for number in range(few)]
    temperature = torch.full((short.episodes_per_step, 1), spec.temperature, device=device,
                             dtype=torch.float64 if spec.dtype == "float64" else torch.float32)
    draws = uniforms(0, 0, short.episodes_per_step, spec.max_completion_length).to(device)
    tokens = few * (max(len(prompts[i]) for i in chosen) + spec.group_size * spec.max_completion_length)
    with PackedModel(model, [short], tokens) as packed:
        started = time.perf_counter()
        rollout = sample(packed.model, [prompts[i] for i in chosen], spec.group_size, spec.max_completion_length, stop,
                         temperature, draws)
        sampled = _now(device)
        advantages = _score([Episodes(short, task)], 1, tokenizer, task, [chosen], rollout)
        learn(packed, [short], _batch([short], rollout, temperature, advantages.to(device)))
        learnt = _now(device)
    sampling, learning = sampled - started, learnt - sampled
    scale, splits = spec.prompts_per_step / few, len({*HELD_OUT, "shifted"} & task.splits.keys())
    evaluation = sampling * max(0.25, spec.evaluation_problems / short.episodes_per_step)  # a few rows take as long
    return {"seconds": (spec.steps * scale * (sampling / spec.iterations + learning)
                        + 2 * (spec.evaluations + splits) * evaluation),
            "bytes": grpo_bytes(spec, model, max(map(len, prompts)))}


def grpo_bytes(spec: GRPOSpec, model: Any, prompt: int) -> float:
    """Bytes of one policy in a pack: its parameters and their state, its cache, and its part of the activations.

    Args:
        prompt: tokens of the longest prompt.
    """
    shape, lora = model.config, spec.lora
    trained = (sum(p.numel() for p in model.parameters()) if lora is None else
               lora.rank * sum(sum(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)))
    width = shape.num_key_value_heads * getattr(shape, "head_dim", shape.hidden_size // shape.num_attention_heads)
    one = prompt + spec.group_size * spec.max_completion_length  # tokens of one problem
    cache = 16 * shape.num_hidden_layers * width * spec.prompts_per_step * spec.group_size * (
        prompt + spec.max_completion_length)
    token = activation_bytes(shape)
    at_once = ACTIVATIONS_AT_ONCE[next(model.parameters()).device.type] / 16
    return 20.0 * trained + cache + token * min(one * spec.prompts_per_step, max(one, at_once / token))


def free_bytes(device: str) -> float:
    """Bytes that this device still has to give."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else available_bytes()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
