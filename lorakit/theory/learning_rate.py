"""Learning rates on paper: which settings train alike, what a setting is called elsewhere, and where to start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, overload

from lorakit.grpo_spec import GRPOSpec
from lorakit.theory.configs import ConfigFields, fields_of, known_config
from lorakit.theory.rl_settings import Settings, settings
from lorakit.theory.shapes import ModelShape
from lorakit.theory.shown import InWords


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
    "tinker": Convention(alpha=32.0),  # not documented; the 32 of Schulman et al. 2025 is assumed
}


@dataclass(frozen=True)
class Translation(InWords):
    """A setting in another framework's words.

    Args:
        framework, alpha, learning_rate, learning_rate_b_ratio: what to set there; `learning_rate` is that of A.
        slopes_agree_at: the learning rate there that keeps alpha · init_A · LR_B, the first steps' slope.
        departures_agree_at: the one that keeps init_A / LR_A, the steps that A takes to leave its start.
        lost: None if both stay, so that training is the same; else what is lost.
    """

    framework: str
    alpha: float
    learning_rate: float
    learning_rate_b_ratio: float
    slopes_agree_at: float
    departures_agree_at: float
    lost: str | None = None

    def __str__(self) -> str:
        several = self.learning_rate_b_ratio
        ratio = f", rate of B over that of A {several:g}" if several != 1 else ""
        return (f"{self.framework}: alpha {self.alpha:.4g}, learning rate {_rate(self.learning_rate)}{ratio}\n"
                f"lost: {self.lost or 'nothing'}")


def _rate(value: float) -> str:
    return f"{value:.2g}" if value >= 0.01 else f"{value:.1e}".replace("e-0", "e-")


@overload
def translate(framework: GRPOSpec, *, to: str) -> Settings: ...
@overload
def translate(framework: str, *, to: str, rank: int, learning_rate: float, alpha: float | None = None,
              learning_rate_b_ratio: float | None = None, init_a_scale: float = 1.0) -> Translation: ...
def translate(framework: Any, *, to: str, rank: Any = None, learning_rate: Any = None, alpha: float | None = None,
              learning_rate_b_ratio: float | None = None, init_a_scale: float = 1.0) -> Translation | Settings:
    """What a LoRA setting of one framework is in another: the same training, or the nearest that its knobs allow.

    A whole run of RL, a `GRPOSpec`, becomes the settings of a trainer for many GPUs: verl's command, or Python for
    TRL's AsyncGRPO, with what they know no setting for.

    Training with Adam depends on alpha, init_A, LR_A and LR_B through alpha · init_A · LR_B and init_A / LR_A alone
    (Schulman et al., doi 10.64434/tml.20250929). A framework with a free alpha reaches both; one that fixes alpha
    reaches one of them, and `learning_rate` is then the geometric middle, which keeps alpha · LR_A · LR_B.
    Exact without weight decay and gradient clipping and as far as Adam's epsilon is negligible: decay and epsilon
    would have to be scaled apart for A and B.

    Args:
        framework, to: `peft`, `trl`, `unsloth`, `rslora`, `lora+` or `tinker`. Of a spec, `to` is `verl` or
            `async-grpo`, and nothing else is given.
        rank: the same on both sides.
        learning_rate: of A in `framework`.
        alpha: in `framework`; None where it fixes one.
        learning_rate_b_ratio: LR_B / LR_A in `framework`; None for its default (16 in LoRA+, else 1).
        init_a_scale: A's start over PEFT's U(±1/√d_in); on the other side it is 1.

    Raises:
        LearningRateError: an unknown framework, a number that is not above 0, or an alpha that a framework forbids.
        ValueError: a spec that is not of RL, or another trainer than those.

    >>> translate("unsloth", to="rslora", rank=16, alpha=32, learning_rate=2e-4).alpha  # 32 / 16 = 8 / √16
    8.0
    >>> there = translate("lora+", to="peft", rank=16, alpha=32, learning_rate=1e-4)
    >>> there.alpha, there.learning_rate, there.lost is None
    (512.0, 0.0001, True)
    """
    if not isinstance(framework, str):
        return settings(framework, to)
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


# Fitted together on 110 public cells (32 models, ranks 1 to 128; thinking-machines-lab/tinker-cookbook 9dfcc3a,
# recipes/chat_sl/results/sft_sweep.md) and on SmolLM2-135M by `learning_rate_fit.py` in this repository.
LORA_AT_2000, WIDTH_POWER, RANK_POWER = 4.5e-4, 0.35, 0.2
LORA_OVER_FULL = 10.0  # over LoRA of rank 16; Schulman et al., and SmolLM2-135M
# Model types of that fit, by the beginning of their names; what is not among them gets a wider bracket.
FITTED = ("llama", "qwen3", "deepseek", "kimi", "nemotron", "gpt_oss", "smollm")
# Below this width: `tiny` with replayed reworded skills; `learning_rate_fit.py` fits these anew and checks
# them. The published power of the width for Llama (tinker-cookbook), no power of the rank, a ratio of 3, and powers of
# the run's length, which on SmolLM2-135M would raise rates that are high enough.
SMALL, SMALL_FULL_AT_2000, SMALL_WIDTH_POWER, LORA_OVER_FULL_SMALL = 512, 5e-5, 0.781, 3.0
ALPHA_POWER, STEPS_POWER, FULL_STEPS_POWER, REFERENCE_STEPS = 0.4, 0.45, 0.6, 1000
# By reward: a fifth of the supervised rate of rank 16 at every rank, full fine-tuning a quarter of that. Two bases had
# such rates: Qwen3-1.7B (9e-5 at rank 16, full 2e-5; Zhu 2025, one seed) and `tiny` (4.6e-4 at ranks 4 to 64, 1e-4).
RL_OVER_SUPERVISED, RL_LORA_OVER_FULL = 0.2, 4.0
TASKS = ("sft", "rl")


@dataclass(frozen=True)
class Recommendation(InWords):
    """A learning rate to start from.

    Args:
        learning_rate: for a constant schedule and AdamW.
        sweep: three rates to try, the middle one being `learning_rate`: half a decade apart, or a factor of five where
            the model's family was in no fit.
        reason: where it comes from.
        caveat: what it does not know.
    """

    learning_rate: float
    sweep: tuple[float, float, float]
    reason: str
    caveat: str

    def __str__(self) -> str:
        low, middle, high = map(_rate, self.sweep)
        return f"{middle}; sweep {low}, {middle}, {high}\nfrom {self.reason}\ncaveat: {self.caveat}"


def recommend_learning_rate(model: Any, rank: int | None, alpha: float = 32.0, steps: int = 1000,
                            task: str = "sft") -> Recommendation:
    """A learning rate to start from, for LoRA on all linear layers or, with rank None, for full fine-tuning.

    4.5e-4 · (2000 / hidden size)^0.35 · (rank / 16)^0.2 for LoRA of any family, a tenth of rank 16's for full
    fine-tuning. Regret, (loss - lowest loss) / lowest loss on test data, over the 110 public cells:

    ====================================  ========  ==========  =========
    rule                                  mean, %   median, %   most, %
    ====================================  ========  ==========  =========
    this one                              0.17      0.06        0.91
    this form, fitted without each model  0.19      0.06        1.08
    3e-4 for all                          0.32      0.13        2.61
    the tinker-cookbook's `get_lr`        0.54      0.28        3.47
    ====================================  ========  ==========  =========

    (`get_lr` knows Llama and Qwen; for other families 5e-4. On its own two families it costs 0.45, this one 0.19, the
    constant 0.33.) So a constant comes close; what the rule adds is the rank, whose best rate grows with its 0.2th
    power. SmolLM2-135M, at 128 tokens a step, took part in choosing the width's power; fitted without it, the form
    costs 0.62 there, the constant 1.10, `get_lr` 1.96. The public sweep has no full fine-tuning: a tenth is the
    published ratio, and loses 5 % of the improvement on SmolLM2-135M. The power of (32 / alpha) was measured on `tiny`
    alone, and so was all that holds below a hidden size of 512. On runs that no fit used (Qwen3-4B, 200 steps of 32,
    one seed; Zhu 2025) the best rates were half of these at ranks 1 and 16, a third at 256, 0.6 for full fine-tuning.
    A start, not an answer.

    By reward (GRPO), the two bases that were swept had a fifth of the supervised rate of rank 16 at every rank, and
    full fine-tuning a quarter of LoRA's.

    Args:
        model: a known name, a Hugging Face config (dict or object), a loaded model or a `ModelShape`.
        rank: of the adapters; None for full fine-tuning, where alpha has no meaning.
        alpha: in the scale alpha / rank.
        steps: optimizer steps of the whole run; they count below a hidden size of 512 alone.
        task: `sft` for supervised training, `rl` for training by reward.

    Raises:
        LearningRateError: a rank or a number that is not above 0, or another task.
        UnknownNameError: a name that is no known shape.
        ConfigError: a config without a hidden size.

    >>> round(recommend_learning_rate("llama-3.1-8b", 32).learning_rate * 1e4, 2)  # 4.5 · (2000 / 4096)^.35 · 2^.2
    4.02
    >>> round(recommend_learning_rate("llama-3.1-8b", None).learning_rate * 1e5, 2)
    3.5
    >>> round(recommend_learning_rate("llama-3.1-8b", 1, task="rl").learning_rate * 1e5, 2)  # a fifth of 3.5e-4
    7.0
    """
    _positive(alpha=alpha, steps=steps)
    _require("task", task, task in TASKS, " or ".join(TASKS))
    _require("rank", rank, rank is None or (isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1),
             "a whole number from 1, or None for full fine-tuning")
    kind, hidden = _kind_and_width(model)
    as_trained = 16 if task == "rl" else rank
    rate, reason = _small(hidden, as_trained, steps) if hidden < SMALL else _large(hidden, as_trained)
    if task == "rl":
        rate *= RL_OVER_SUPERVISED / (RL_LORA_OVER_FULL if rank is None else 1)
        reason += f", × {RL_OVER_SUPERVISED:g} by reward" + f", / {RL_LORA_OVER_FULL:g} for full fine-tuning" * (
            rank is None)
    if rank is not None:
        rate *= (32 / alpha) ** ALPHA_POWER
        reason += f", (32 / {alpha:g})^{ALPHA_POWER:g} for alpha"
    caveat = ("no term for the batch: no public sweep of it exists, and steps of 128 tokens and of some 50,000 get "
              "the same rule; no term for the schedule: a rate that decays may start higher")
    wide = math.sqrt(10)
    if not kind.startswith(FITTED):
        wide, caveat = 5.0, f"no model of type {kind!r} was in the fit, so the sweep is wider; {caveat}"
    return Recommendation(rate, (rate / wide, rate, rate * wide), reason, caveat)


def _kind_and_width(model: Any) -> tuple[str, int]:
    """The model_type and the hidden size, under the names that configs give it."""
    config = known_config(model) if isinstance(model, str) else getattr(model, "config", model)
    if isinstance(config, ModelShape):
        return config.name, config.hidden_size
    fields = fields_of(config)
    kind = str(fields.get("model_type") or "unknown")
    return kind, ConfigFields({**(fields.get("text_config") or {}), **fields}).count("hidden_size", "n_embd", "d_model")


def _large(hidden: int, rank: int | None) -> tuple[float, str]:
    rate = LORA_AT_2000 * (2000 / hidden) ** WIDTH_POWER
    reason = f"{LORA_AT_2000:g} · (2000 / {hidden})^{WIDTH_POWER:g} for LoRA of rank 16 (fitted on 33 models)"
    if rank is None:
        return rate / LORA_OVER_FULL, f"{reason}, / {LORA_OVER_FULL:g} for full fine-tuning"
    return rate * (rank / 16) ** RANK_POWER, f"{reason}, ({rank} / 16)^{RANK_POWER:g} for the rank"


def _small(hidden: int, rank: int | None, steps: int) -> tuple[float, str]:
    rate = SMALL_FULL_AT_2000 * (2000 / hidden) ** SMALL_WIDTH_POWER
    reason = f"{SMALL_FULL_AT_2000:g} · (2000 / {hidden})^{SMALL_WIDTH_POWER:g} for full fine-tuning of a small model"
    if rank is not None:
        rate *= LORA_OVER_FULL_SMALL
        reason += f", × {LORA_OVER_FULL_SMALL:g} for LoRA of any rank"
    power = FULL_STEPS_POWER if rank is None else STEPS_POWER
    return (rate * (REFERENCE_STEPS / steps) ** power,
            f"{reason}, ({REFERENCE_STEPS} / {steps})^{power:g} for the run's length")
