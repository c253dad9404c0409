"""What a target selection really adapts on a model, by component, with the reason for whatever it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lorakit.adapters.peft_layers import adapted_layers, attach, component_of, fused_names, linear_names, weightless
from lorakit.specs import LoRASpec
from lorakit.theory.configs import known_config
from lorakit.theory.shapes import COMPONENTS


def meta_model(source: Any) -> nn.Module:
    """A model's modules without its weights (on torch's meta device): no memory, no download.

    Args:
        source: a known name (`llama-3.1-8b`), a Hugging Face config (object or dict), or a loaded model, whose
            modules are copied and whose weights are not.
    """
    if isinstance(source, nn.Module):
        return weightless(source)
    fields = known_config(source) if isinstance(source, str) else source
    config = AutoConfig.for_model(**fields) if isinstance(fields, Mapping) else fields
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model


def inspect_targets(source: Any, spec: LoRASpec) -> pandas.DataFrame:
    """Attach the adapter to a weightless copy with PEFT, and report what it reached.

    Args:
        source: a known name, a Hugging Face config, or a loaded model (which is left as it is).
        spec: the adapter.

    Returns:
        One row per component: `component`, `matrices` (linear layers, fused expert parameters, the embedding),
        `parameters` (of the base), `share` (of the base, 0 to 1), `adapted` (matrices with an adapter),
        `adapter_parameters`, `left_out` (why the rest has none; empty when all have).

    Raises:
        TargetsError: a target that matches nothing.
    """
    model = meta_model(source)
    linear = linear_names(model)
    rows = {c: {"matrices": 0, "parameters": 0, "adapted": 0, "adapter_parameters": 0} for c in (*COMPONENTS, "other")}
    kinds = {name: component_of(name, model) for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        rows[kinds[name]]["parameters"] += parameter.numel()
        matrix = parameter.ndim > 1 and not name.endswith("bias") and name.rpartition(".")[0] not in linear
        rows[kinds[name]]["matrices"] += matrix
    for name in linear:
        rows[component_of(name, model)]["matrices"] += 1
    fused = {component_of(name, model) for name in fused_names(model)}
    tied = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    layer_kinds = {name: component_of(name, model) for name, _ in model.named_modules() if name}
    with torch.device("meta"):
        layers = adapted_layers(attach(model, spec, seed=0))
    for name, layer in layers.items():
        row = rows[layer_kinds[name.removesuffix(".base_layer")]]
        row["adapted"] += 1
        row["adapter_parameters"] += sum(p.numel() for n, p in layer.named_parameters()
                                         if n.startswith(("lora_A.", "lora_B.", "lora_magnitude")))
    total = sum(row["parameters"] for row in rows.values())
    return pandas.DataFrame([
        {"component": kind, "matrices": row["matrices"], "parameters": row["parameters"],
         "share": row["parameters"] / total, "adapted": row["adapted"],
         "adapter_parameters": row["adapter_parameters"],
         "left_out": "" if 0 < row["matrices"] == row["adapted"] else _reason(kind, kind in fused, tied, spec)}
        for kind, row in rows.items() if row["matrices"] or row["parameters"]])


def _reason(kind: str, fused: bool, tied: bool, spec: LoRASpec) -> str:
    if fused:
        return "fused into 3-D parameters, which are no linear layers: name the parameters as targets"
    if kind == "head":
        why = "PEFT's all-linear leaves the output layer out" if spec.targets == "all-linear" else "not selected"
        return f"{why}; it shares the embedding's weight" if tied else why
    known = {"embedding": "a table of rows, not a linear layer", "norms": "vectors, not matrices"}
    return known.get(kind, "a bare parameter, not a linear layer" if kind == "router" else "not selected")
