"""AdamW with one learning rate, decay and clipping threshold per configuration, over one flat (K, P) buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn


@dataclass(frozen=True)
class Group:
    """Parameters, each (K, …), that share K rates and K decays.

    Args:
        parameters: tensors with leading dimension K.
        learning_rates: of each configuration; 0 freezes the group in it.
        weight_decays: of each configuration, decoupled.
    """

    parameters: Sequence[nn.Parameter]
    learning_rates: Sequence[float]
    weight_decays: Sequence[float]


class PackedAdamW:
    """torch.optim.AdamW's arithmetic, K configurations at a time; a NaN stays in its own row.

    Parameters are moved into one (K, P) buffer and become views of it, so that an update is one fused call a
    configuration however many layers there are, and on a CPU its working set stays in the cache. bfloat16 weights are
    rounded copies of float32 masters: an update is often smaller than their last digit, and would be lost.

    Attributes:
        flat: (K, P) what is updated, in float32 or wider; so are `grad` and the state.
        weights: (K, P) what the layers multiply by; `flat` itself, or its copy in the layers' dtype.
        factors: of each configuration on its rates, in the next step.
    """

    def __init__(self, groups: Sequence[Group], betas: tuple[float, float], epsilon: float,
                 max_grad_norms: Sequence[float]) -> None:
        """`max_grad_norms` is infinite where a configuration is not clipped."""
        self.groups, self.parameters = groups, [p for group in groups for p in group.parameters]
        count, first = len(self.parameters[0]), self.parameters[0]
        sizes = [p.numel() // count for p in self.parameters]
        self.factors: list[float] = [1.0] * count
        dtype = torch.promote_types(first.dtype, torch.float32)
        self.flat = torch.empty(count, sum(sizes), dtype=dtype, device=first.device)
        self.weights = self.flat if first.dtype == dtype else torch.empty_like(self.flat, dtype=first.dtype)
        self.grad, self.mean, self.square = (torch.zeros_like(self.flat) for _ in range(3))
        for parameter, part in zip(self.parameters, self.weights.split(sizes, 1), strict=True):
            view = part.view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
        self.flat.copy_(self.weights)
        self.betas, self.epsilon, self.steps = betas, epsilon, 0
        self.max_grad_norm = torch.tensor(max_grad_norms, dtype=dtype, device=first.device)
        self.clips = bool(self.max_grad_norm.isfinite().any())

    @cached_property
    def _updates(self) -> list[tuple[int, float, float, list[list[torch.Tensor]]]]:
        """Configuration, rate and decay of each call, with views of the weights, gradients, means and squares."""
        together: dict[tuple[int, float, float], list[list[torch.Tensor]]] = {}
        sizes = [sum(p[0].numel() for p in group.parameters) for group in self.groups]
        parts = zip(*(buffer.split(sizes, 1) for buffer in (self.flat, self.grad, self.mean, self.square)), strict=True)
        for group, buffers in zip(self.groups, parts, strict=True):
            for k, settings in enumerate(zip(group.learning_rates, group.weight_decays, strict=True)):
                together.setdefault((k, *settings), []).append([buffer[k] for buffer in buffers])
        return [(*key, [list(column) for column in zip(*views, strict=True)]) for key, views in together.items()]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What decides the next steps, for a checkpoint; the steps done come beside it."""
        return {"flat": self.flat, "mean": self.mean, "square": self.square}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor], steps: int) -> None:
        """Take up what `tensors` gave after so many steps."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
        if self.weights is not self.flat:
            self.weights.copy_(self.flat)
        self.steps = steps

    @torch.no_grad()
    def gather(self) -> torch.Tensor:
        """Collect the accumulated gradients; (K,) Euclidean norms of the configurations', without frozen parameters."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch.cat([grad.reshape(len(self.grad), -1) for grad in grads], dim=1, out=self.grad)
        for parameter in self.parameters:
            parameter.grad = None
        for _, rate, _, (_, grads, *_) in self._updates:
            if rate == 0:
                torch._foreach_zero_(grads)
        return torch.linalg.vector_norm(self.grad, dim=1)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """One update from the accumulated gradients; returns their norms (K,), before clipping."""
        norm = self.gather()
        if self.clips:
            self.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1))
        self.steps += 1
        steps = torch.full((), self.steps, dtype=torch.float32, device=self.flat.device)
        for k, rate, decay, views in self._updates:
            torch._fused_adamw_(*views, [], [steps] * len(views[0]), amsgrad=False, beta1=self.betas[0],
                                beta2=self.betas[1], lr=rate * self.factors[k], weight_decay=decay,
                                eps=self.epsilon, maximize=False)
        if self.weights is not self.flat:
            self.weights.copy_(self.flat)
        return norm
