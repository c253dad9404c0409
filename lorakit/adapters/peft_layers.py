"""LoRASpec -> PEFT: which modules a target selection adapts, and how the adapters start."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.shared_outer import share_outer
from lorakit.names import near
from lorakit.specs import LoRASpec
from lorakit.theory.matrices import Matrix, waste_message
from lorakit.theory.shapes import RankWasteWarning

LINEAR = (nn.Linear, Conv1D)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
GROUPS = {"attention": ("attention",), "mlp": ("mlp", "experts"), "attention+head": ("attention", "head"),
          "mlp+head": ("mlp", "experts", "head"), "experts": ("experts",),
          "attention+experts": ("attention", "experts")}


class TargetsError(ValueError):
    """A target selection names something that this model does not have, or that LoRA cannot adapt."""


class TiedHeadWarning(UserWarning):
    """The head that a selection adapts shares its weight with the input embedding."""


def component_of(name: str, model: nn.Module) -> str:
    """The component that the module or parameter `name` belongs to.

    Returns:
        `attention`, `mlp`, `experts`, `router`, `head`, `embedding`, `norms`, or `other`.
    """
    owner = model.get_submodule(name if name in dict(model.named_modules()) else name.rpartition(".")[0])
    for kind, get in (("head", "get_output_embeddings"), ("embedding", "get_input_embeddings")):
        if hasattr(model, get) and getattr(model, get)() is owner:
            return kind
    parts = name.split(".")
    if any("norm" in part for part in parts):
        return "norms"
    if "experts" in parts:
        return "experts"
    if any("attn" in part or "attention" in part for part in parts):
        return "attention"
    if "gate" in parts or "router" in parts:
        return "router"
    return "mlp" if any("mlp" in part or part in ("feed_forward", "ffn") for part in parts) else "other"


def linear_names(model: nn.Module) -> list[str]:
    """Full names of the linear layers of a model, the head included, in PEFT's order."""
    return [name for name, module in model.named_modules() if isinstance(module, LINEAR)]


def fused_names(model: nn.Module) -> list[str]:
    """Full names of the fused experts: parameters of three dimensions (expert, rows, columns), which no layer wraps."""
    return [name for name, parameter in model.named_parameters() if parameter.ndim == 3]


def _short(selected: list[str], linear: list[str]) -> list[str]:
    """Suffixes that match exactly `selected`, for an adapter_config.json that a person can read."""
    last = {name.rpartition(".")[2] for name in selected}
    matched = {name for name in linear if name.rpartition(".")[2] in last}
    return sorted(last) if matched == set(selected) else sorted(selected)


