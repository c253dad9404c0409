"""AdamW for the engines that train one run at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec


class MasterAdamW(torch.optim.AdamW):
    """torch's AdamW, which updates float32 masters of 16-bit weights and rounds these from them after every step.

    An update is often smaller than the last digit of a bfloat16 weight (0.4 % of it), and would be lost.

    Args:
        groups: parameter groups, as torch's optimizers take them.
        options: AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        weights = [p for group in groups for p in group["params"]]
        self.masters = masters = {p: p.detach().float().requires_grad_() for p in weights
                                  if p.dtype in (torch.bfloat16, torch.float16)}
        super().__init__([{**group, "params": [masters.get(p, p) for p in group["params"]]} for group in groups],
                         **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update from the gradients of the weights."""
        for weight, master in self.masters.items():
            master.grad = None if weight.grad is None else weight.grad.to(master.dtype)
        loss = super().step(closure)
        for weight, master in self.masters.items():
            weight.copy_(master)
            master.grad = None
        return loss

    def set_factor(self, factor: float) -> None:
        """Multiply the rates that the groups were made with by a factor, from the next step on."""
        for group in self.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the weights."""
        for weight in self.masters:
            weight.grad = None
        super().zero_grad(set_to_none)


def adamw(spec: SFTSpec | GRPOSpec, model: nn.Module) -> MasterAdamW:
    """AdamW over what trains of a model; B at its own rate, and no decay on vectors, as in the packed engine."""
    ratio = spec.lora.learning_rate_b_ratio if spec.lora else 1.0
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            rate = spec.learning_rate * (ratio if ".lora_B" in name else 1.0)
            groups.setdefault((rate, spec.weight_decay if p.ndim > 1 else 0.0), []).append(p)
    return MasterAdamW([{"params": some, "lr": rate, "weight_decay": decay} for (rate, decay), some in groups.items()],
                       lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), eps=spec.epsilon,
                       fused=next(model.parameters()).is_cuda)
