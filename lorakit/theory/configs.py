"""The numbers in a Hugging Face config that decide shapes: those of known models, and reading anyone else's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from lorakit.specs import UnknownNameError

# They differ in where biases, head norms and experts sit; everything else is one architecture.
MODEL_TYPES = ("llama", "mistral", "smollm3", "qwen2", "qwen3", "qwen3_moe", "mixtral")
FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "vocab_size")


class ConfigError(ValueError):
    """A model's config lacks a field, or describes an architecture whose shapes are not known here."""


def _config(kind: str, tied: bool, *numbers: int, **more: int) -> dict[str, Any]:
    return {"model_type": kind, "tie_word_embeddings": tied, **dict(zip(FIELDS, numbers, strict=True)), **more}


KNOWN = {
    "tiny": _config("llama", False, 128, 256, 2, 4, 4, 32, 256),
    "tiny-moe": _config("qwen3_moe", False, 64, 128, 2, 2, 2, 32, 256,
                        num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64),
    "smollm2-135m": _config("llama", True, 576, 1536, 30, 9, 3, 64, 49152),
    "llama-3.2-1b": _config("llama", True, 2048, 8192, 16, 32, 8, 64, 128256),
    "llama-3.1-8b": _config("llama", False, 4096, 14336, 32, 32, 8, 128, 128256),
    "qwen3-8b": _config("qwen3", False, 4096, 12288, 36, 32, 8, 128, 151936),
    "qwen3-30b-a3b": _config("qwen3_moe", False, 2048, 6144, 48, 32, 4, 128, 151936,
                             num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768),
}


ENDINGS = ("", "-instruct", "-instruct-q4", "-base")  # of models that share a shape


def known_config(name: str) -> dict[str, Any]:
    """The numbers of a known model's Hugging Face config, `model_type` included (for `AutoConfig.for_model`).

    Args:
        name: in `KNOWN`, or a hub id or pinned name of the same shape: `org/Llama-3.1-8B-Instruct@commit`.

    Raises:
        UnknownNameError: no known model.

    >>> known_config("meta-llama/Llama-3.1-8B-Instruct@0e9e39f")["hidden_size"]
    4096
    """
    short = name.partition("@")[0].rpartition("/")[2].lower()
    known = next((short.removesuffix(e) for e in ENDINGS if short.removesuffix(e) in KNOWN), None)
    if known is None:
        close = difflib.get_close_matches(name.lower(), KNOWN, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownNameError(f"unknown shape {name!r}; {hint}known: {', '.join(sorted(KNOWN))}; "
                               "any other: pass its Hugging Face config or the loaded model")
    return dict(KNOWN[known])


class ConfigFields:
    """A config's fields; reading one that is missing or null is an error that names it.

    >>> ConfigFields({"num_local_experts": 8}).count("num_experts", "num_local_experts")
    8
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def __call__(self, *names: str) -> Any:
        """The value of the first of these names that the config has."""
        for name in names:
            if self.fields.get(name) is not None:
                return self.fields[name]
        raise ConfigError(f"the config lacks {' or '.join(map(repr, names))}: add the field, as config.json writes it "
                          f"(it has: {', '.join(sorted(self.fields)) or 'nothing'})")

    def count(self, *names: str) -> int:
        """The same, for a whole number of 1 or more."""
        value = self(*names)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"the config's {names[0]}={value!r}; allowed: a whole number of 1 or more")
        return value

    def get(self, name: str, default: Any) -> Any:
        """The value, or `default` where it is missing or null."""
        value = self.fields.get(name)
        return default if value is None else value
