"""How many bits a quantised base keeps of a weight, read from a config's `quantization_config`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.theory.configs import ConfigError, fields_of

LINEAR = ("attention", "mlp", "experts")  # the head, the embedding, norms and routers stay as they are
METHODS = ("bitsandbytes", "gptq", "awq", "mxfp4", "fp8", "compressed-tensors")
_LEFT_OUT = {"self_attn": "attention", "attn": "attention", "experts": "experts", "mlp": "mlp"}
_NEVER = ("lm_head", "embed_tokens", "router", "gate")  # and norms: not quantised in any case


@dataclass(frozen=True)
class Quantization:
    """What a quantised base keeps.

    Args:
        method: as the config calls it.
        bits: of one weight, its share of the scales included.
        components: whose matrices are quantised; all other weights stay in half precision.
    """

    method: str
    bits: float
    components: tuple[str, ...] = LINEAR

    def __str__(self) -> str:
        return f"{self.method}, {self.bits:.3g} bits a weight in {', '.join(self.components)}"


def read_quantization(config: Any, sparse: bool) -> Quantization | None:
    """The format that a `quantization_config` describes (a dict, or an object with `to_dict`); None without one.

    Bits by format: bitsandbytes 4 and one float32 scale for 64 weights (8 bits for 64 and one float32 for 16,384 with
    double quantisation), or 8; GPTQ and AWQ the bits and, for each group, a 16-bit scale and a zero; MXFP4 4 and an
    8-bit scale for 32 weights of the experts alone; fp8 8 and a float32 scale for a block.

    Args:
        config: the field's value.
        sparse: whether the model has experts.

    Raises:
        ConfigError: a format whose bits are not known here.

    >>> read_quantization({"quant_method": "bitsandbytes", "load_in_4bit": True}, False).bits
    4.5
    """
    if config is None:
        return None
    fields = fields_of(config)
    method = str(getattr(fields.get("quant_method"), "value", fields.get("quant_method") or "")).lower()
    if not method and (fields.get("load_in_4bit") or fields.get("load_in_8bit")):
        method = "bitsandbytes"  # older files leave the name out
    if method not in METHODS:
        raise ConfigError(f"quantization_config has quant_method={method or None!r}; its bits are known of "
                          f"{', '.join(METHODS)}; of any other price the half-precision config (leave the field out)")
    if method == "bitsandbytes":
        return Quantization(method, _bitsandbytes(fields, sparse), _kept(fields, "llm_int8_skip_modules"))
    if method == "mxfp4":
        return Quantization(method, 4 + 8 / 32, ("experts",))
    if method == "fp8":
        block = fields.get("weight_block_size")
        scales = 32 / (block[0] * block[1]) if block else 0.0
        return Quantization(method, 8 + scales, _kept(fields, "modules_to_not_convert"))
    if method == "compressed-tensors":
        return Quantization(method, _groups(fields), _kept(fields, "ignore"))
    bits, size = _number(fields, "bits"), _number(fields, "group_size", 128)
    scales = (16 + bits) / size if size > 0 else 0.0  # -1: one scale a row
    return Quantization(method, bits + scales, _kept(fields, "modules_to_not_convert"))


def _number(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value == 0:
        raise ConfigError(f"quantization_config has {name}={value!r}; allowed: a whole number, as in config.json")
    return value


def _bitsandbytes(fields: Mapping[str, Any], sparse: bool) -> float:
    if sparse:
        raise ConfigError("quantization_config: bitsandbytes replaces linear layers, and transformers 5 keeps experts "
                          "as one fused weight, which it leaves as it is; price the half-precision config")
    if fields.get("load_in_4bit") or fields.get("_load_in_4bit"):
        return 4 + (8 / 64 + 32 / (64 * 256) if fields.get("bnb_4bit_use_double_quant") else 32 / 64)
    if fields.get("load_in_8bit") or fields.get("_load_in_8bit"):
        return 8.0
    raise ConfigError("quantization_config of bitsandbytes asks for neither load_in_4bit nor load_in_8bit; give one")


def _groups(fields: Mapping[str, Any]) -> float:
    found = set()
    for group in (fields.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
        size = weights.get("group_size") or 0
        found.add(_number(weights, "num_bits") + (16 / size if size > 0 else 0.0))
    if len(found) != 1:
        raise ConfigError(f"quantization_config of compressed-tensors keeps {len(found)} widths of weights; known here "
                          "is one width for all linear layers; price the half-precision config")
    return float(found.pop())


def _kept(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The components that are quantised, given the modules that are not."""
    left = set()
    for module in fields.get(name) or ():
        words = [part for part in re.split(r"[^A-Za-z0-9_]+", str(module).removeprefix("re:")) if part]
        last = words[-1] if words else ""
        if last in _NEVER or last.endswith("norm"):
            continue
        if last not in _LEFT_OUT or any(word.isdigit() for word in words):
            raise ConfigError(f"quantization_config leaves {module!r} out; known here are whole kinds of layers "
                              f"({', '.join(_LEFT_OUT)}); price the half-precision config")
        left.add(_LEFT_OUT[last])
    return tuple(component for component in LINEAR if component not in left)