def _matches(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _listed(targets: tuple[str, ...], model: nn.Module) -> tuple[list[str], list[str]]:
    """Split a user's tuple into layers and fused parameters; a name that matches neither is an error."""
    linear, fused = linear_names(model), fused_names(model)
    layers, parameters = [], []
    for target in targets:
        if any(_matches(name, target) for name in linear):
            layers.append(target)
        elif any(_matches(name, target) for name in fused):
            parameters.append(target)
        else:
            found = next((type(m).__name__ for n, m in model.named_modules() if n and _matches(n, target)), None)
            known = sorted({name.rpartition(".")[2] for name in linear} | {".".join(n.split(".")[-3:]) for n in fused})
            what = f"has type {found}, not a linear layer" if found else "matches no module of this model"
            raise TargetsError(f"target {target!r} {what}; {near(target, known)}available: {', '.join(known)}")
    return layers, parameters


def _head_names(model: nn.Module) -> list[str]:
    return [name for name in linear_names(model) if component_of(name, model) == "head"]


def _resolve(targets: str | tuple[str, ...], model: nn.Module) -> tuple[str | list[str], list[str]]:
    """PEFT's target_modules and target_parameters for a selection on this model."""
    if isinstance(targets, tuple):
        return _listed(targets, model)
    linear, head = linear_names(model), _head_names(model)
    if not set(linear) - set(head):
        raise TargetsError(f"targets={targets!r} match nothing: {type(model).__name__} has no layer beside its head")
    if targets == "all-linear":
        return targets, []
    if targets.endswith("+head") and not head:
        raise TargetsError(f"targets={targets!r}: {type(model).__name__} has no linear head; leave '+head' out")
    if targets == "all-linear+head":
        return _short(linear, linear), []
    selected = [name for name in linear if component_of(name, model) in GROUPS[targets]]
    parameters = sorted({".".join(n.split(".")[-3:]) for n in fused_names(model)}) if "experts" in targets else []
    if not parameters if "experts" in targets else set(selected) <= set(head):
        fused = sorted({".".join(name.split(".")[-3:]) for name in fused_names(model)})
        names = ", ".join(map(repr, fused))
        hint = f"its experts are fused parameters: give targets=({names}); " if fused else ""
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise TargetsError(f"targets={targets!r} match no layer of {type(model).__name__}; {hint}available: {known}")
    return _short(selected, linear), parameters


def peft_config(spec: LoRASpec, model: nn.Module | None = None) -> LoraConfig:
    """PEFT's configuration of a LoRASpec, without biases.

    Args:
        spec: the adapter.
        model: the base that will carry it. With it the targets are checked and the traps warned about; without it a
            group becomes the module names of a Llama- or Qwen-type model.

    Raises:
        TargetsError: a target that matches nothing; the message lists the names that exist.

    Warns:
        TiedHeadWarning: the head is adapted and shares its weight with the input embedding.
        RankWasteWarning: the rank exceeds the smaller side of a matrix.

    >>> config = peft_config(LoRASpec(rank=4, targets="attention"))
    >>> sorted(config.target_modules), config.r, config.lora_alpha
    (['k_proj', 'o_proj', 'q_proj', 'v_proj'], 4, 32.0)
    """
    if model is None:
        parts = {"all-linear": (*ATTENTION, *MLP), "attention": ATTENTION, "mlp": MLP, "head": ("lm_head",)}
        if spec.targets == "all-linear":
            return _config(spec, "all-linear")
        if "experts" in spec.targets:
            raise TargetsError(f"targets={spec.targets!r} name parameters of a model: call peft_config(spec, model)")
        named = spec.targets.split("+") if isinstance(spec.targets, str) else spec.targets
        return _config(spec, [name for part in named for name in parts.get(part, (part,))])
    modules, parameters = _resolve(spec.targets, model)
    config = _config(spec, modules, parameters)
    if spec.expert_rank is not None:
        config.rank_pattern = dict.fromkeys(parameters, spec.expert_rank)
    if fused_names(model) and spec.targets in ("all-linear", "all-linear+head"):
        config = _expanded(spec, model)
    _warn(spec, model, config)
    return config


def require_gradients(model: nn.Module, spec: Any) -> Any:
    """The model with gradients where a spec's full fine-tuning trains, and nowhere for LoRA (`attach` adds its own)."""
    model.requires_grad_(spec.lora is None and spec.full_targets == "all")
    if spec.lora is None and spec.full_targets == "all-linear":
        for name in body_linear_names(model):
            model.get_submodule(name).requires_grad_(True)
    return model


def body_linear_names(model: nn.Module) -> list[str]:
    """Every linear layer but the head: what `all-linear` means, for LoRA and for full fine-tuning."""
    head = set(_head_names(model))
    return [name for name in linear_names(model) if name not in head]


def _config(spec: LoRASpec, modules: str | list[str], parameters: list[str] | None = None) -> LoraConfig:
    if parameters and spec.only_peft:
        raise TargetsError(f"{', '.join(spec.only_peft)} cannot adapt fused experts ({', '.join(parameters)}), in PEFT "
                           "as here: take the defaults of these fields, or targets='attention'")
    return LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, use_rslora=spec.rslora,
                      use_dora=spec.dora, init_lora_weights="pissa" if spec.pissa else True, bias="none",
                      task_type=TaskType.CAUSAL_LM, target_modules=modules, target_parameters=parameters or None)


