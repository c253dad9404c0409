"""Bits that an adapter can hold, bits that a dataset carries, and the smallest rank that fits.

Counted: one number per weight, and the information of the label tokens given their prompts. Ignored: what the base
already knows (it lowers a text's bits, through `bits_per_token`), how many passes over the data storing takes, and
whether training finds the weights that hold it.
"""

from __future__ import annotations

import math

from lorakit.theory.shapes import ModelShape

BITS_PER_PARAMETER = 2.0


class CapacityError(ValueError):
    """A capacity question has an input outside its meaning, or no answer within the ranks that make sense."""


def _require(name: str, value: float, ok: bool, allowed: str) -> None:
    if not ok:
        raise CapacityError(f"{name}={value!r}; allowed: {allowed}")


def adapter_bits(parameters: int, bits_per_parameter: float = BITS_PER_PARAMETER) -> float:
    """Bits that `parameters` trained weights can hold: parameters · bits_per_parameter.

    Args:
        parameters: trainable weights, 0 or more.
        bits_per_parameter: 2 for knowledge seen about 1000 times in pre-training (Allen-Zhu & Li, arXiv 2404.05405);
            measured on whole models, not on adapters.

    >>> adapter_bits(17408)  # tiny, rank 4 on every linear layer
    34816.0
    """
    _require("parameters", parameters, parameters >= 0, "0 or more")
    _require("bits_per_parameter", bits_per_parameter, bits_per_parameter > 0, "a number above 0")
    return parameters * bits_per_parameter


def association_bits(pairs: int, symbols: int, length: int) -> float:
    """Exact entropy of random associations: each of `pairs` keys gets `length` symbols, drawn evenly and independently.

    bits = pairs · length · log2(symbols). The keys themselves are given in the prompt and cost nothing.

    >>> association_bits(pairs=100, symbols=16, length=8)  # 100 · 8 · 4
    3200.0
    """
    _require("pairs", pairs, pairs >= 1, "1 or more")
    _require("symbols", symbols, symbols >= 2, "2 or more (one symbol carries nothing)")
    _require("length", length, length >= 1, "1 or more")
    return pairs * length * math.log2(symbols)


def text_bits(tokens: int, bits_per_token: float = 1.0) -> float:
    """Bits in the label tokens of a text: tokens · bits_per_token, an upper bound of what there is to learn.

    Args:
        tokens: label tokens (completions), each counted once.
        bits_per_token: the base's loss before training in bits, nats / ln 2; the article reckons about 1.

    >>> text_bits(1000, 0.5)
    500.0
    """
    _require("tokens", tokens, tokens >= 0, "0 or more")
    _require("bits_per_token", bits_per_token, bits_per_token > 0, "a number above 0")
    return tokens * bits_per_token


def smallest_rank_that_holds(shape: ModelShape, bits: float, *, targets: str | tuple[str, ...] = "all-linear",
                             head: bool = False, experts: str | None = "peft",
                             bits_per_parameter: float = BITS_PER_PARAMETER) -> int:
    """Smallest rank whose adapter holds `bits`, useless weights (rank above a matrix's smaller side) not counted.

    Raises:
        CapacityError: even the adapter that reaches every update of its matrices holds less.

    >>> smallest_rank_that_holds(ModelShape.of("tiny"), 17409)  # one unit of rank: 4,352 weights, 8,704 bits
    3
    """
    _require("bits", bits, math.isfinite(bits) and bits >= 0, "a finite number of 0 or more")
    matrices = shape.adapted(targets, head, experts)
    if not matrices:
        raise CapacityError(f"targets={targets!r} adapt nothing on {shape.name}; for experts give experts='fused'")
    largest = max(min(m.d_out, m.d_in) for m in matrices)

    def held(rank: int) -> float:
        useful = sum(m.lora_parameters(rank) - m.wasted_parameters(rank) for m in matrices)
        return adapter_bits(useful, bits_per_parameter)

    if held(largest) < bits:
        raise CapacityError(f"{bits:,.0f} bits fit into no LoRA on these targets of {shape.name}: at rank {largest}, "
                            f"which reaches every update, it holds {held(largest):,.0f}; "
                            "adapt more matrices, or train all weights")
    low, high = 1, largest
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if held(middle) >= bits else (middle + 1, high)
    return low
