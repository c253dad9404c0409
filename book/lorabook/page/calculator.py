"""The calculator of *What to do*: what it answers, and what a browser needs to answer the same without a server.

`advise` is the reference: it asks `lk.recommend_rank`, `lk.recommend_learning_rate` and `lk.estimate` and adds no
arithmetic but the choice of a power of two and of the cheapest pass. `book/_static/calculator.js` holds the same
formulas over the numbers of `browser_data`; a test compares both on hundreds of questions in a real browser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from lorakit.specs import LoRASpec, SFTSpec
from lorakit.theory import capacity, estimate, learning_rate, memory
from lorakit.theory.configs import known_config
from lorakit.theory.hardware import GPUS
from lorakit.theory.known import KNOWN
from lorakit.theory.shapes import ModelShape

ALPHA = 32
MODELS = tuple(sorted(name for name in KNOWN if not name.startswith("tiny")))
BATCH = {"sft": 32, "rl": 128}  # sequences; by reward 16 prompts with 8 samples each
SAMPLES, FEW_STEPS, FEW_PROMPTS = 8, 100, 8
FOUR_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}
# What a question may hold: least, most, and what to call it.
LIMITS: dict[str, tuple[int, int, str]] = {
    "amount": (1, 10**12, "label tokens or episodes"), "length": (16, 131_072, "tokens of a sequence"),
    "batch": (1, 4096, "sequences of a step"), "rank": (1, 65_536, "rank"), "width": (64, 65_536, "width"),
    "layers": (1, 400, "layers"), "vocabulary": (100, 1_000_000, "vocabulary"),
}


class CalculatorError(ValueError):
    """A question that has no answer; the message says what would have one."""


@dataclass(frozen=True)
class Question:
    """What a reader asks.

    Args:
        model: of `MODELS`, or None for a Llama-type model of `width`, `layers` and `vocabulary`.
        task: `sft` or `rl`.
        amount: label tokens of the data (sft), or episodes, prompts times samples (rl).
        gpu: of `lorakit.theory.hardware.GPUS`.
        length: tokens of a sequence, prompt included.
        batch: sequences of a step; None for `BATCH`.
        rank: None for the advised one.
        four_bit: price a base of 4 bits a weight (QLoRA).
        width, layers, vocabulary: of a model that is not in the list; the width a multiple of 64.
    """

    model: str | None = "qwen3-4b"
    task: str = "sft"
    amount: int = 20_000_000
    gpu: str = "H100"
    length: int = 1024
    batch: int | None = None
    rank: int | None = None
    four_bit: bool = False
    width: int | None = None
    layers: int | None = None
    vocabulary: int | None = None

    def check(self) -> None:
        """Refuse what has no meaning.

        >>> Question(amount=0).check()
        Traceback (most recent call last):
        ...
        lorabook.page.calculator.CalculatorError: label tokens or episodes: 0; allowed: 1 to 1,000,000,000,000
        """
        own = ("width", "layers", "vocabulary") if self.model is None else ()
        optional = [name for name in ("batch", "rank") if getattr(self, name) is not None]
        for name in ("amount", "length", *optional, *own):
            value, (low, high, words) = getattr(self, name), LIMITS[name]
            if not isinstance(value, int) or not low <= value <= high:
                raise CalculatorError(f"{words}: {value}; allowed: {low:,} to {high:,}")
        if self.task == "rl" and self.batch and self.batch % SAMPLES:
            raise CalculatorError(f"sequences of a step: {self.batch}; allowed by reward: a multiple of {SAMPLES}")
        if self.width and self.width % 64:
            raise CalculatorError(f"width: {self.width}; allowed: a multiple of 64")

    def config(self) -> dict[str, Any]:
        """Of the model: known, or Llama's proportions (MLP 3.5 times the width, a quarter of the heads for keys)."""
        if self.model is not None:
            return known_config(self.model)
        width = self.width or 0
        head = 128 if width % 128 == 0 else 64
        return {"model_type": "llama", "hidden_size": width, "intermediate_size": 7 * width // 2,
                "num_hidden_layers": self.layers, "num_attention_heads": width // head, "head_dim": head,
                "num_key_value_heads": max(1, width // head // 4), "vocab_size": self.vocabulary,
                "tie_word_embeddings": False}


@dataclass(frozen=True)
class Plan:
    """How to fit a run on the card, and what it takes: of `lk.estimate`."""

    micro_batch: int
    recompute: bool
    fits: bool
    needed: int
    parts: dict[str, int]
    seconds: float
    cost: float | None


@dataclass(frozen=True)
class Advice:
    """The answer, as the page prints it."""

    floor: int
    rank: int
    bits_needed: float
    bits_held: float
    smallest_side: int
    rate: float
    sweep: tuple[float, float, float]
    full_rate: float
    batch: int
    steps: int
    lora: Plan
    full: Plan
    smallest_gpu: str | None


def chosen(advice: capacity.RankAdvice) -> int:
    """The largest power of two within the advised ranks, four to eight times the floor (or their upper end).

    >>> chosen(capacity.recommend_rank("llama-3.1-8b", episodes=320_000))
    8
    """
    low, high = advice.advised
    power = 2 ** int(math.log2(high))
    return power if power >= low else high


def advise(question: Question) -> Advice:
    """What to set for a question, and what it takes on the card.

    Raises:
        CalculatorError, CapacityError, ConfigError: nonsense, or more than any LoRA holds, in words.
    """
    question.check()
    config = question.config()
    shape = ModelShape.of(config)
    batch = question.batch or BATCH[question.task]
    sides = [min(m.d_out, m.d_in) for m in shape.adapted()]
    if question.rank and question.rank > max(sides):
        raise CalculatorError(f"rank {question.rank:,} is above {max(sides):,}, the most that a matrix of this model "
                              "has")
    of_run = {"tokens" if question.task == "sft" else "episodes": question.amount}
    found = capacity.recommend_rank(shape, **of_run)  # type: ignore[arg-type]
    rank = question.rank or chosen(found)
    steps = -(-question.amount // (batch * (question.length if question.task == "sft" else 1)))
    named = {**config, "model_type": config["model_type"] if question.model else "unknown"}
    rate = learning_rate.recommend_learning_rate(named, rank, ALPHA, steps, question.task)
    full_rate = learning_rate.recommend_learning_rate(named, None, ALPHA, steps, question.task).learning_rate
    held = capacity.adapter_bits(sum(m.useful_parameters(rank) for m in shape.adapted()))
    spec = SFTSpec(model="mine@0", dataset="mine@0", learning_rate=1e-4, lora=LoRASpec(rank=rank, alpha=ALPHA),
                   steps=steps, batch_size=batch, max_length=question.length, dtype="bfloat16")
    base = ModelShape.of({**config, "quantization_config": FOUR_BIT}) if question.four_bit else shape
    lora = cheapest(base, spec, question.gpu)
    full = cheapest(shape, replace(spec, lora=None), question.gpu)
    return Advice(found.rank, rank, found.bits_needed, held, min(sides), rate.learning_rate, rate.sweep, full_rate,
                  batch, steps, lora, full, None if lora.fits else smallest_gpu(lora.needed))


def cheapest(shape: ModelShape, spec: SFTSpec, gpu: str) -> Plan:
    """The smallest pass within a hundredth of the fastest that fits; where none fits, the one that needs least.

    A pass has a power of two of sequences that divides the batch, or all of them.
    """
    passes = sorted({m for m in (2**power for power in range(13)) if spec.batch_size % m == 0} | {spec.batch_size})
    plans = []
    for recompute in (False, True):
        for micro in passes:
            found = estimate.estimate(shape, replace(spec, micro_batch=micro), gpu, recompute=recompute)
            plans.append(Plan(micro, recompute, found.fits, found.needed, found.memory, found.seconds, found.cost))
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return min(plans, key=lambda plan: plan.needed)
    fastest = min(plan.seconds for plan in fitting)
    return min((plan for plan in fitting if plan.seconds <= 1.01 * fastest), key=lambda plan: plan.needed)


def smallest_gpu(needed: int) -> str | None:
    """The card with the least memory that would hold so many bytes."""
    holding = [gpu for gpu in GPUS.values() if needed <= estimate.USABLE * gpu.bytes]
    return min(holding, key=lambda gpu: gpu.bytes).name if holding else None


def browser_data() -> dict[str, Any]:
    """Every number that `calculator.js` reckons with: shapes, cards, and the constants of the formulas."""
    quantised = ModelShape.of({**known_config("qwen3-4b"), "quantization_config": FOUR_BIT}).quantization
    law, spec = learning_rate, SFTSpec(model="mine@0", dataset="mine@0", learning_rate=1e-4)
    return {
        "models": {name: browser_shape(name) for name in MODELS},
        "gpus": {gpu.name: [gpu.flops, gpu.bytes_per_second, gpu.bytes, gpu.price_per_hour, gpu.price_source]
                 for gpu in GPUS.values()},
        "limits": LIMITS, "batch": BATCH, "alpha": ALPHA, "samples": SAMPLES,
        "advised": capacity.ADVISED, "fewSteps": FEW_STEPS, "fewPrompts": FEW_PROMPTS,
        "bitsPerParameter": capacity.BITS_PER_PARAMETER, "fourBit": quantised.bits if quantised else None,
        "evaluationTokens": spec.evaluation_tokens * (spec.evaluations + 1) * 2,
        "usable": estimate.USABLE, "mfu": estimate.MFU, "hostSeconds": estimate.HOST_SECONDS,
        "updatePasses": estimate.UPDATE_PASSES, "contextBytes": memory.CONTEXT_BYTES,
        "rate": {"loraAt2000": law.LORA_AT_2000, "width": law.WIDTH_POWER, "rank": law.RANK_POWER,
                 "loraOverFull": law.LORA_OVER_FULL, "fitted": law.FITTED, "small": law.SMALL,
                 "smallFull": law.SMALL_FULL_AT_2000, "smallWidth": law.SMALL_WIDTH_POWER,
                 "smallRatio": law.LORA_OVER_FULL_SMALL, "alpha": law.ALPHA_POWER, "steps": law.STEPS_POWER,
                 "fullSteps": law.FULL_STEPS_POWER, "reference": law.REFERENCE_STEPS,
                 "rl": law.RL_OVER_SUPERVISED, "rlRatio": law.RL_LORA_OVER_FULL},
    }


def browser_shape(name: str) -> dict[str, Any]:
    """A known model's matrices, and which of them PEFT's all-linear adapts (index, factor on the rank)."""
    shape = ModelShape.of(name)
    keys = [(m.component, m.name) for m in shape.matrices]
    return {"kind": known_config(name)["model_type"], "width": shape.hidden_size, "layers": shape.layers,
            "query": shape.query_size, "key": shape.key_size, "inner": shape.inner_size, "head": shape.head_dim,
            "norms": shape.norms, "headNorms": shape.head_norms, "experts": shape.experts or 1,
            "active": shape.active_experts or 1, "tied": shape.tied, "vectors": sum(shape.vectors.values()),
            "matrices": [[m.component, m.name, m.d_out, m.d_in, m.count] for m in shape.matrices],
            "adapted": [[keys.index((m.component, m.name)), m.rank_factor] for m in shape.adapted()]}
