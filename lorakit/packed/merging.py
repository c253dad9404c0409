"""What the sampler of a pack multiplies by: the learner's own layers, or adapters merged into the base for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from lorakit.packed.layers import PackedLoRALinear
from lorakit.packed.model import PackedModel, replace_module
from lorakit.packed.products import products, trained_products


class MergingLoRALinear(PackedLoRALinear):
    """A layer whose K bases drift apart, since adapters are merged into them and taken out again in their own dtype.

    As PEFT does for TRL's transfer of weights to vLLM: adding rounds once, taking out rounds again.
    """

    def __init__(self, layer: PackedLoRALinear) -> None:
        nn.Module.__init__(self)
        self.base, self.a, self.b, self.scale, self.merged = layer.base, layer.a, layer.b, layer.scale, False
        self.bases = layer.base.weight.detach().repeat(len(layer.a), 1, 1)  # (K, d_out, d_in)
        self.in_bases = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K·B, …, d_in) to (K·B, …, d_out)."""
        rows = x.reshape(len(self.a), -1, x.shape[-1])
        out = trained_products(rows, self.bases)
        out = out if self.base.bias is None else out + self.base.bias
        if not self.in_bases:
            down = torch.bmm(rows.to(self.a.dtype), self.a.transpose(1, 2)) * self.scale
            out = (out + torch.bmm(down, self.b)).to(out.dtype)
        return out.view(*x.shape[:-1], out.shape[-1])

    def delta(self) -> torch.Tensor:
        """(K, d_out, d_in): scale · Bᵀ A in the adapter's dtype."""
        return torch.bmm(self.b.transpose(1, 2), self.a) * self.scale


def give_bases(packed: PackedModel) -> None:
    """Replace a pack's LoRA layers by ones with a base of their own for each configuration."""
    packed.decoder = None
    for name, layer in packed.layers.items():
        packed.layers[name] = MergingLoRALinear(layer)
        replace_module(packed.model, name, packed.layers[name])


def bases_of(packed: PackedModel) -> dict[str, torch.Tensor]:
    """The bases that merging has moved, for a checkpoint."""
    return {f"bases.{name}": layer.bases for name, layer in packed.layers.items()
            if isinstance(layer, MergingLoRALinear)}


def restore_bases(packed: PackedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take up what `bases_of` gave."""
    for name, bases in bases_of(packed).items():
        bases.copy_(tensors[name])


@contextmanager
def sampler(packed: PackedModel) -> Iterator[Any]:
    """The pack's model as it samples. Weights that the learner merges in every pass are formed once here."""
    layers = [layer for layer in packed.layers.values() if isinstance(layer, PackedLoRALinear)]
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, MergingLoRALinear):
                layer.bases.add_(layer.delta())
                layer.in_bases = True
            elif layer.merged:
                layer.forward = partial(_multiply, layer.merged_weights(), layer.base.bias)  # type: ignore[method-assign]
        yield packed.model
        for layer in layers:
            if isinstance(layer, MergingLoRALinear):
                layer.bases.sub_(layer.delta().to(layer.bases.dtype))
                layer.in_bases = False
            elif layer.merged:
                del layer.forward


def _multiply(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    out = products(x.reshape(len(weight), -1, x.shape[-1]), weight)
    out = out if bias is None else out + bias
    return out.view(*x.shape[:-1], out.shape[-1])


@contextmanager
def base_only(packed: PackedModel) -> Iterator[Any]:
    """The pack's model with every module of the base back in its place: the reference policy."""
    replaced = {name: packed.model.get_submodule(name) for name in packed.originals}
    for name, module in packed.originals.items():
        replace_module(packed.model, name, module)
    try:
        yield packed.model
    finally:
        for name, module in replaced.items():
            replace_module(packed.model, name, module)


@torch.no_grad()
def base_drifts(packed: PackedModel) -> list[float]:
    """‖W' − W‖ / ‖W‖ of the adapted layers' bases, for each configuration; 0 where nothing is merged into them."""
    layers = [layer for layer in packed.layers.values() if isinstance(layer, MergingLoRALinear)]
    if not layers:
        return [0.0] * len(packed.specs)
    moved = sum((la.bases.double() - la.base.weight.double()).square().sum((1, 2)) for la in layers)
    whole = sum(la.base.weight.double().square().sum() for la in layers)
    drifts: list[float] = (moved / whole).sqrt().tolist()
    return drifts
