"""Shared-outer LoRA of fused experts: one factor on the hidden side for all experts of a layer, as in Tinker.

PEFT 0.21 has no such layout, so it is a parametrization of the fused parameter, written with plain torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize


class SharedOuterLoRA(nn.Module):
    """W_e + scale · B_e A_e for every expert e, where the factor that touches the hidden states has no e.

    Args:
        weight: (experts, d_out, d_in), the frozen base.
        rank, scale: of the adapters.
        parts: matrices that are stacked along d_out, each with its own pair: 2 for gate and up.
        hidden_in: the hidden states enter the matrix (A is shared); False: they leave it (B is shared).
    """

    def __init__(self, weight: torch.Tensor, rank: int, scale: float, parts: int, hidden_in: bool) -> None:
        super().__init__()
        experts, d_out, d_in = weight.shape
        self.scale = scale
        a = torch.empty(1 if hidden_in else experts, parts, rank, d_in, device=weight.device)
        self.lora_A = nn.Parameter(nn.init.uniform_(a, -(d_in**-0.5), d_in**-0.5))
        self.lora_B = nn.Parameter(torch.zeros(experts if hidden_in else 1, parts, d_out // parts, rank,
                                               device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The adapted weight, (experts, d_out, d_in)."""
        return weight + (self.scale * (self.lora_B @ self.lora_A)).view(weight.shape).to(weight.dtype)


def share_outer(model: nn.Module, parameters: Iterable[str], rank: int, scale: float) -> None:
    """Give the fused expert parameters with these suffixes a shared-outer adapter each, in place.

    A layer costs rank · (3 · hidden + 3 · experts · width) weights: gate, up and down share the hidden side.
    """
    found = [n for n, p in model.named_parameters() if p.ndim == 3 and n.endswith(tuple(f".{s}" for s in parameters))]
    for name in found:
        owner, _, leaf = name.rpartition(".")
        module, weight = model.get_submodule(owner), model.get_parameter(name)
        enters = leaf == "gate_up_proj"
        adapter = SharedOuterLoRA(weight, rank, scale, 2 if enters else 1, enters)
        parametrize.register_parametrization(module, leaf, adapter)
        module.parametrizations[leaf].original.requires_grad_(False)
