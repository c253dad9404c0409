"""Less memory for the same numbers: layers that are computed twice, and micro-batches that shrink until a run fits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec

T = TypeVar("T")
AnySpec = TypeVar("AnySpec", SFTSpec, GRPOSpec)


@contextmanager
def recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """While this lasts, decoder layers keep their input only and are computed again in the backward pass, if `wanted`.

    Raises:
        ValueError: the model has no layers that transformers knows how to compute again.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if wanted else []
    if wanted and not layers:
        raise ValueError(f"recompute=True: {type(model).__name__} has no decoder layers that can be computed again; "
                         "run it with recompute=False and a smaller micro_batch")
    for layer in layers:
        layer.forward = partial(_forward, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)


def smaller(spec: AnySpec) -> AnySpec | None:
    """The same run with less memory: half the micro-batch, at last with recompute; None where nothing is left.

    >>> spec = smaller(SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, batch_size=6))
    >>> spec.micro_batch, smaller(spec).micro_batch, smaller(smaller(spec)).recompute
    (3, 1, True)
    """
    whole = spec.batch_size if isinstance(spec, SFTSpec) else spec.episodes_per_step
    now = spec.micro_batch or whole
    if now > 1:
        return replace(spec, micro_batch=next(size for size in range(now // 2, 0, -1) if whole % size == 0))
    return None if spec.recompute else replace(spec, recompute=True)


def fitted(specs: Sequence[AnySpec], train: Callable[[Sequence[AnySpec]], T]) -> T:
    """What `train(specs)` returns; a run alone that finds no memory on its GPU is tried again, `smaller` each time.

    Raises:
        torch.OutOfMemoryError: of a pack, which halves need less of; or of a run that cannot be smaller.
    """
    while True:
        try:
            return train(specs)
        except torch.OutOfMemoryError as error:
            less = smaller(specs[0]) if len(specs) == 1 else None
            if less is None and len(specs) == 1:
                raise torch.OutOfMemoryError(f"{error}; no smaller micro-batch is left, and recompute is on: this run "
                                             "needs a GPU of more memory") from None
            if less is None:
                raise
        specs = [less]  # outside the handler, where the error and the tensors that it holds are gone
        gc.collect()
        torch.cuda.empty_cache()
