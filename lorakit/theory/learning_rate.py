"""Learning rates on paper: which settings train alike, what a setting is called elsewhere, and where to start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.theory.configs import ConfigFields, known_config


class LearningRateError(ValueError):
    """A learning-rate question has an input outside its meaning, or names a framework that is not known here."""


def _require(name: str, value: Any, ok: bool, allowed: str) -> None:
    if not ok:
        raise LearningRateError(f"{name}={value!r}; allowed: {allowed}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        _require(name, value, isinstance(value, int | float) and math.isfinite(value) and value > 0, "a number above 0")


@dataclass(frozen=True)
class Convention:
    """How a framework writes a LoRA setting: what it fixes, and what its alpha is divided by.

    Args:
        rank_power: the scale on B A is alpha / rank ** rank_power.
        alpha: the only alpha it allows, or None where it is free.
        learning_rate_b_ratio: LR_B / LR_A that it uses.
    """

    rank_power: float = 1.0
    alpha: float | None = None
    learning_rate_b_ratio: float = 1.0


CONVENTIONS: Mapping[str, Convention] = {
    "peft": Convention(),
    "trl": Convention(),
    "unsloth": Convention(),  # PEFT's arithmetic; what differs is the advice, alpha = rank or 2 rank
    "rslora": Convention(rank_power=0.5),
    "lora+": Convention(learning_rate_b_ratio=16.0),
    "tinker": Convention(alpha=32.0),  # not documented; the article's 32 is assumed
}


@dataclass(frozen=True)
class Translation:
    """A setting in another framework's words.

    Args:
        framework, alpha, learning_rate, learning_rate_b_ratio: what to set there; `learning_rate` is that of A.
        slopes_agree_at: the learning rate there that keeps alpha · init_A · LR_B, the first steps' slope.
        departures_agree_at: the one that keeps init_A / LR_A, the steps that A takes to leave its start.
        lost: None if both are kept, so that training is the same; else what is lost.
    """

    framework: str
    alpha: float
    learning_rate: float
    learning_rate_b_ratio: float
    slopes_agree_at: float
    departures_agree_at: float
    lost: str | None = None


def translate(framework: str, *, to: str, rank: int, learning_rate: float, alpha: float | None = None,
              learning_rate_b_ratio: float | None = None, init_a_scale: float = 1.0) -> Translation:
    """What a LoRA setting of one framework is in another: the same training, or the nearest that its knobs allow.

    Training with Adam depends on alpha, init_A, LR_A and LR_B through alpha · init_A · LR_B and init_A / LR_A alone
    (Schulman et al., doi 10.64434/tml.20250929). A framework with a free alpha reaches both; one that fixes alpha
    reaches one of them, and `learning_rate` is then the geometric middle, which keeps alpha · LR_A · LR_B.
    Exact without weight decay and gradient clipping and as far as Adam's epsilon is negligible: decay and epsilon
    would have to be scaled apart for A and B.

    Args:
        framework, to: `peft`, `trl`, `unsloth`, `rslora`, `lora+` or `tinker`.
        rank: the same on both sides.
        learning_rate: of A in `framework`.
        alpha: in `framework`; None where it fixes one.
        learning_rate_b_ratio: LR_B / LR_A in `framework`; None for its default (16 in LoRA+, else 1).
        init_a_scale: A's start over PEFT's U(±1/√d_in); on the other side it is 1.

    Raises:
        LearningRateError: an unknown framework, a number that is not above 0, or an alpha that a framework forbids.

    >>> translate("unsloth", to="rslora", rank=16, alpha=32, learning_rate=2e-4).alpha  # 32 / 16 = 8 / √16
    8.0
    >>> there = translate("lora+", to="peft", rank=16, alpha=32, learning_rate=1e-4)
    >>> there.alpha, there.learning_rate, there.lost is None
    (512.0, 0.0001, True)
    """
    source, target = _convention(framework), _convention(to)
    _require("rank", rank, isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1, "a whole number from 1")
    if source.alpha is not None:
        _require("alpha", alpha, alpha in (None, source.alpha), f"{source.alpha:g} or None, {framework} fixes it")
        alpha = source.alpha
    if alpha is None:
        raise LearningRateError(f"alpha=None; {framework} leaves alpha free, so say which one was used")
    ratio = source.learning_rate_b_ratio if learning_rate_b_ratio is None else learning_rate_b_ratio
    _positive(learning_rate=learning_rate, alpha=alpha, learning_rate_b_ratio=ratio, init_a_scale=init_a_scale)
    slope = alpha / rank**source.rank_power * init_a_scale * learning_rate * ratio
    departure = learning_rate / init_a_scale
    own = rank**target.rank_power / target.learning_rate_b_ratio  # alpha there that gives a scale · ratio of 1
    free = slope / departure * own
    if target.alpha is None or math.isclose(target.alpha, free, rel_tol=1e-9):
        return Translation(to, free, departure, target.learning_rate_b_ratio, departure, departure)
    by_slope = slope / target.alpha * own
    middle = math.sqrt(by_slope * departure)
    lost = (f"{to} fixes alpha at {target.alpha:g}, so that one degree of freedom is lost: the slope of the first "
            f"steps would need the learning rate {by_slope:.3g}, the departure of A from its start {departure:.3g}")
    return Translation(to, target.alpha, middle, target.learning_rate_b_ratio, by_slope, departure, lost)


def _convention(name: str) -> Convention:
    _require("framework", name, name in CONVENTIONS, ", ".join(CONVENTIONS))
    return CONVENTIONS[name]


REFERENCE_STEPS = 1000
WIDTH_POWERS = {"llama": 0.781, "qwen": 0.0775}  # of 2000 / hidden size, by model type; fitted on 14 models (Tinker)
FULL_AT_2000, LORA_OVER_FULL = 5e-5, 10.0
# Fitted on `tiny` with replayed reworded skills; the book's chapter on learning rates fits them anew and checks these.
# The rank had no measurable power between 1 and 64. The ratio of 3 and the powers of the length serve the embedded
# models alone: on SmolLM2-135M, of width 576, the ratio is about ten, and the powers would raise, for its 100 steps,
# rates that are too high already.
LORA_OVER_FULL_SMALL, SMALL = 3.0, 512
ALPHA_POWER, STEPS_POWER, FULL_STEPS_POWER = 0.4, 0.45, 0.6


@dataclass(frozen=True)
class Recommendation:
    """A learning rate to start from.

    Args:
        learning_rate: for a constant schedule and AdamW.
        sweep: three rates half a decade apart, the middle one being `learning_rate`.
        reason: where it comes from.
    """

    learning_rate: float
    sweep: tuple[float, float, float]
    reason: str


def recommend_learning_rate(model: Any, rank: int | None, alpha: float = 32.0, steps: int = 1000) -> Recommendation:
    """A learning rate to start from, for LoRA on all linear layers or, with rank None, for full fine-tuning.

    5e-5 · (2000 / hidden size)^P for full fine-tuning, ten times that for LoRA, with P of the Llama or the Qwen family:
    the fit of Schulman et al. (doi 10.64434/tml.20250929) in the tinker-cookbook, for alpha 32 and some 1000 steps.
    Measured by this package on its embedded model: a power of (32 / alpha), and none of the rank; and, used below a
    hidden size of 512 alone, three times instead of ten and a power of (1000 / steps). A start, not an answer: the book
    prints what it costs on runs that it was not fitted on.

    Args:
        model: a known name, a Hugging Face config (dict or object) or a loaded model.
        rank: of the adapters; None for full fine-tuning, where alpha has no meaning.
        alpha: in the scale alpha / rank.
        steps: optimizer steps of the whole run; they count below a hidden size of 512 alone.

    Raises:
        LearningRateError: a model type outside the two families, or a number that is not above 0.

    >>> round(recommend_learning_rate("llama-3.1-8b", None).learning_rate * 1e5, 2)  # 5 · (2000 / 4096) ** 0.781
    2.86
    >>> round(recommend_learning_rate("llama-3.1-8b", 32).learning_rate * 1e4, 2)
    2.86
    """
    _positive(alpha=alpha, steps=steps)
    _require("rank", rank, rank is None or (isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1),
             "a whole number from 1, or None for full fine-tuning")
    config = known_config(model) if isinstance(model, str) else getattr(model, "config", model)
    fields = ConfigFields(config if isinstance(config, Mapping) else config.to_dict())
    kind, hidden = fields("model_type"), fields.count("hidden_size")
    family = next((name for name in WIDTH_POWERS if name in kind), None)
    if family is None:
        raise LearningRateError(f"model_type={kind!r} is of no family with a published fit "
                                f"({', '.join(WIDTH_POWERS)}); sweep three rates around 5e-4 (LoRA) or 5e-5 (full)")
    rate = FULL_AT_2000 * (2000 / hidden) ** WIDTH_POWERS[family]
    reason = f"{FULL_AT_2000:g} · (2000 / {hidden})^{WIDTH_POWERS[family]:g} for full fine-tuning ({family})"
    small = hidden < SMALL
    if rank is not None:
        ratio = LORA_OVER_FULL_SMALL if small else LORA_OVER_FULL
        rate *= ratio * (32 / alpha) ** ALPHA_POWER
        reason += f", × {ratio:g} for LoRA of any rank, (32 / {alpha:g})^{ALPHA_POWER:g} for alpha"
    if small:
        power = FULL_STEPS_POWER if rank is None else STEPS_POWER
        rate *= (REFERENCE_STEPS / steps) ** power
        reason += f", (1000 / {steps})^{power:g} for the run's length"
    return Recommendation(rate, (rate / math.sqrt(10), rate, rate * math.sqrt(10)), reason)
