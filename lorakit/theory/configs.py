"""The numbers in a Hugging Face config that decide shapes: those of known models, and reading anyone else's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lorakit.local_models import checkpoint_config
from lorakit.names import UnknownNameError, near
from lorakit.theory.known import KNOWN as KNOWN

# Words in a hub id that leave a model's shape as it is. "awq", "gptq", "4bit" and the like are not among them.
_TRAINING = r"-(instruct|it|pt|base|chat|thinking|reasoning|plus|2507|sft|dpo|hf)(?=-|$)"
_SAME = ((r"^meta-(?=llama)", ""), (r"^qwen2\.5-(coder|math)-", "qwen2.5-"), (r"-instruct-q4$", ""), (_TRAINING, ""))


class ConfigError(ValueError):
    """A model's config lacks a field, or describes an architecture whose shapes are not known here."""


def known_config(name: str) -> dict[str, Any]:
    """The numbers of a known model's Hugging Face config, `model_type` included (for `AutoConfig.for_model`).

    Args:
        name: in `KNOWN`, a hub id or pinned name of the same shape (`org/Llama-3.1-8B-Instruct@commit`), or the folder
            of a checkpoint.

    Raises:
        UnknownNameError: no known model.

    >>> known_config("meta-llama/Llama-3.1-8B-Instruct@0e9e39f")["hidden_size"]
    4096
    """
    if (config := checkpoint_config(name)) is not None:
        return config
    short = name.partition("@")[0].rpartition("/")[2].lower()
    if short not in KNOWN:
        for pattern, instead in _SAME:
            short = re.sub(pattern, instead, short)
    if short not in KNOWN:
        raise UnknownNameError(f"unknown shape {name!r}; {near(short, KNOWN)}known: {', '.join(sorted(KNOWN))}; "
                               "any other: pass its Hugging Face config or the loaded model")
    return dict(KNOWN[short])


def fields_of(config: Any) -> Mapping[str, Any]:
    """The fields of a config: a dict as in config.json, or an object with `to_dict`.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ConfigError(f"not a config: {type(config).__name__}; give a name, a dict, a config or a model")
    return config if isinstance(config, Mapping) else config.to_dict()


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
