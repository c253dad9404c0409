"""Bits that an adapter can hold, bits that a dataset carries, and the smallest rank that fits.

Counted: one number per weight, and the information of the label tokens given their prompts. Ignored: what the base
already knows (it lowers a text's bits, through `bits_per_token`), how many passes over the data storing takes, and
whether training finds the weights that hold it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from lorakit.theory.reward import entropy
from lorakit.theory.shapes import ModelShape
from lorakit.theory.shown import InWords

BITS_PER_PARAMETER = 2.0  # what every default here reckons with
# How many times the smallest rank to take. On 49 public cells of 20 models (Tulu 3, 35 Mbit assumed; tinker-cookbook)
# the loss lay 1.5 % above the best where an adapter held 0.5 to 2 times the bits needed, 0.5 at 2 to 4, 0.3 at 4 to 8,
# and about 0 above; on copying by reward here, rank 1 to 8 (0.5 to 4 times) ended 8.7, 2.9, 1.2 and -0.2 points behind.
ADVISED = (4, 8)
BASELINE_RANK = 8  # "always rank 8", which was right as often as the smallest rank on four measured datasets


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
        bits_per_token: the base's loss before training in bits, nats / ln 2; Schulman et al. 2025 reckon about 1.

    >>> text_bits(1000, 0.5)
    500.0
    """
    _require("tokens", tokens, tokens >= 0, "0 or more")
    _require("bits_per_token", bits_per_token, bits_per_token > 0, "a number above 0")
    return tokens * bits_per_token


def episode_bits(episodes: int, *, success_rate: float | None = None, values: int = 2) -> float:
    """Bits that the rewards of `episodes` can tell a policy gradient, at most: episodes · H(reward).

    An upper bound: what an update learns of the task passes through the reward alone (Schulman et al. 2025).

    Args:
        episodes: sampled completions that were graded, 0 or more.
        success_rate: of a binary reward, 0 to 1, the same for every episode; None takes the largest entropy.
        values: rewards that are distinguished, 2 or more; log2(values) bits where `success_rate` is None.

    >>> episode_bits(10_000 * 32)  # the MATH example of Schulman et al. 2025
    320000.0
    >>> round(episode_bits(1, success_rate=0.01), 3)
    0.081
    """
    _require("episodes", episodes, episodes >= 0, "0 or more")
    _require("values", values, values >= 2, "2 or more (one value tells nothing)")
    if success_rate is None:
        return episodes * math.log2(values)
    _require("success_rate", success_rate, 0 <= success_rate <= 1, "0 to 1")
    return episodes * entropy((success_rate, 1 - success_rate))


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
        return adapter_bits(sum(m.useful_parameters(rank) for m in matrices), bits_per_parameter)

    if held(largest) < bits:
        raise CapacityError(f"{bits:,.0f} bits fit into no LoRA on these targets of {shape.name}: at rank {largest}, "
                            f"which reaches every update, it holds {held(largest):,.0f}; "
                            "adapt more matrices, or train all weights")
    return 1 + bisect_left(range(1, largest), bits, key=held)


@dataclass(frozen=True)
class RankAdvice(InWords):
    """The smallest rank that holds what is to be learnt, and the ranks to take.

    Args:
        rank: the smallest, the same for every adapted matrix: a floor.
        advised: from and to which rank to take, four to eight times the floor.
        bits_needed: of the data or the rewards, an upper bound.
        bits_held: by the adapter of the smallest rank.
        baseline_held: by an adapter of rank 8, which many take whatever the data.
        reason: the calculation in words.
    """

    rank: int
    advised: tuple[int, int]
    bits_needed: float
    bits_held: float
    baseline_held: float
    reason: str

    @property
    def margin(self) -> float:
        """Bits held at the smallest rank for each bit needed; 1 or more."""
        return self.bits_held / self.bits_needed if self.bits_needed else math.inf

    def __str__(self) -> str:
        low, high = self.advised
        ranks = f"rank {low}" if low == high else f"rank {low} to {high}"
        times = self.baseline_held / self.bits_needed if self.bits_needed else math.inf
        return (f"take {ranks}, four to eight times the smallest that holds them\n{self.reason}\n"
                f"baseline: always rank {BASELINE_RANK}, which would hold {times:.3g} times the bits needed, and was "
                "right as often as the smallest rank on four datasets")


