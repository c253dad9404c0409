"""A finished configuration as files: an adapter in PEFT's format, or a plain Hugging Face model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import align_special_tokens

from lorakit.adapters.card import model_card, public_name
from lorakit.adapters.factors import exported, parts
from lorakit.adapters.peft_layers import adapted_layers, attach
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record
from lorakit.specs import SFTSpec


def export(spec: SFTSpec | GRPOSpec, weights: Mapping[str, Any], model: Any, folder: str | Path, tokenizer: Any = None,
           record: Record | None = None) -> Path:
    """Save what one run learnt, so that PEFT or transformers can load it without lorakit, on any machine.

    For LoRA, `folder` gets `adapter_config.json` and `adapter_model.safetensors`, for
    `PeftModel.from_pretrained(base, folder)`; for full fine-tuning it gets a whole model, for
    `AutoModelForCausalLM.from_pretrained(folder)`. A base of the hub is named with its commit, so that
    `AutoPeftModelForCausalLM.from_pretrained(folder)` finds it; one without a public name leaves the adapter without
    the name of its base: pass the base yourself, as above. Nothing in the folder names a place on this machine.

    Args:
        spec: what was run.
        weights: `RunResult.weights` of `train_pack(…, keep_weights=True)`, or `PackedModel.configuration(k)`.
        model: the base of the run; unchanged afterwards.
        folder: made if missing.
        tokenizer: of the run; saved beside the weights.
        record: of the run; its losses, versions and device go into the model card, `README.md`, which is written
            last: a folder that has one is complete.

    Returns:
        The folder.

    Raises:
        ValueError: no weights, or weights of another spec or another model.
    """
    if not weights:
        raise ValueError("there are no weights to export: train with keep_weights=True")
    folder = Path(folder)
    if spec.lora is None:
        _export_full(weights, model, folder, tokenizer)
    else:
        _export_adapter(spec, weights, model, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(spec, record), encoding="utf-8")
    return folder


@torch.no_grad()
def _export_adapter(spec: SFTSpec | GRPOSpec, weights: Mapping[str, Any], model: Any, folder: Path) -> None:
    assert spec.lora is not None
    frozen = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    adapted = attach(model, exported(spec.lora), spec.seed)
    try:
        layers = adapted_layers(adapted)
        _refuse_other_names(layers.keys(), weights.keys())
        for name, layer in layers.items():
            for part, trained in zip(parts(layer), weights[name], strict=True):
                _copy(part["default"].weight, trained, name)
        # False: what a run may change is the adapter alone; "auto" would ask the hub whether the vocabulary has grown
        adapted.save_pretrained(folder, save_embedding_layers=False)
        path = folder / "adapter_config.json"
        repository, commit = public_name(spec.model)  # PEFT writes the folder that the base was loaded from
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": repository, "revision": commit}
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    finally:
        adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])


def _export_full(weights: Mapping[str, Any], model: Any, folder: Path, tokenizer: Any) -> None:
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}
    _refuse_other_names(parameters.keys(), weights.keys())
    for name, trained in weights.items():
        if trained.shape != parameters[name].shape:
            raise _mismatch(name, trained.shape, parameters[name].shape)
    # saving writes into the configuration, so a copy is saved
    filled = copy.deepcopy(model)
    filled.load_state_dict(dict(weights), strict=False)
    filled.config.use_cache = True  # training has no use for the cache of keys and values; generation is slow without
    if tokenizer is not None:
        align_special_tokens(filled, tokenizer)
    filled.save_pretrained(folder)


def _refuse_other_names(expected: Any, given: Any) -> None:
    wrong = sorted(set(expected) ^ set(given))
    if wrong:
        raise ValueError(f"these weights are not of this spec on this model; they differ in {', '.join(wrong[:4])}"
                         f"{' …' if len(wrong) > 4 else ''}: pass the RunResult's own spec and its base model")


def _copy(target: torch.Tensor, trained: torch.Tensor, name: str) -> None:
    if trained.shape != target.shape:
        raise _mismatch(name, trained.shape, target.shape)
    target.copy_(trained)


def _mismatch(name: str, given: Any, expected: Any) -> ValueError:
    return ValueError(f"weights of {name} have shape {tuple(given)}, but the spec and the model ask for "
                      f"{tuple(expected)}: pass the RunResult's own spec and its base model")
