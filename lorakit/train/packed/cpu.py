"""What makes a supervised pack faster on a CPU, with the same arithmetic: quicker products, attention and AdamW.

torch multiplies float32 matrices by MKL, which uses half the vector width of an AMD processor; oneDNN, part of every
build of torch for x86, uses all of it (an EPYC with AVX-512: about 220 against 105 GFLOP/s a core). Packs of
reinforcement learning keep the plain parts, with which their records were made.

K configurations, N rows (tokens) of each, T tokens a sequence, d_in and d_out the sides of a matrix, r the padded rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from lorakit.train.packed.attention import ATTENTION
from lorakit.train.packed.layers import PackedLinear, PackedLoRALinear
from lorakit.train.packed.model import PackedModel, _replace
from lorakit.train.packed.optimizer import PackedAdamW

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers of one input, in order of call
WORTHWHILE = 2**21  # multiply-adds of one matrix from which K calls of oneDNN beat one batched call of MKL


@contextmanager
def hastened(packed: PackedModel) -> Iterator[None]:
    """Quicker parts for a pack on a CPU, float32 or float64; on another device, or over other weights, nothing.

    Losses and gradients stay what they were, up to rounding.
    """
    first = packed.optimizer.parameters[0]
    base = {p.dtype for p in packed.model.parameters()}
    if first.device.type != "cpu" or not base <= {torch.float32, torch.float64}:
        yield
        return
    packed.optimizer = FusedAdamW(packed.optimizer)
    if base == {torch.float32} and onednn_multiplies():
        for name, layer in packed.layers.items():
            if isinstance(layer, (PackedLoRALinear, PackedLinear)):
                quick = QuickLinear(layer) if isinstance(layer, PackedLinear) else QuickLoRALinear(layer)
                packed.layers[name] = quick
                _replace(packed.model, name, quick)
        _introduce(packed.layers)
        for name, module in list(packed.model.named_modules()):
            if type(module) is nn.Linear and not name.endswith(".base"):
                packed.originals[name] = module
                _replace(packed.model, name, FrozenLinear(module))
    before = packed.model.config._attn_implementation
    if before == "sdpa":
        packed.model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        packed.model.set_attn_implementation(before)


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
    """x W^T + scale · (x A^T) B of layers that share x, the thin products laid out (r, N) as in the plain layer."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, scale: torch.Tensor, bases: Sequence[nn.Linear],
                *factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """rows (K, N, d_in), scale (K, 1, 1), each A (K, r, d_in), then each B (K, r, d_out) to (K, N, d_out) each."""
        count = len(bases)
        a = torch.cat(factors[:count], 1) if count > 1 else factors[0]
        down = torch.bmm(a, rows.transpose(1, 2)).mul_(scale)
        ctx.save_for_backward(rows, scale, a, down, *factors[count:])
        ctx.bases = bases
        return tuple(product(rows, base.weight, base.bias).baddbmm_(part.transpose(1, 2), b)
                     for base, part, b in zip(bases, down.chunk(count, 1), factors[count:], strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, scale, a, down, *b = ctx.saved_tensors
        grad_b = [torch.bmm(part, grad) for part, grad in zip(down.chunk(len(b), 1), gradients, strict=True)]
        thin = [torch.bmm(one, grad.transpose(1, 2)) for one, grad in zip(b, gradients, strict=True)]
        grad_down = (torch.cat(thin, 1) if len(b) > 1 else thin[0]).mul_(scale)
        grad_a = torch.bmm(grad_down, rows).chunk(len(b), 1)
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows, *others = (product(grad, base.weight.T)
                                  for grad, base in zip(gradients, ctx.bases, strict=True))
            for other in others:
                grad_rows.add_(other)
            grad_rows.baddbmm_(grad_down.transpose(1, 2), a)
        return grad_rows, None, None, *grad_a, *grad_b


class FrozenLinear(nn.Module):
    """A linear layer of the base that no configuration trains."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d_in) to (…, d_out)."""
        return _Frozen.apply(x, self.weight, self.bias)


class QuickLoRALinear(PackedLoRALinear):
    """A `PackedLoRALinear` with the same parameters and quicker products, made together with those of its family.

    Attributes:
        family: the layers that get the same input, in the order of their calls, this one among them.
    """

    def __init__(self, plain: PackedLoRALinear) -> None:
        nn.Module.__init__(self)
        self.base, self.a, self.b, self.merged = plain.base, plain.a, plain.b, plain.merged
        self.register_buffer("scale", plain.scale, persistent=False)
        self.family: list[QuickLoRALinear] = [self]
        self._made: tuple[torch.Tensor, torch.Tensor] | None = None  # what the first of the family made for this one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        rows = x.reshape(len(self.a), -1, x.shape[-1])
        if self.merged:
            out = _Products.apply(rows, torch.baddbmm(self.base.weight, self.b.transpose(1, 2), self.a * self.scale))
            out = out if self.base.bias is None else out + self.base.bias
        else:
            out = self._with_family(x, rows)
        return out.view(*x.shape[:-1], out.shape[-1])

    def _with_family(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        made, self._made = self._made, None
        if made is not None and made[0] is x:
            return made[1]
        layers = self.family
        outs = _Factored.apply(rows, self.scale, [layer.base for layer in layers],
                               *(layer.a for layer in layers), *(layer.b for layer in layers))
        for layer, out in zip(layers, outs, strict=True):
            layer._made = (x, out)
        self._made = None
        return outs[layers.index(self)]


def _introduce(layers: Mapping[str, nn.Module]) -> None:
    """Tell the layers that share an input of each other."""
    for name in layers:
        block, _, leaf = name.rpartition(".")
        for names in SIBLINGS:
            found = [layers.get(f"{block}.{one}") for one in names]
            family = [one for one in found if isinstance(one, QuickLoRALinear) and not one.merged]
            if leaf == names[0] and len(family) == len(names):
                for one in family:
                    one.family = family


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


class FusedAdamW(PackedAdamW):
    """A `PackedAdamW`, in whatever state it is, whose update is torch's fused one: one call a configuration."""

    def __init__(self, plain: PackedAdamW) -> None:
        vars(self).update(vars(plain))
        buffers = (self.flat, self.grad, self.mean, self.square)
        together: dict[tuple[int, float, float], list[list[torch.Tensor]]] = {}
        for span, rates, decays in self.spans:
            for k, settings in enumerate(zip(rates.tolist(), decays.tolist(), strict=True)):
                together.setdefault((k, *settings), []).append([buffer[k, span] for buffer in buffers])
        self._updates = [(settings, [list(column) for column in zip(*parts, strict=True)])
                         for settings, parts in together.items()]

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """One update from the accumulated gradients; returns their norms (K,), before clipping."""
        norm = self.gather()
        if self.max_grad_norm is not None:
            self.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1))
        for (_, rate, decay), parts in self._updates:
            steps = [torch.tensor(float(self.steps)) for _ in parts[0]]
            adamw(*parts, [], steps, fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=rate,
                  weight_decay=decay, eps=self.epsilon, maximize=False)
        self.steps += 1
        return norm
