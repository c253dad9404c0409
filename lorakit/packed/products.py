"""Products of matrices by the fastest library at hand, for layers that write their gradients by hand.

torch multiplies float32 matrices by MKL, which uses half the vector width of an AMD processor; oneDNN, part of every
build of torch for x86, uses all of it (an EPYC with AVX-512: about 220 against 105 GFLOP/s a core).

K configurations, N rows (tokens) of each, d_in and d_out the sides of a matrix.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn import functional

WORTHWHILE = 2**21  # multiply-adds of one matrix from which K calls of oneDNN beat one batched call of MKL


@cache
def onednn_multiplies() -> bool:
    """Whether this build of torch can hand a product of float32 matrices to oneDNN."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    try:
        return torch.equal(_onednn(x, weight), weight.T)
    except RuntimeError:
        return False


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _suits_onednn(x: torch.Tensor) -> bool:
    return (x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()
            and onednn_multiplies())


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + b, without a gradient: x (…, d_in), weight (d_out, d_in) in any layout."""
    return _onednn(x, weight, bias) if _suits_onednn(x) else functional.linear(x, weight, bias)


def products(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """x_k W_k^T for every k, without a gradient: x (K, N, d_in), weights (K, d_out, d_in) to (K, N, d_out)."""
    if x.shape[1] * weights[0].numel() < WORTHWHILE or not _suits_onednn(x):
        return torch.bmm(x, weights.transpose(1, 2))
    return torch.stack([_onednn(*pair) for pair in zip(x, weights, strict=True)])


def frozen_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`product` with a gradient for x alone."""
    out: torch.Tensor = _FrozenProduct.apply(x, weight, bias)
    return out


def trained_products(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`products` with gradients for whatever asks for them."""
    out: torch.Tensor = _Products.apply(x, weights)
    return out


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return product(gradients[0], ctx.weight.T), None, None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weights)
        return products(x, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (x, weights) = gradients, ctx.saved_tensors
        grad_x = products(grad, weights.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return grad_x, products(grad.transpose(1, 2), x.transpose(1, 2)) if ctx.needs_input_grad[1] else None
