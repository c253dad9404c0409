"""Layers that hold K configurations at once: activations arrive as (K·B, …, d) and rows of different k never mix.

K configurations, B sequences each, T tokens a sequence, d_in and d_out the sides of a matrix, r the padded rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class PackedLoRALinear(nn.Module):
    """A frozen linear layer shared by K adapters: x W^T + scale_k · (x A_k^T) B_k.

    Args:
        base: the layer that all configurations share; it stays frozen.
        a: (K, r, d_in) down-projections, zero beyond a configuration's own rank.
        b: (K, r, d_out) up-projections, zero beyond a configuration's own rank.
        scale: (K,) alpha / rank.
        merged: form the K weights W + scale_k · (A_k^T B_k)^T and multiply by those: see `merging_pays`.
    """

    def __init__(self, base: nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor,
                 merged: bool = False) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.register_buffer("scale", scale.view(-1, 1, 1), persistent=False)
        self.merged = merged

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        rows = x.reshape(len(self.a), -1, x.shape[-1])
        if self.merged:
            weight = torch.baddbmm(self.base.weight.T, (self.a * self.scale).transpose(1, 2), self.b)
            out = torch.bmm(rows, weight)
            out = out if self.base.bias is None else out + self.base.bias
        else:
            out = _Factored.apply(rows, self.base, self.a, self.b, self.scale)
        return out.view(*x.shape[:-1], out.shape[-1])


def merging_pays(rows: int, rank: int, d_in: int, d_out: int) -> bool:
    """Whether K merged weights cost less than K pairs of thin products, forward and backward.

    Multiply-adds beyond the base's own: rows · d_in · d_out for the gradient of the weight and 3 · rank · d_in · d_out
    to form it and to split its gradient, against 3 · rows · rank · (d_in + d_out) for the thin products: with many
    rows the break-even is the article's rank of a sixth of the width.

    Args:
        rows: tokens of one configuration in a forward pass.

    >>> merging_pays(128, 8, 128, 128), merging_pays(128, 64, 128, 128)
    (False, True)
    """
    return (rows + 3 * rank) * d_in * d_out < 3 * rows * rank * (d_in + d_out)


class _Factored(torch.autograd.Function):
    """x W^T + scale · (x A^T) B with every thin product laid out (r, N), which takes half the time of (N, r)."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, base: nn.Linear, a: torch.Tensor, b: torch.Tensor,
                scale: torch.Tensor) -> torch.Tensor:
        """rows (K, N, d_in), a (K, r, d_in), b (K, r, d_out), scale (K, 1, 1) to (K, N, d_out)."""
        out = functional.linear(rows, base.weight, base.bias)
        wide = rows.to(a.dtype)
        down = torch.bmm(a, wide.transpose(1, 2)).mul_(scale)
        ctx.save_for_backward(wide, down, a, b, scale)
        ctx.base = base
        if out.dtype == b.dtype:
            return out.baddbmm_(down.transpose(1, 2), b)
        return (out + torch.bmm(down.transpose(1, 2), b)).to(out.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = gradients[0]
        rows, down, a, b, scale = ctx.saved_tensors
        wide = grad.to(a.dtype)
        grad_b = torch.bmm(down, wide)
        grad_down = torch.bmm(b, wide.transpose(1, 2)).mul_(scale)
        grad_a = torch.bmm(grad_down, rows)
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = grad @ ctx.base.weight
            if grad.dtype == a.dtype:
                grad_rows.baddbmm_(grad_down.transpose(1, 2), a)
            else:
                grad_rows += torch.bmm(grad_down.transpose(1, 2), a).to(grad.dtype)
        return grad_rows, None, grad_a, grad_b, None


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
    """K RMS norms side by side: weight (K, d), or (d,) where all configurations share a frozen one.

    Computed in float32 as in transformers.
    """

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=weight.ndim == 2)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d) to the same shape."""
        if self.weight.ndim == 1:
            return _RMSNorm.apply(x, self.weight, self.epsilon)
        wide = x.to(torch.float32)
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(x.dtype)
        count, width = self.weight.shape
        return (normed.reshape(count, -1, width) * self.weight.unsqueeze(1)).view(x.shape)


class _RMSNorm(torch.autograd.Function):
    """x · w / rms(x) with a frozen w: a third of the passes over memory that autograd's own formula takes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad = gradients[0] * weight
        along = torch.linalg.vecdot(grad, x).unsqueeze(-1).mul_(inverse.square() / x.shape[-1])
        return grad.addcmul_(x, along, value=-1).mul_(inverse), None, None


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is x · w / rms(x), asked with numbers: Cohere's LayerNorm has the same fields."""
    own = dict(module.named_parameters(recurse=False))
    if set(own) != {"weight"} or own["weight"].ndim != 1 or not hasattr(module, "variance_epsilon"):
        return False
    weight = own["weight"].detach()
    x = torch.linspace(-1, 3, len(weight), dtype=weight.dtype, device=weight.device).unsqueeze(0)
    plain = x.float() * torch.rsqrt(x.float().square().mean() + module.variance_epsilon) * weight.float()
    tolerance = 0.05 if weight.dtype == torch.bfloat16 else 1e-4
    with torch.no_grad():
        return torch.allclose(module(x).float(), plain, rtol=tolerance, atol=1e-6)


def stacked(module: nn.Module, count: int) -> nn.Module | None:
    """The K-fold copy of a layer with parameters of its own, or None if the layer has none.

    Raises:
        TypeError: a layer with parameters that the engine has no packed form of.
    """
    own = dict(module.named_parameters(recurse=False))
    if not own:
        return None
    repeated = {name: p.detach().unsqueeze(0).repeat(count, *[1] * p.ndim) for name, p in own.items()}
    if type(module) is nn.Linear:
        return PackedLinear(repeated["weight"], repeated.get("bias"))
    if type(module) is nn.Embedding:
        return PackedEmbedding(repeated["weight"])
    if is_rms_norm(module):
        return PackedRMSNorm(repeated["weight"], module.variance_epsilon)
    raise TypeError(f"full fine-tuning cannot be packed over {type(module).__name__}: the engine knows linear, "
                    "embedding and RMS-norm layers (Llama- and Qwen-type models); run this spec with "
                    "engine='peft' or 'trl'")
