"""Products of float32 matrices by oneDNN, and the layers of a pack that use them.

torch multiplies float32 matrices by MKL, which uses half the vector width of an AMD processor; oneDNN, part of every
build of torch for x86, uses all of it (an EPYC with AVX-512: about 220 against 105 GFLOP/s a core).

K configurations, N rows (tokens) of each, d_in and d_out the sides of a matrix, r the padded rank.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from lorakit.packed.layers import PackedLinear, PackedLoRALinear

WORTHWHILE = 2**21  # multiply-adds of one matrix from which K calls of oneDNN beat one batched call of MKL


@cache
def onednn_multiplies() -> bool:
    """Whether this build of torch can hand a product of float32 matrices to oneDNN."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    try:
        return torch.equal(product(x, weight), weight.T)
    except RuntimeError:
        return False


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + b by oneDNN: x (…, d_in), weight (d_out, d_in) in any layout, both float32, no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def products(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """x_k W_k^T for every k: x (K, N, d_in), weights (K, d_out, d_in) to (K, N, d_out), no gradient."""
    if x.shape[1] * weights[0].numel() < WORTHWHILE:
        return torch.bmm(x, weights.transpose(1, 2))
    return torch.stack([product(*pair) for pair in zip(x, weights, strict=True)])


class _Frozen(torch.autograd.Function):
    """x W^T + b with a W that does not train."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return product(gradients[0], ctx.weight.T), None, None


class _Products(torch.autograd.Function):
    """x_k W_k^T with K weights that train."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weights)
        return products(x, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (x, weights) = gradients, ctx.saved_tensors
        grad_x = products(grad, weights.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return grad_x, products(grad.transpose(1, 2), x.transpose(1, 2))


class _Factored(torch.autograd.Function):
    """x W^T + scale · (x A^T) B, the thin products laid out (r, N) as in the plain layer."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, base: nn.Linear, a: torch.Tensor, b: torch.Tensor,
                scale: torch.Tensor) -> torch.Tensor:
        """rows (K, N, d_in), a (K, r, d_in), b (K, r, d_out), scale (K, 1, 1) to (K, N, d_out)."""
        down = torch.bmm(a, rows.transpose(1, 2)).mul_(scale)
        ctx.save_for_backward(rows, down, a, b, scale)
        ctx.base = base
        return product(rows, base.weight, base.bias).baddbmm_(down.transpose(1, 2), b)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (rows, down, a, b, scale) = gradients, ctx.saved_tensors
        grad_down = torch.bmm(b, grad.transpose(1, 2)).mul_(scale)
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = product(grad, ctx.base.weight.T).baddbmm_(grad_down.transpose(1, 2), a)
        return grad_rows, None, torch.bmm(grad_down, rows), torch.bmm(down, grad), None


class FrozenLinear(nn.Module):
    """A linear layer of the base that no configuration trains."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d_in) to (…, d_out)."""
        return _Frozen.apply(x, self.weight, self.bias)


class QuickLoRALinear(PackedLoRALinear):
    """A `PackedLoRALinear` with the same parameters and quicker products."""

    def __init__(self, plain: PackedLoRALinear) -> None:
        nn.Module.__init__(self)
        self.base, self.a, self.b, self.merged = plain.base, plain.a, plain.b, plain.merged
        self.register_buffer("scale", plain.scale, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        rows = x.reshape(len(self.a), -1, x.shape[-1])
        if self.merged:
            out = _Products.apply(rows, torch.baddbmm(self.base.weight, self.b.transpose(1, 2), self.a * self.scale))
            out = out if self.base.bias is None else out + self.base.bias
        else:
            out = _Factored.apply(rows, self.base, self.a, self.b, self.scale)
        return out.view(*x.shape[:-1], out.shape[-1])


class QuickLinear(PackedLinear):
    """A `PackedLinear` with the same parameters and quicker products."""

    def __init__(self, plain: PackedLinear) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        out = _Products.apply(x.reshape(len(self.weight), -1, x.shape[-1]), self.weight)
        out = out if self.bias is None else out + self.bias.unsqueeze(1)
        return out.view(*x.shape[:-1], out.shape[-1])
