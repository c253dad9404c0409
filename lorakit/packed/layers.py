"""Layers that hold K configurations at once: activations arrive as (K·B, …, d) and rows of different k never mix.

K configurations, B sequences each, N rows (tokens) of each, d_in and d_out the sides of a matrix, r the padded rank.
Gradients are written by hand: autograd's own would take more passes over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lorakit.packed.products import frozen_product, product, trained_products

Tensors = Sequence[torch.Tensor]


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
            out = trained_products(rows, self.merged_weights())
            out = out if self.base.bias is None else out + self.base.bias
        else:
            out = _Adapted.apply(rows, self.base.weight, self.base.bias, self.a, self.b, self.scale)
        return out.view(*x.shape[:-1], out.shape[-1])

    def merged_weights(self) -> torch.Tensor:
        """(K, d_out, d_in): the base's weight with each configuration's adapter added."""
        return torch.baddbmm(self.base.weight, self.b.transpose(1, 2), self.a * self.scale)


def merging_pays(rows: int, rank: int, d_in: int, d_out: int) -> bool:
    """Whether K merged weights cost less than K pairs of thin products, forward and backward.

    Multiply-adds beyond the base's own: rows · d_in · d_out for the gradient of the weight and 3 · rank · d_in · d_out
    to form it and to split its gradient, against 3 · rows · rank · (d_in + d_out) for the thin products: with many
    rows the break-even is a rank of a sixth of the width.

    Args:
        rows: tokens of one configuration in a forward pass.

    >>> merging_pays(128, 8, 128, 128), merging_pays(128, 64, 128, 128)
    (False, True)
    """
    return (rows + 3 * rank) * d_in * d_out < 3 * rows * rank * (d_in + d_out)


def adapted_products(x: torch.Tensor, bases: Sequence[tuple[torch.Tensor, torch.Tensor | None]], a: torch.Tensor,
                     bs: Tensors, scale: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """x W^T + bias + scale · (x A^T) B of layers that have one input; thin products are (r, N), the faster layout.

    Args:
        x: (K, N, d_in), in the dtype of the bases.
        bases: weight (d_out, d_in) and bias (d_out,) or None of each layer.
        a: (K, n · r, d_in), the A of the n layers one below another.
        bs: B (K, r, d_out) of each layer.
        scale: (K, 1, 1).

    Returns:
        An output (K, N, d_out) a layer, and scale · A x^T (K, n · r, N), which the backward pass needs.
    """
    down = torch.bmm(a, x.to(a.dtype).transpose(1, 2)).mul_(scale)
    outs = [add_product(product(x, weight, bias), part.transpose(1, 2), b)
            for (weight, bias), part, b in zip(bases, down.chunk(len(bs), 1), bs, strict=True)]
    return outs, down


def adapter_gradients(grads: Tensors, x: torch.Tensor, down: torch.Tensor, bs: Tensors,
                      scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Gradients of `down`, of `a` and of each B from those of the outputs, in the dtype of the adapters."""
    parts = [torch.bmm(b, grad.transpose(1, 2)) for b, grad in zip(bs, grads, strict=True)]
    grad_down = (torch.cat(parts, 1) if len(parts) > 1 else parts[0]).mul_(scale)
    grad_bs = [torch.bmm(part, grad) for part, grad in zip(down.chunk(len(bs), 1), grads, strict=True)]
    return grad_down, torch.bmm(grad_down, x), grad_bs


def add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """out + left @ right in the dtype of `out`, in its place where all have one dtype."""
    if out.dtype == right.dtype:
        return out.baddbmm_(left, right)
    return (out + torch.bmm(left, right)).to(out.dtype)


class _Adapted(torch.autograd.Function):
    """`adapted_products` of one layer."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor,
                b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """rows (K, N, d_in), a (K, r, d_in), b (K, r, d_out), scale (K, 1, 1) to (K, N, d_out)."""
        (out,), down = adapted_products(rows, [(weight, bias)], a, [b], scale)
        ctx.save_for_backward(rows, down, weight, a, b, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (rows, down, weight, a, b, scale) = gradients, ctx.saved_tensors
        grad_down, grad_a, (grad_b,) = adapter_gradients([grad.to(a.dtype)], rows.to(a.dtype), down, [b], scale)
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = add_product(product(grad, weight.T), grad_down.transpose(1, 2), a)
        return grad_rows, None, None, grad_a, grad_b, None


class FrozenLinear(nn.Module):
    """A linear layer of the base that no configuration trains."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d_in) to (…, d_out)."""
        return frozen_product(x, self.weight, self.bias)


class PackedLinear(nn.Module):
    """K linear layers side by side, for full fine-tuning: weight (K, d_out, d_in), bias (K, d_out) or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        out = trained_products(x.reshape(len(self.weight), -1, x.shape[-1]), self.weight)
        out = out if self.bias is None else out + self.bias.unsqueeze(1)
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
    """K RMS norms side by side: weight (K, d), or (d,) where all configurations share a frozen one of float32.

    Those that train compute in float32, as in transformers.
    """

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=weight.ndim == 2)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d) to the same shape."""
        if self.weight.ndim == 1:
            return _FrozenRMSNorm.apply(x, self.weight, self.epsilon)
        wide = x.to(torch.float32)
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(x.dtype)
        count, width = self.weight.shape
        return (normed.reshape(count, -1, width) * self.weight.unsqueeze(1)).view(x.shape)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x · w / rms(x), and 1 / rms(x) (…, 1), which the backward pass needs."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * inverse).mul_(weight), inverse


def rms_norm_gradient(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """The gradient of x from that of its norm: a third of the passes over memory that autograd's own formula takes."""
    grad = grad * weight
    along = torch.linalg.vecdot(grad, x).unsqueeze(-1).mul_(inverse.square().div_(x.shape[-1]))
    return grad.addcmul_(x, along, value=-1).mul_(inverse)


class _FrozenRMSNorm(torch.autograd.Function):
    """`rms_norm` as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        out, inverse = rms_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return rms_norm_gradient(gradients[0], *ctx.saved_tensors), None, None


def stacked(module: nn.Module, count: int, is_rms_norm: bool) -> nn.Module | None:
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
    if is_rms_norm:
        return PackedRMSNorm(repeated["weight"], module.variance_epsilon)
    raise TypeError(f"full fine-tuning cannot be packed over {type(module).__name__}: the engine knows linear, "
                    "embedding and RMS-norm layers (Llama- and Qwen-type models); run this spec with "
                    "engine='peft' or 'trl'")