def weightless(model: nn.Module) -> nn.Module:
    """A copy of a model's modules on torch's meta device: no weights, next to no memory."""
    empty: dict[int, Any] = {id(t): t.to("meta") for t in model.buffers()}
    empty |= {id(p): nn.Parameter(p.to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


def _expanded(spec: LoRASpec, model: nn.Module) -> LoraConfig:
    """What `all-linear` becomes on a model with fused experts, which PEFT decides by model type: tried on a copy.

    PEFT 0.21 maps Qwen's and Mixtral's experts and routers to `target_parameters` (the fused gate and up at twice the
    rank and alpha), and leaves the experts of other types, such as GPT-OSS, out.
    """
    tried = _config(replace(spec, dropout=0.0, dora=False, pissa=False), "all-linear")
    with torch.device("meta"), _quiet():
        get_peft_model(weightless(model), tried)
    head = _head_names(model) if spec.targets == "all-linear+head" else []
    config = _config(spec, sorted({*(tried.target_modules or ()), *head}), sorted(tried.target_parameters or ()))
    config.rank_pattern, config.alpha_pattern = tried.rank_pattern, tried.alpha_pattern
    return config


def _warn(spec: LoRASpec, model: nn.Module, config: LoraConfig) -> None:
    head, modules = _head_names(model), config.target_modules
    names = [n for n in linear_names(model)
             if (n not in head if isinstance(modules, str) else any(_matches(n, m) for m in modules))]
    if getattr(getattr(model, "config", None), "tie_word_embeddings", False) and set(names) & set(head):
        warnings.warn(
            f"{head[0]} is adapted but shares its weight with the input embedding: the adapter acts on the head alone, "
            "and merging it would also change the embedding. Keep it unmerged, untie the weights first, or leave the "
            "head out (targets='all-linear')", TiedHeadWarning, stacklevel=3)
    weights = {n: model.get_parameter(f"{n}.weight") for n in names}
    matrices = [Matrix("layer", n, w.shape[0], w.shape[1], 1) for n, w in weights.items()]
    for n, p in model.named_parameters():
        if any(_matches(n, target) for target in config.target_parameters or ()):
            factor = 2 if config.rank_pattern and n.endswith("gate_up_proj") else 1
            matrices.append(Matrix("layer", n, p.shape[-2], p.shape[-1], p.shape[0] if p.ndim == 3 else 1,
                                   rank_factor=factor))
    message = waste_message(spec.rank, matrices)
    if message:
        warnings.warn(message, RankWasteWarning, stacklevel=3)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator, from which PEFT draws A on every device, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what nobody can act on: our own words about a tied head say more, and those about patterns are wrong.

    PEFT 0.21 reports the patterns that it derives for fused experts as ignored, and applies them; it reads a name
    that transformers 5.24 calls deprecated.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False.*")  # and is set rightly: GPT-2
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys did not match.*")
        yield


def attach(model: nn.Module, spec: LoRASpec, seed: int) -> PeftModel:
    """Put an adapter on a model, in place: A ~ U(±1/√d_in) · init_a_scale from `seed`, B = 0, or as PiSSA starts.

    The one place that decides which modules are adapted and how they start. Adapters are float32 (float64 over a
    float64 base); the base is frozen, and PiSSA takes out of it what the adapter starts with; the global random state
    is left as it was found.

    Args:
        model: a causal LM without an adapter.
        spec: the adapter.
        seed: decides A, 0 or more.

    Raises:
        TargetsError: a target that matches nothing.
        ValueError: the model already carries an adapter.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("the model already carries an adapter: unload it (model.unload()), or load the base anew")
    config = peft_config(spec, model)
    base_dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    fused, config.target_parameters = config.target_parameters, None if spec.shared_outer else config.target_parameters
    with _seeded(seed), _quiet():
        adapted = get_peft_model(model, config)
        if spec.shared_outer:
            rank = spec.expert_rank or spec.rank
            share_outer(model, fused, rank, spec.scale_of(rank))
    dtype = torch.float64 if base_dtype == torch.float64 else torch.float32
    for name, parameter in adapted.named_parameters():
        if ".lora_A" in name:
            parameter.data = parameter.data.to(dtype) * spec.init_a_scale
            parameter.requires_grad_(spec.train_a)
        elif ".lora_B" in name or ".lora_magnitude" in name:
            parameter.data = parameter.data.to(dtype)
    return adapted


def adapted_layers(model: Any) -> dict[str, Any]:
    """The LoRA layers of a model that `attach` returned, by the name of the base module each one wraps.

    Each value has PEFT's fields: `lora_A["default"].weight` (rank, d_in), `lora_B["default"].weight` (d_out, rank),
    `scaling["default"]`.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
