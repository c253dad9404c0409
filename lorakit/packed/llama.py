"""A CPU backend for packs of adapters over Llama, Mistral and Qwen2: each decoder layer is one node of the graph.

A small step spends as much time between operations as in them. Where every linear layer of a decoder carries adapters,
its forward pass is replaced by one of fewer operations: one down-projection for q, k and v and one for gate and up,
each rotation one complex product, each layer's gradient by hand.

K configurations, B sequences of T tokens each, N = B·T rows, d the width, H heads of width h, r the padded rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lorakit.packed.attention import attend, attend_backward
from lorakit.packed.layers import (
    PackedLoRALinear,
    PackedRMSNorm,
    Tensors,
    adapted_products,
    adapter_gradients,
    add_product,
    rms_norm,
    rms_norm_gradient,
)
from lorakit.packed.products import product

MODEL_TYPES = ("llama", "mistral", "qwen2")
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
COPIED = 2**20  # weights of layers with one input up to which they are also stored one below the other


def llama_decoder(decoder: nn.Module) -> LlamaDecoder | None:
    """This backend over the layers of a packed decoder, or None for one that it cannot compute.

    It computes those of `MODEL_TYPES` in float32 on a CPU, plainly causal, with a factored adapter in every linear
    layer.
    """
    config: Any = getattr(decoder, "config", None)
    family = getattr(config, "model_type", None)
    if (family not in MODEL_TYPES or not type(decoder).__module__.endswith(f".{family}.modeling_{family}")
            or config.hidden_act != "silu" or getattr(config, "sliding_window", None) is not None
            or config.rope_parameters["rope_type"] in ("dynamic", "longrope")):
        return None
    for layer in decoder.layers:
        linear = [getattr(layer.self_attn, name) for name in ATTENTION] + [getattr(layer.mlp, name) for name in MLP]
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        if not (all(isinstance(one, PackedLoRALinear) and not one.merged for one in linear)
                and all(isinstance(norm, PackedRMSNorm) for norm in norms)):
            return None
    weight = linear[0].base.weight
    return LlamaDecoder(decoder) if weight.dtype == torch.float32 and weight.device.type == "cpu" else None


class LlamaDecoder:
    """The forward pass of transformers' decoder over the same parameters, and its gradient."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.layers = [_Layer(layer) for layer in decoder.layers]
        self._rotations: dict[int, tuple[Tensors, Tensors]] = {}

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(K·B, T) ids to the last states (K·B, T, d)."""
        x = self.decoder.embed_tokens(input_ids)
        rows = x.view(len(self.layers[0].factors[0]), -1, x.shape[-1])
        rotations = self._rotations_of(x)
        for layer in self.layers:
            rows = _LayerFunction.apply(rows, layer, rotations, *layer.factors)
        states: torch.Tensor = self.decoder.norm(rows.view(x.shape))
        return states

    def _rotations_of(self, x: torch.Tensor) -> tuple[Tensors, Tensors]:
        """The rotations of q and of k as complex numbers (T, H · h/2), and their inverses; q's hold the scale."""
        length = x.shape[1]
        if length not in self._rotations:
            cos, sin = (one[0, :, : one.shape[-1] // 2].contiguous()
                        for one in self.decoder.rotary_emb(x, torch.arange(length).unsqueeze(0)))
            attention, layer = self.decoder.layers[0].self_attn, self.layers[0]
            rotations = [torch.complex(cos, sin).mul_(scale).repeat(1, heads)
                         for scale, heads in ((attention.scaling, layer.heads), (1.0, layer.kv_heads))]
            self._rotations[length] = rotations, [rotation.conj().resolve_conj() for rotation in rotations]
        return self._rotations[length]


class _LayerFunction(torch.autograd.Function):
    """One layer; what its backward pass needs is dropped with that pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: _Layer, rotations: tuple[Tensors, Tensors],
                *factors: torch.Tensor) -> torch.Tensor:
        out, ctx.saved = layer.forward(x, rotations[0], factors)
        ctx.layer, ctx.inverse_rotations = layer, rotations[1]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved, ctx.saved = ctx.saved, None
        grad_x, grads = ctx.layer.backward(gradients[0], ctx.inverse_rotations, saved, ctx.needs_input_grad[0])
        return grad_x, None, None, *grads


class _Layer:
    """A decoder layer, (K, N, d) to (K, N, d), and its gradient.

    Attributes:
        heads, kv_heads: of q, and of k and v.
        factors: A and B of q, k, v, o, gate, up and down, one after another.
    """

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.width = width = attention.head_dim
        self.heads, self.kv_heads = (len(getattr(attention, name).base.weight) // width for name in ATTENTION[:2])
        self.qkv = _Projections([getattr(attention, name) for name in ATTENTION[:3]], [width, width, 0])
        self.o, self.down = _Projections([attention.o_proj]), _Projections([mlp.down_proj])
        self.gate_up = _Projections([mlp.gate_proj, mlp.up_proj])
        self.norms = [(norm.weight, norm.epsilon) for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        self.factors = [f for part in (self.qkv, self.o, self.gate_up, self.down) for f in part.factors]

    def forward(self, x: torch.Tensor, rotations: Tensors, factors: Tensors) -> tuple[torch.Tensor, Any]:
        normed, inverse = rms_norm(x, *self.norms[0])
        attended, saved_attention = self._attention(normed, rotations, factors[:8])
        middle = attended.add_(x)
        normed, inverse_middle = rms_norm(middle, *self.norms[1])
        out, saved_mlp = self._mlp(normed, factors[8:])
        return out.add_(middle), (x, inverse, saved_attention, middle, inverse_middle, saved_mlp)

    def backward(self, grad: torch.Tensor, inverse_rotations: Tensors, saved: Any,
                 needs_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """The gradient of x, where it is needed, and those of the factors."""
        x, inverse, saved_attention, middle, inverse_middle, saved_mlp = saved
        grad_normed, grads_mlp = self._mlp_backward(grad, saved_mlp)
        grad_middle = rms_norm_gradient(grad_normed, middle, self.norms[1][0], inverse_middle).add_(grad)
        grad_x, grads_attention = self._attention_backward(grad_middle, inverse_rotations, saved_attention, needs_input)
        if grad_x is not None:
            grad_x = rms_norm_gradient(grad_x, x, self.norms[0][0], inverse).add_(grad_middle)
        return grad_x, grads_attention + grads_mlp

    def _attention(self, x: torch.Tensor, rotations: Tensors, factors: Tensors) -> tuple[torch.Tensor, Any]:
        length = len(rotations[0])
        projected, saved_qkv = self.qkv.forward(x, factors[:6])
        _apply_rotary(projected, rotations)
        query, key, value = (self._by_head(part, length) for part in projected)
        mixed, attention_weights = attend(query, key, value)
        mixed = mixed.view(-1, self.heads, length, self.width).transpose(1, 2).reshape(*x.shape[:2], -1)
        (out,), saved_o = self.o.forward(mixed, factors[6:])
        return out, ((query, key, value, attention_weights), saved_qkv, saved_o)

    def _attention_backward(self, grad: torch.Tensor, inverse_rotations: Tensors, saved: Any,
                            needs_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        saved_attention, saved_qkv, saved_o = saved
        length = len(inverse_rotations[0])
        grad_mixed, grads_o = self.o.backward(grad, saved_o)
        grads = attend_backward(self._by_head(grad_mixed, length), *saved_attention)
        heads = (self.heads, self.kv_heads, self.kv_heads)
        grad_qkv = torch.cat([self._by_token(one, n) for one, n in zip(grads, heads, strict=True)], 2)
        grad_qkv = grad_qkv.view(*grad.shape[:2], -1)
        _apply_rotary(grad_qkv.split(self.qkv.sizes, -1), inverse_rotations)
        grad_x, grads_qkv = self.qkv.backward(grad_qkv, saved_qkv, needs_input)
        return grad_x, grads_qkv + grads_o

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
        (gate, up), saved_gate_up = self.gate_up.forward(x, factors[:4])
        activated = functional.silu(gate)
        (out,), saved_down = self.down.forward(activated * up, factors[4:])
        return out, (gate, up, activated, saved_gate_up, saved_down)

    def _mlp_backward(self, grad: torch.Tensor, saved: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        gate, up, activated, saved_gate_up, saved_down = saved
        grad_inner, grads_down = self.down.backward(grad, saved_down)
        grad_gate_up = grad.new_empty(*gate.shape[:2], 2 * gate.shape[2])
        grad_gate, grad_up = grad_gate_up.chunk(2, -1)
        torch.mul(grad_inner, activated, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad_inner.mul_(up), gate, grad_input=grad_gate)
        grad_x, grads_gate_up = self.gate_up.backward(grad_gate_up, saved_gate_up)
        return grad_x, grads_gate_up + grads_down


class _Projections:
    """Linear layers of one input: their frozen weights, and one down-projection for all their adapters.

    Args:
        layers: of one rank and scale.
        heads: for each layer the width h of a head whose two halves are to be interleaved, so that the two numbers that
            a rotation mixes are neighbours; 0 leaves the layer as it is.

    Attributes:
        sizes: d_out of each layer.
    """

    def __init__(self, layers: Sequence[PackedLoRALinear], heads: Sequence[int] = (0, 0)) -> None:
        self.heads = heads[: len(layers)]
        self.factors = [factor for layer in layers for factor in (layer.a, layer.b)]
        self.scale = layers[0].scale
        self.bases = [(_interleaved(layer.base.weight.detach().T, h).T,
                       None if layer.base.bias is None else _interleaved(layer.base.bias.detach(), h))
                      for layer, h in zip(layers, self.heads, strict=True)]
        weights = [weight for weight, _ in self.bases]
        self.sizes = [len(weight) for weight in weights]
        copied = len(layers) > 1 and sum(weight.numel() for weight in weights) <= COPIED
        self.joined = [torch.cat(weights)] if copied else weights

    def forward(self, x: torch.Tensor, factors: Tensors) -> tuple[list[torch.Tensor], Any]:
        """x (K, N, d_in), and A and B of each layer, to a (K, N, d_out) of each."""
        a = torch.cat(factors[::2], 1) if len(factors) > 2 else factors[0]
        bs = [_interleaved(b, h) for b, h in zip(factors[1::2], self.heads, strict=True)]
        outs, down = adapted_products(x, self.bases, a, bs, self.scale)
        return outs, (x, down, a, bs)

    def backward(self, grad: torch.Tensor, saved: Any, needs_input: bool = True) -> tuple[Any, list[torch.Tensor]]:
        """From the gradients of the outputs, side by side, that of x, if it is needed, and those of each A and B."""
        x, down, a, bs = saved
        grad_down, grad_a, grad_bs = adapter_gradients(grad.split(self.sizes, -1), x, down, bs, self.scale)
        pairs = zip(grad_a.chunk(len(bs), 1), grad_bs, self.heads, strict=True)
        factors = [factor for one_a, one_b, h in pairs for factor in (one_a, _separated(one_b, h))]
        if not needs_input:
            return None, factors
        pieces = grad.split([len(weight) for weight in self.joined], -1)
        grad_x = reduce(torch.Tensor.add_, map(product, pieces, [weight.T for weight in self.joined]))
        return add_product(grad_x, grad_down.transpose(1, 2), a), factors


def _interleaved(x: torch.Tensor, head: int) -> torch.Tensor:
    """(…, heads · h) with the halves of each head interleaved; `head` 0 changes nothing."""
    return x.unflatten(-1, (-1, 2, head // 2)).transpose(-1, -2).flatten(-3) if head else x


def _separated(x: torch.Tensor, head: int) -> torch.Tensor:
    """The inverse of `_interleaved`."""
    return x.unflatten(-1, (-1, head // 2, 2)).transpose(-1, -2).flatten(-3) if head else x


def _apply_rotary(projected: Tensors, rotations: Tensors) -> None:
    """Rotate interleaved q and k (K, N, H · h), the first two of `projected`, in place."""
    for part, rotation in zip(projected, rotations, strict=False):
        length = len(rotation)
        torch.view_as_complex(part.unflatten(1, (-1, length)).unflatten(-1, (-1, 2))).mul_(rotation)
