"""The models that can be packed, and what the packed engine must know of each: how its head makes logits.

A pack calls the backbone and the head of a model apart, past the model's own `forward`, so that whatever this does with
the logits is done here. One list, asked once when a pack is built; `agreement.py` then compares the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

LOGITS_AT_ONCE = 2**27  # rows · vocabulary beyond which logits are made in chunks and remade in the backward pass
OTHER_ENGINE = "run it with engine='peft', which calls the model's own forward pass (RL: engine='trl')"


class UnsupportedModelError(ValueError):
    """A model that the packed engine would not train as the model itself says; the message names the way out."""


@dataclass(frozen=True)
class Family:
    """What a model type does with its head's output z, cap · tanh(z · multiplier / divisor / cap), and its norms.

    Args:
        multiplier, divisor, cap: fields of the configuration; a field that is absent, or None in it, does nothing.
        rms_norm: each of its layers named …RMSNorm is x · w / rms(x).
    """

    multiplier: str | None = None
    divisor: str | None = None
    cap: str | None = None
    rms_norm: bool = False


_PLAIN = ("apertus", "arcee", "bitnet", "cwm", "diffllama", "ernie4_5", "exaone4", "glm", "glm4", "gpt_oss", "helium",
          "hunyuan_v1_dense", "lfm2", "llama", "mistral", "mixtral", "olmo2", "olmo3", "olmoe", "phi3", "qwen2",
          "qwen2_moe", "qwen3", "qwen3_moe", "smollm3")
_OTHER_NORMS = ("gemma", "nemotron", "olmo", "opt", "persimmon", "phi", "stablelm", "starcoder2")
_GRANITE = ("granite", "granitemoe", "granitemoeshared", "minicpm3")
FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(_PLAIN, Family(rms_norm=True)),
    **dict.fromkeys(_OTHER_NORMS, Family()),
    **dict.fromkeys(("gemma2", "gemma3_text", "vaultgemma", "nanochat"), Family(cap="final_logit_softcapping")),
    **dict.fromkeys(_GRANITE, Family(divisor="logits_scaling", rms_norm=True)),
    **dict.fromkeys(("cohere", "cohere2"), Family(multiplier="logit_scale")),
    "hyperclovax": Family(multiplier="logits_scaling", rms_norm=True),
}


def is_rms_norm(module: nn.Module, config: Any) -> bool:
    """Whether a module of a model with this configuration is x · w / rms(x)."""
    name = type(module).__name__
    return FAMILIES[config.model_type].rms_norm and name.endswith("RMSNorm") and not isinstance(module, nn.RMSNorm)


def head_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The logits (…, vocabulary) that the model's own forward pass makes of its backbone's last states (…, d)."""
    config, logits = model.config, model.lm_head(hidden)
    family = FAMILIES[config.model_type]
    multiplier, divisor, cap = (None if field is None else getattr(config, field, None)
                                for field in (family.multiplier, family.divisor, family.cap))
    logits = logits if multiplier is None else logits * multiplier
    logits = logits if divisor is None else logits / divisor
    return logits if cap is None else torch.tanh(logits / cap) * cap


def unknown_family(config: Any) -> str | None:
    """Why the engine does not know this model's forward pass, or None if it does."""
    if config.model_type in FAMILIES:
        return None
    return f"the model type {config.model_type!r} is not among those whose forward pass the packed engine knows " \
           f"({', '.join(sorted(FAMILIES))})"


def noise(config: Any) -> dict[str, float]:
    """The fields of a configuration that make training random, such as `attention_dropout`, where they are not 0."""
    fields = config.to_dict().items()
    return {name: value for name, value in fields
            if ("drop" in name or "jitter" in name) and not name.startswith(("classifier", "summary"))
            and isinstance(value, int | float) and not isinstance(value, bool) and value > 0}


def refusal(config: Any) -> str | None:
    """Why a model with this configuration cannot be packed, with the way out, or None if it can.

    Targets are not looked at: adapters on fused experts are refused when the pack is built.
    """
    unknown, random = unknown_family(config), noise(config)
    if unknown is not None:
        return f"{unknown}: {OTHER_ENGINE}"
    if random:
        listed = ", ".join(f"{name}={value:g}" for name, value in random.items())
        return (f"this {config.model_type} model trains with {listed}, and the packed engine trains without dropout "
                f"and noise: {OTHER_ENGINE}, or set it to 0 in the model's configuration and register the model again")
    return None


def require_family(config: Any) -> None:
    """Raise UnsupportedModelError if a model with this configuration cannot be packed."""
    reason = refusal(config)
    if reason is not None:
        raise UnsupportedModelError(reason)