def recommend_rank(model: Any, *, bits: float | None = None, tokens: int | None = None, episodes: int | None = None,
                   bits_per_token: float = 1.0, success_rate: float | None = None,
                   targets: str | tuple[str, ...] = "all-linear", head: bool = False, experts: str | None = "peft",
                   bits_per_parameter: float = BITS_PER_PARAMETER) -> RankAdvice:
    """The smallest LoRA rank that holds the information of a fine-tuning run (Schulman et al. 2025), and what to take.

    The smallest rank is a floor: storing takes many passes, and runs near it ended up to 2 % above the best loss. So
    four to eight times as much is advised. How far off the floor was on data that it was not made for, and how often a
    constant rank 8 was right instead, is part of what `RankAdvice` prints.

    Args:
        model: what `ModelShape.of` takes (a name, a config, a loaded model), or a `ModelShape`.
        bits: of the data, measured (`measure_dataset_bits`) or known. Give one of bits, tokens and episodes.
        tokens: label tokens (completions) of a supervised run, each counted once.
        episodes: graded completions of a reinforcement-learning run.
        bits_per_token: about 1 (Schulman et al. 2025); only with `tokens`.
        success_rate: of a binary reward, None for its maximum of one bit an episode; only with `episodes`.
        targets, head, experts: what is adapted, as in `ModelShape.adapted`.
        bits_per_parameter: 2 by Allen-Zhu & Li (arXiv 2404.05405). The Tinker primer's "parameters ≥ completion tokens"
            is `tokens` with 1, and lies below what is advised.

    Raises:
        CapacityError: none or several of bits, tokens, episodes; a value outside its meaning; or no rank holds as much.

    >>> recommend_rank("llama-3.1-8b", episodes=10_000 * 32).rank  # the MATH example of Schulman et al. 2025
    1
    >>> advice = recommend_rank("tiny", bits=8705)  # rank 1 has 4,352 weights and holds 8,704 bits
    >>> advice.rank, advice.advised
    (2, (8, 16))
    """
    given = {"bits": bits, "tokens": tokens, "episodes": episodes}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise CapacityError(f"given: {', '.join(named) or 'none'} of bits, tokens and episodes; give exactly one")
    if bits is not None:
        needed, source = float(bits), "the data carry"
    elif tokens is not None:
        unit = "bit" if bits_per_token == 1 else "bits"
        needed = text_bits(tokens, bits_per_token)
        source = f"{tokens:,} label tokens of {bits_per_token:g} {unit} carry"
    else:
        needed = episode_bits(episodes or 0, success_rate=success_rate)
        source = f"the rewards of {episodes:,} episodes tell at most"
    shape = model if isinstance(model, ModelShape) else ModelShape.of(model)
    rank = smallest_rank_that_holds(shape, needed, targets=targets, head=head, experts=experts,
                                    bits_per_parameter=bits_per_parameter)
    adapted = shape.adapted(targets, head, experts)

    def useful(rank: int) -> int:
        return sum(m.useful_parameters(rank) for m in adapted)

    held = adapter_bits(useful(rank), bits_per_parameter)
    largest = max(min(m.d_out, m.d_in) for m in adapted)
    low, high = (min(times * rank, largest) for times in ADVISED)
    reason = (f"{source} {needed:,.0f} bits; rank {rank} of {shape.name} has {useful(rank):,} weights and holds "
              f"{held:,.0f} at {bits_per_parameter:g} bits a weight")
    return RankAdvice(rank, (low, high), needed, held, adapter_bits(useful(BASELINE_RANK), bits_per_parameter), reason)
