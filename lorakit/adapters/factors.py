"""What a trained adapter adds to its base as it was: the factors that results and exports hold, and their norm."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lorakit.adapters.peft_layers import adapted_layers
from lorakit.result import delta_norm
from lorakit.specs import LoRASpec

Factors = dict[str, tuple[torch.Tensor, ...]]  # A (r, d_in) and B (d_out, r) by the name of a layer


def factors(model: nn.Module, start: Mapping[str, tuple[torch.Tensor, ...]] | None = None) -> Factors:
    """By layer: A (r, d_in) and B (d_out, r), and with DoRA the lengths (d_out,); empty for a model without adapters.

    Args:
        model: that `attach` returned.
        start: the factors that PiSSA began with, which are taken off: A and B then have rank 2 r.
    """
    found = {name: tuple(part["default"].weight.detach().clone() for part in parts(layer))
             for name, layer in adapted_layers(model).items()}
    if start is None:
        return found
    return {name: (torch.cat([a, start[name][0]]), torch.cat([b, -start[name][1]], 1))
            for name, (a, b) in found.items()}


def parts(layer: Any) -> list[Any]:
    """What trains of a layer of PEFT's, each by the adapter's name: A, B, and with DoRA the lengths."""
    return [layer.lora_A, layer.lora_B, *([layer.lora_magnitude_vector] if layer.lora_magnitude_vector else [])]


def start_of(model: nn.Module, lora: LoRASpec | None) -> Factors | None:
    """What `factors` has to take off at the end: with PiSSA, the factors of a model that was just attached."""
    return factors(model) if lora is not None and lora.pissa else None


def exported(lora: LoRASpec) -> LoRASpec:
    """The adapter that `factors` of a finished run belong to: PiSSA's are plain LoRA of twice the rank.

    >>> exported(LoRASpec(rank=4, alpha=8, pissa=True)) == LoRASpec(rank=8, alpha=16)
    True
    """
    if not lora.pissa:
        return lora
    return replace(lora, rank=2 * lora.rank, alpha=2 * lora.rank * lora.scale, rslora=False, pissa=False)


def weights_of(model: nn.Module, start: Factors | None = None) -> dict[str, Any]:
    """`factors` of each layer, or every parameter by name, as `PackedModel.configuration` has it."""
    return factors(model, start) or {
        name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


@torch.no_grad()
def relative_change(base: nn.Module, trained: Any) -> float:
    """The `delta_norm` of a trained model.

    What plain LoRA adds is summed layer by layer; any other adapter is merged into a copy, and the base subtracted.
    """
    matrices = {name: p for name, p in base.named_parameters() if p.ndim > 1}
    config = getattr(trained, "peft_config", {}).get("default")
    if config is None or config.use_dora or config.init_lora_weights == "pissa" or config.target_parameters \
            or any(hasattr(module, "parametrizations") for module in trained.modules()):
        after = dict((trained if config is None else _merged(trained)).named_parameters())
        change = sum(_number((after[name].double() - p.double()).square().sum()) for name, p in matrices.items())
    else:
        change = sum(_number(layer.get_delta_weight("default").double().square().sum())
                     for layer in adapted_layers(trained).values())
    return delta_norm(change, sum(_number(p.double().square().sum()) for p in matrices.values()))


def _number(value: torch.Tensor) -> float:
    """Of a tensor that may lie in shares."""
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)


def _merged(model: Any) -> nn.Module:
    """A copy of the base with the adapters in its weights."""
    merged: nn.Module = copy.deepcopy(model).merge_and_unload()
    for module in list(merged.modules()):
        for name in list(getattr(module, "parametrizations", {})):
            nn.utils.parametrize.remove_parametrizations(module, name)
    return merged
