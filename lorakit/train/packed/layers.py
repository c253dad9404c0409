"""Layers that hold K configurations at once: activations arrive as (K·B, …, d) and rows of different k never mix.

K configurations, B sequences each, T tokens a sequence, d_in and d_out the sides of a matrix, r the padded rank.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class PackedLoRALinear(nn.Module):
    """A frozen linear layer shared by K adapters: x W^T + scale_k · (x A_k) B_k.

    Args:
        base: the layer that all configurations share; it stays frozen.
        a: (K, d_in, r) down-projections, zero beyond a configuration's own rank.
        b: (K, r, d_out) up-projections, zero beyond a configuration's own rank.
        scale: (K,) alpha / rank.
    """

    def __init__(self, base: nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.register_buffer("scale", scale.view(-1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        rows = x.reshape(len(self.a), -1, x.shape[-1])
        out = functional.linear(rows, self.base.weight, self.base.bias)
        down = torch.bmm(rows.to(self.a.dtype), self.a) * self.scale
        if out.dtype == self.b.dtype:
            out = torch.baddbmm(out, down, self.b)
        else:
            out = (out + torch.bmm(down, self.b)).to(out.dtype)
        return out.view(*x.shape[:-1], out.shape[-1])


class PackedLinear(nn.Module):
    """K linear layers side by side, for full fine-tuning: weight (K, d_out, d_in), bias (K, d_out) or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        out = torch.bmm(rows, self.weight.transpose(1, 2))
        if self.bias is not None:
            out = out + self.bias.unsqueeze(1)
        return out.view(*x.shape[:-1], out.shape[-1])


class PackedEmbedding(nn.Module):
    """K embedding tables side by side: weight (K, vocabulary, d)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(K·B, T) ids to (K·B, T, d)."""
        count, vocabulary, width = self.weight.shape
        offset = torch.arange(count, device=ids.device).view(count, 1, 1) * vocabulary
        shifted = (ids.view(count, -1, ids.shape[-1]) + offset).view(ids.shape)
        return functional.embedding(shifted, self.weight.reshape(count * vocabulary, width))


class PackedRMSNorm(nn.Module):
    """K RMS norms side by side: weight (K, d); computed in float32 as in transformers."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d) to the same shape."""
        wide = x.to(torch.float32)
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(x.dtype)
        count, width = self.weight.shape
        return (normed.view(count, -1, width) * self.weight.unsqueeze(1)).view(x.shape)


def stacked(module: nn.Module, count: int) -> nn.Module | None:
    """The K-fold copy of a layer with parameters of its own, or None if the layer has none.

    Raises:
        TypeError: a layer with parameters that the engine has no packed form of.
    """
    own = dict(module.named_parameters(recurse=False))
    if not own:
        return None
    repeated = {name: p.detach().unsqueeze(0).repeat(count, *[1] * p.ndim) for name, p in own.items()}
    if isinstance(module, nn.Linear):
        return PackedLinear(repeated["weight"], repeated.get("bias"))
    if isinstance(module, nn.Embedding):
        return PackedEmbedding(repeated["weight"])
    if set(own) == {"weight"} and own["weight"].ndim == 1 and hasattr(module, "variance_epsilon"):
        return PackedRMSNorm(repeated["weight"], module.variance_epsilon)
    raise TypeError(f"full fine-tuning cannot be packed over {type(module).__name__}: the engine knows linear, "
                    "embedding and RMS-norm layers (Llama- and Qwen-type models); run this spec with engine='trl'")
