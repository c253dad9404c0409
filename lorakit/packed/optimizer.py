"""AdamW with one learning rate, decay and clipping threshold per configuration, over one flat (K, P) buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Group:
    """Parameters, each (K, …), that share a rate and a decay.

    Args:
        parameters: tensors with leading dimension K.
        learning_rate: (K,) rates; 0 freezes the group in that configuration.
        weight_decay: (K,) decoupled decays.
    """

    parameters: Sequence[nn.Parameter]
    learning_rate: torch.Tensor
    weight_decay: torch.Tensor


class PackedAdamW:
    """torch.optim.AdamW's arithmetic, K configurations at a time; a NaN stays in its own row.

    Parameters are moved into one (K, P) buffer and become views of it, so that an update is a dozen operations
    however many layers there are. bfloat16 weights are rounded copies of float32 masters: an update is often smaller
    than their last digit, and would be lost.

    Attributes:
        flat: (K, P) what is updated, in float32 or wider; so are `grad` and the state.
        weights: (K, P) what the layers multiply by; `flat` itself, or its copy in the layers' dtype.
    """

    def __init__(self, groups: Sequence[Group], betas: tuple[float, float], epsilon: float,
                 max_grad_norm: torch.Tensor | None) -> None:
        """`max_grad_norm` is (K,), infinite where a configuration is not clipped, or None for no clipping at all."""
        parameters = [p for group in groups for p in group.parameters]
        count, first = len(parameters[0]), parameters[0]
        sizes = [p.numel() // count for p in parameters]
        dtype = torch.promote_types(first.dtype, torch.float32)
        self.flat = torch.empty(count, sum(sizes), dtype=dtype, device=first.device)
        self.weights = self.flat if first.dtype == dtype else torch.empty_like(self.flat, dtype=first.dtype)
        self.grad = torch.zeros_like(self.flat)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.parameters = parameters
        start = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            view = self.weights[:, start : start + size].view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            start += size
        self.flat.copy_(self.weights)
        self.spans: list[tuple[slice, torch.Tensor, torch.Tensor]] = []
        start = 0
        for group in groups:
            size = sum(p.numel() // count for p in group.parameters)
            self.spans.append((slice(start, start + size), group.learning_rate, group.weight_decay))
            start += size
        self.betas, self.epsilon, self.max_grad_norm, self.steps = betas, epsilon, max_grad_norm, 0
        self.frozen = [(span, (rate == 0).nonzero().flatten())
                       for span, rate, _ in self.spans if bool((rate == 0).any())]

    @torch.no_grad()
    def gather(self) -> torch.Tensor:
        """Collect the accumulated gradients; (K,) Euclidean norms of the configurations', without frozen parameters."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch.cat([grad.reshape(len(self.grad), -1) for grad in grads], dim=1, out=self.grad)
        for parameter in self.parameters:
            parameter.grad = None
        for span, rows in self.frozen:
            self.grad[rows, span] = 0
        return torch.linalg.vector_norm(self.grad, dim=1)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """One update from the accumulated gradients; returns their norms (K,), before clipping."""
        self.steps += 1
        norm = self.gather()
        if self.max_grad_norm is not None:
            self.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1))
        beta1, beta2 = self.betas
        correction1, correction2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        # On a CPU one configuration at a time keeps the working set in the cache.
        on_cpu = self.flat.device.type == "cpu"
        rows = [slice(k, k + 1) for k in range(len(self.flat))] if on_cpu else [slice(None)]
        for row in rows:
            for span, rate, decay in self.spans:
                value, grad = self.flat[row, span], self.grad[row, span]
                mean, square = self.mean[row, span], self.square[row, span]
                lr = rate[row].unsqueeze(1)
                if bool(decay.any()) if on_cpu else True:
                    value.mul_(1 - lr * decay[row].unsqueeze(1))
                mean.lerp_(grad, 1 - beta1)
                square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                denominator = square.sqrt().div_(math.sqrt(correction2)).add_(self.epsilon)
                value.sub_(denominator.reciprocal_().mul_(mean).mul_(lr / correction1))
        if self.weights is not self.flat:
            self.weights.copy_(self.flat)
        return norm
