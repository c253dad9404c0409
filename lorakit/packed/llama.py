"""The decoder of Llama, Mistral and Qwen2 for packs of adapters on a CPU, each layer one node of the graph.

A small step spends as much time between operations as in them. Where every linear layer of a decoder carries adapters,
its forward pass is replaced by one of fewer operations: one down-projection for q, k and v and one for gate and up,
each rotation one complex product, each layer's gradient by hand.

K configurations, B sequences of T tokens each, N = B·T rows, d the width, H heads of width h, r the padded rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lorakit.packed.attention import LONGEST, attend, attend_backward
from lorakit.packed.layers import PackedRMSNorm
from lorakit.packed.onednn import QuickLoRALinear, product

KNOWN = ("llama", "mistral", "qwen2")
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
COPIED = 2**20  # weights of layers with one input up to which they are also kept one below the other

Tensors = Sequence[torch.Tensor]


def quick_decoder(plain: nn.Module) -> QuickDecoder | None:
    """A quicker decoder over the same layers, or None for a module that has none.

    That is for those of `KNOWN`, plainly causal, with a factored adapter in every linear layer.
    """
    config: Any = getattr(plain, "config", None)
    family = getattr(config, "model_type", None)
    if (family not in KNOWN or not type(plain).__module__.endswith(f".{family}.modeling_{family}")
            or config.hidden_act != "silu" or getattr(config, "sliding_window", None) is not None
            or config.rope_parameters["rope_type"] in ("dynamic", "longrope")):
        return None
    for layer in plain.layers:
        linear = [getattr(layer.self_attn, name) for name in ATTENTION] + [getattr(layer.mlp, name) for name in MLP]
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        if not (all(isinstance(one, QuickLoRALinear) and not one.merged for one in linear)
                and all(isinstance(norm, PackedRMSNorm) for norm in norms)):
            return None
    return QuickDecoder(plain)


class QuickDecoder(nn.Module):
    """In the place of transformers' decoder; sequences longer than `LONGEST` go to that."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.plain = plain
        self.layers = [_Layer(layer) for layer in plain.layers]
        self._turns: dict[int, list[Tensors]] = {}

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        """(K·B, T) ids to an object with `last_hidden_state` (K·B, T, d)."""
        if input_ids.shape[1] > LONGEST:
            return self.plain(input_ids=input_ids, use_cache=use_cache)
        x = self.plain.embed_tokens(input_ids)
        rows = x.view(len(self.layers[0].factors[0]), -1, x.shape[-1])
        turns = self._rotations(x)
        for layer in self.layers:
            rows = _Run.apply(rows, layer, turns, *layer.factors)
        return SimpleNamespace(last_hidden_state=self.plain.norm(rows.view(x.shape)))

    def _rotations(self, x: torch.Tensor) -> list[Tensors]:
        """The rotations of q and of k as complex numbers (T, H · h/2), each with its inverse's; q's holds the scale."""
        length = x.shape[1]
        if length not in self._turns:
            cos, sin = (one[0, :, : one.shape[-1] // 2].contiguous()
                        for one in self.plain.rotary_emb(x, torch.arange(length).unsqueeze(0)))
            attention, layer = self.plain.layers[0].self_attn, self.layers[0]
            turns = [torch.complex(cos, sin).mul_(scale).repeat(1, heads) for scale, heads in
                     ((attention.scaling, layer.heads), (1.0, layer.kept))]
            self._turns[length] = [turns, [turn.conj().resolve_conj() for turn in turns]]
        return self._turns[length]


class _Run(torch.autograd.Function):
    """One layer; what its backward pass needs is dropped with that pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: _Layer, turns: list[Tensors],
                *factors: torch.Tensor) -> torch.Tensor:
        out, ctx.kept = layer.forward(rows, turns[0], factors)
        ctx.layer, ctx.back = layer, turns[1]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, ctx.kept = ctx.kept, None
        rows, factors = ctx.layer.backward(gradients[0], ctx.back, kept, ctx.needs_input_grad[0])
        return rows, None, None, *factors


class _Layer:
    """A decoder layer, (K, N, d) to (K, N, d), and its gradient.

    Attributes:
        heads, kept: heads of q, and of k and v.
        factors: A and B of q, k, v, o, gate, up and down, one after another.
    """

    def __init__(self, plain: Any) -> None:
        attention, mlp = plain.self_attn, plain.mlp
        self.width = width = attention.head_dim
        self.heads, self.kept = (len(getattr(attention, name).base.weight) // width for name in ATTENTION[:2])
        self.qkv = _Siblings([getattr(attention, name) for name in ATTENTION[:3]], [width, width, 0])
        self.o, self.down = _Siblings([attention.o_proj]), _Siblings([mlp.down_proj])
        self.gate_up = _Siblings([mlp.gate_proj, mlp.up_proj])
        self.norms = (plain.input_layernorm, plain.post_attention_layernorm)
        self.factors = [f for part in (self.qkv, self.o, self.gate_up, self.down) for f in part.factors]

    def forward(self, rows: torch.Tensor, turns: Tensors, factors: Tensors) -> tuple[torch.Tensor, Any]:
        first, inverse = _norm(rows, self.norms[0])
        middle, kept_attention = self._attend(first, turns, factors[:8])
        second, inverse_middle = _norm(middle.add_(rows), self.norms[1])
        out, kept_mlp = self._mlp(second, factors[8:])
        return out.add_(middle), (rows, inverse, kept_attention, middle, inverse_middle, kept_mlp)

    def backward(self, grad: torch.Tensor, back: Tensors, kept: Any,
                 needs: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """The gradient of the rows, unless it is not needed, and those of the factors."""
        rows, inverse, kept_attention, middle, inverse_middle, kept_mlp = kept
        grad_second, of_mlp = self._mlp_backward(grad, kept_mlp)
        grad_middle = _norm_backward(grad_second, middle, inverse_middle, self.norms[1]).add_(grad)
        grad_first, of_attention = self._attend_backward(grad_middle, back, kept_attention, needs)
        if grad_first is not None:
            grad_first = _norm_backward(grad_first, rows, inverse, self.norms[0]).add_(grad_middle)
        return grad_first, of_attention + of_mlp

    def _attend(self, x: torch.Tensor, turns: Tensors, factors: Tensors) -> tuple[torch.Tensor, Any]:
        length = len(turns[0])
        parts, kept_qkv = self.qkv.forward(x, factors[:6])
        _turn(parts, turns, length)
        q, k, v = (self._by_head(part, length) for part in parts)
        mixed, shares = attend(q, k, v)
        mixed = mixed.view(-1, self.heads, length, self.width).transpose(1, 2).reshape(*x.shape[:2], -1)
        (out,), kept_o = self.o.forward(mixed, factors[6:])
        return out, ((q, k, v, shares), kept_qkv, kept_o)

    def _attend_backward(self, grad: torch.Tensor, back: Tensors, kept: Any,
                         needs: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        kept_attention, kept_qkv, kept_o = kept
        length = len(back[0])
        grad_mixed, of_o = self.o.backward(grad, kept_o)
        grads = attend_backward(self._by_head(grad_mixed, length), *kept_attention)
        heads = (self.heads, self.kept, self.kept)
        grad_qkv = torch.cat([self._by_token(one, n) for one, n in zip(grads, heads, strict=True)], 2)
        grad_qkv = grad_qkv.view(*grad.shape[:2], -1)
        _turn(grad_qkv.split(self.qkv.sizes, -1), back, length)
        grad_x, of_qkv = self.qkv.backward(grad_qkv, kept_qkv, needs)
        return grad_x, of_qkv + of_o

    def _by_head(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """(K, N, n · h) to (K·B·H, T, h); each of n heads stands before the H / n heads of q that share it."""
        x = x.view(-1, length, x.shape[-1] // self.width, self.width).transpose(1, 2)
        group = self.heads // x.shape[1]
        if group > 1:
            x = x.unsqueeze(2).expand(-1, -1, group, -1, -1)
        return x.reshape(-1, length, self.width)

    def _by_token(self, grad: torch.Tensor, heads: int) -> torch.Tensor:
        """(K·B·H, T, h) to (K·B, T, `heads`, h), summed over the heads of q that share one."""
        grad = grad.view(-1, heads, self.heads // heads, *grad.shape[1:])
        return (grad.sum(2) if heads < self.heads else grad.squeeze(2)).transpose(1, 2)

    def _mlp(self, x: torch.Tensor, factors: Tensors) -> tuple[torch.Tensor, Any]:
        (gate, up), kept_gate_up = self.gate_up.forward(x, factors[:4])
        opened = functional.silu(gate)
        (out,), kept_down = self.down.forward(opened * up, factors[4:])
        return out, (gate, up, opened, kept_gate_up, kept_down)

    def _mlp_backward(self, grad: torch.Tensor, kept: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        gate, up, opened, kept_gate_up, kept_down = kept
        grad_inner, of_down = self.down.backward(grad, kept_down)
        grad_both = grad.new_empty(*gate.shape[:2], 2 * gate.shape[2])
        grad_gate, grad_up = grad_both.chunk(2, -1)
        torch.mul(grad_inner, opened, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad_inner.mul_(up), gate, grad_input=grad_gate)
        grad_x, of_gate_up = self.gate_up.backward(grad_both, kept_gate_up)
        return grad_x, of_gate_up + of_down


class _Siblings:
    """Linear layers of one input: their frozen weights, and one down-projection for all their adapters.

    Args:
        layers: of one rank and scale.
        heads: for each layer the width h of a head whose two halves are to be interleaved, so that the two numbers that
            a rotation mixes are neighbours; 0 leaves the layer as it is.

    Attributes:
        sizes: d_out of each layer.
    """

    def __init__(self, layers: Sequence[QuickLoRALinear], heads: Sequence[int] = (0, 0)) -> None:
        self.heads = heads[: len(layers)]
        self.factors = [factor for layer in layers for factor in (layer.a, layer.b)]
        self.scale = layers[0].scale
        pairs = list(zip(layers, self.heads, strict=True))
        self.weights = [_paired(layer.base.weight.detach().T, h).T for layer, h in pairs]
        self.biases = [None if layer.base.bias is None else _paired(layer.base.bias.detach(), h) for layer, h in pairs]
        self.sizes = [len(weight) for weight in self.weights]
        together = len(layers) > 1 and sum(weight.numel() for weight in self.weights) <= COPIED
        self.joined = torch.cat(self.weights) if together else None

    def forward(self, x: torch.Tensor, factors: Tensors) -> tuple[list[torch.Tensor], Any]:
        """x (K, N, d_in), and A and B of each layer, to a (K, N, d_out) of each."""
        a = torch.cat(factors[::2], 1) if len(factors) > 2 else factors[0]
        b = [_paired(one, h) for one, h in zip(factors[1::2], self.heads, strict=True)]
        down = torch.bmm(a, x.transpose(1, 2)).mul_(self.scale)
        outs = [product(x, weight, bias).baddbmm_(part.transpose(1, 2), one) for weight, bias, part, one in
                zip(self.weights, self.biases, down.chunk(len(b), 1), b, strict=True)]
        return outs, (x, a, down, b)

    def backward(self, grad: torch.Tensor, kept: Any,
                 needs: bool = True) -> tuple[Any, list[torch.Tensor]]:
        """From the gradients of the outputs, side by side, that of x, if it is needed, and those of each A and B."""
        x, a, down, b = kept
        pieces, parts = grad.split(self.sizes, -1), down.chunk(len(b), 1)
        thin = [torch.bmm(one, piece.transpose(1, 2)) for one, piece in zip(b, pieces, strict=True)]
        grad_down = (torch.cat(thin, 1) if len(b) > 1 else thin[0]).mul_(self.scale)
        grad_a = torch.bmm(grad_down, x).chunk(len(b), 1)
        grad_b = [_parted(torch.bmm(part, piece), h) for part, piece, h in zip(parts, pieces, self.heads, strict=True)]
        factors = [one for pair in zip(grad_a, grad_b, strict=True) for one in pair]
        if not needs:
            return None, factors
        if self.joined is not None:
            grad_x = product(grad, self.joined.T)
        else:
            grad_x, *others = (product(piece, weight.T) for piece, weight in zip(pieces, self.weights, strict=True))
            for other in others:
                grad_x.add_(other)
        return grad_x.baddbmm_(grad_down.transpose(1, 2), a), factors


def _paired(x: torch.Tensor, head: int) -> torch.Tensor:
    """(…, heads · h) with the halves of each head interleaved; `head` 0 changes nothing."""
    return x.unflatten(-1, (-1, 2, head // 2)).transpose(-1, -2).flatten(-3) if head else x


def _parted(x: torch.Tensor, head: int) -> torch.Tensor:
    """The inverse of `_paired`."""
    return x.unflatten(-1, (-1, head // 2, 2)).transpose(-1, -2).flatten(-3) if head else x


def _turn(parts: Tensors, turns: Tensors, length: int) -> None:
    """Rotate interleaved q and k (K, N, H · h), the first two of `parts`, in place."""
    for part, turn in zip(parts, turns, strict=False):
        torch.view_as_complex(part.unflatten(1, (-1, length)).unflatten(-1, (-1, 2))).mul_(turn)


def _norm(x: torch.Tensor, norm: PackedRMSNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x, and 1 / rms(x) (…, 1)."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    inverse = square.div_(x.shape[-1]).add_(norm.epsilon).rsqrt_()
    return (x * inverse).mul_(norm.weight), inverse


def _norm_backward(grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, norm: PackedRMSNorm) -> torch.Tensor:
    """The gradient of x, in the place of `grad`."""
    grad = grad.mul_(norm.weight)
    along = torch.linalg.vecdot(grad, x).unsqueeze(-1).mul_(inverse.square().div_(x.shape[-1]))
    return grad.addcmul_(x, along, value=-1).mul_(inverse)
