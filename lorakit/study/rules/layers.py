"""The rules of the claims on layers and experts, each fixed before its records: evidence in, finding out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from lorakit.study.curves import best_rate_by_validation
from lorakit.study.evidence import (
    FAILS,
    HOLDS,
    OPEN,
    UNTESTED,
    Evidence,
    Finding,
    Outcome,
    Scale,
    combine,
    percent_text,
)
from lorakit.study.regime import regime_of
from lorakit.study.rules.rank import MARGIN
from lorakit.study.statistics import Interval, Size, paired_difference
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.records import Store

MATCHED = 0.05  # arms whose weights differ by no more than this share are compared as equally large
CLOSE = 0.1
FAMILIES = (("attention", "mlp", "all-linear"), ("attention+head", "mlp+head", "all-linear+head"),
            ("attention", "experts", "attention+experts"))
MIXTURE = "qwen3-30b-a3b"

C6_RULE = (
    "Data: every dataset of the experiments; the regime gate is reported and bars nothing. Each arm at its own best "
    "learning rate by mean validation loss, read on test data at the last step, paired by seed; once with the head "
    "adapted in all arms and once without, wherever both were run; in a mixture of experts the experts stand for the "
    f"MLP. Margin: {MARGIN:.0%} of full fine-tuning's mean improvement over the base. (a) Attention alone minus MLP "
    f"alone, with equally many adapter weights (within {MATCHED:.0%}). (b) MLP alone minus MLP and attention, the MLP "
    "at the same rank in both. Holds if every 95 % interval of (a) lies above zero and every one of (b) lies below the "
    "margin. Does not hold if, at 95 % after Bonferroni's correction over all these intervals, one of (a) lies below "
    "the margin while its 95 % interval reaches zero (attention alone is as good, or better), or one of (b) lies above "
    "the margin (attention adds something). Otherwise inconclusive, also if full fine-tuning's improvement is not "
    "clearly above zero. With no pair of (a) or of (b): not tested."
)
C7_RULE = (
    "Counted, not trained, from the shape of the article's mixture, Qwen3-30B-A3B; the embedded mixture beside it. "
    "Ratio: adapter weights over base weights. Every expert has an adapter on its gate, up and down projections, of "
    "the total rank divided by the number of active experts. Its ratio is divided by the ratio that the total rank "
    "gives (a) the attention matrices of the same model, and (b) a dense MLP with as many weights as the active "
    f"experts of a layer. Holds if one of the two quotients lies within {CLOSE:.0%} of 1, since the source does not "
    "say which other layers it means; does not hold if neither does. The rule is arithmetic, so it was not blind."
)


@dataclass(frozen=True)
class Contrast:
    """Two arms at their best rates: `a` minus `b` in test loss by seed, in nats per label token.

    `question` is "apart" (attention alone − MLP alone) or "added" (MLP alone − MLP and attention).
    """

    question: str
    a: str
    b: str
    difference: dict[int, float]

    def interval(self, unit: float, confidence: float = 0.95) -> Interval:
        """In per cent of `unit`."""
        zero = dict.fromkeys(self.difference, 0.0)
        return paired_difference(self.difference, zero, confidence).scaled(100 / unit)


def pairs(metrics: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """What C6 compares among the arms of one dataset: (question, arm, arm).

    Args:
        metrics: of `runs`, with the number of trained `parameters`.
    """
    arms = metrics.groupby("arm")[["targets", "rank", "parameters"]].first()
    for attention, mlp, both in FAMILIES:
        for one, (_, rank, weights) in arms[arms["targets"] == mlp].iterrows():
            for other, size in arms.loc[arms["targets"] == attention, "parameters"].items():
                if abs(size / weights - 1) <= MATCHED:
                    yield "apart", str(other), str(one)
            for other, total in arms.loc[arms["targets"] == both, "rank"].items():
                if str(other).endswith(f", expert rank {rank:.0f}") if mlp == "experts" else total == rank:
                    yield "added", str(one), str(other)


def contrasts(curves: pd.DataFrame, metrics: pd.DataFrame, size: Size = "record") -> tuple[list[Contrast], Interval]:
    """The comparisons of C6 on one model and dataset, and full fine-tuning's improvement over the base in nats.

    Raises:
        GridEdgeError: at the record size, a best rate at the edge of its grid.
    """
    best = best_rate_by_validation(curves, size)
    loss = best.pivot(index="seed", columns="arm", values="test_loss")
    full = loss["full"].to_dict()
    gain = paired_difference(dict.fromkeys(full, float(metrics["base_test_loss"].mean())), full)
    return [Contrast(question, a, b, (loss[a] - loss[b]).to_dict()) for question, a, b in pairs(metrics)], gain


def mlp_carries_it(evidence: Evidence) -> Finding:
    """C6, by `C6_RULE`."""
    return combine({name: _layers(*evidence.of(name), evidence.peak_learning_rate) for name in evidence.datasets})


def _layers(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None) -> Finding:
    if {question for question, *_ in pairs(metrics)} != {"apart", "added"}:
        return Finding(UNTESTED, "Attention and MLP were not run with equally many weights, apart and together.")
    found, gain = contrasts(curves, metrics)
    regime = str(regime_of(curves, metrics, peak_rate))
    if gain.low <= 0:
        return Finding(OPEN, "Full fine-tuning did not clearly improve on the base.", regime=regime)
    strict = 1 - 0.05 / len(found)
    margin = 100 * MARGIN
    outcomes = [_outcome(c.question, c.interval(gain.mean), c.interval(gain.mean, strict), margin) for c in found]
    order = (FAILS, OPEN, HOLDS)
    outcome = min(outcomes, key=order.index)
    shown = found[outcomes.index(outcome)]
    words = "; ".join(f"{c.a} − {c.b}: {percent_text(c.interval(gain.mean))}" for c in found)
    reason = f"Difference in test loss, in % of full fine-tuning's improvement (margin {MARGIN:.0%}): {words}."
    effect = f"{shown.a} − {shown.b}, % of full's improvement"
    return Finding(outcome, reason, effect, shown.interval(gain.mean), regime)


def _outcome(question: str, interval: Interval, strict: Interval, margin: float) -> Outcome:
    if question == "apart":
        return HOLDS if interval.low > 0 else FAILS if strict.high < margin else OPEN
    return HOLDS if interval.high < margin else FAILS if strict.low > margin else OPEN


def expert_ratios(shape: ModelShape, share: float) -> dict[str, float]:
    """How an expert's adapter weights over base weights compare with those of other layers, which have the full rank.

    Args:
        shape: of a model with experts.
        share: rank of an expert's adapter over the total rank, such as 1 / active experts.

    Returns:
        quotients of the two ratios: against `attention`, and against `a dense MLP` with the active experts' weights.

    >>> expert_ratios(ModelShape.of("qwen3-30b-a3b"), 1 / 8)["a dense MLP"]  # (d + m) / (d + k m), 2816 / 8192
    0.34375
    """
    if shape.experts is None or shape.active_experts is None:
        raise ValueError(f"{shape.name} has no experts; give the shape of a mixture, such as {MIXTURE}")
    base = shape.parameters_by_component
    expert = share * shape.lora_parameters(1, (), experts="separate")["experts"] / base["experts"]
    attention = shape.lora_parameters(1, "attention", experts=None)["attention"] / base["attention"]
    fused = next(m for m in shape.matrices if m.name == "gate_up_proj")
    inner = shape.active_experts * fused.d_out // 2
    dense = (fused.d_in + inner) / (fused.d_in * inner)
    return {"attention": expert / attention, "a dense MLP": expert / dense}


def same_ratio(store: Store) -> Sequence[tuple[Scale | None, Finding]]:
    """C7, by `C7_RULE`; reads no record."""
    return [_same_ratio(profile, ModelShape.of(name)) for profile, name in (("paper", MIXTURE), ("cpu", "tiny-moe"))]


def _same_ratio(profile: str, shape: ModelShape) -> tuple[Scale, Finding]:
    found = expert_ratios(shape, 1 / (shape.active_experts or 1))
    same = [name for name, value in found.items() if abs(value - 1) <= CLOSE]
    words = " and ".join(f"{value:.2f} of that of {name}" for name, value in found.items())
    reason = f"With the total rank divided by {shape.active_experts} active experts, an expert's ratio is {words}."
    return Scale(profile, shape.name, shape.parameters, None), Finding(HOLDS if same else FAILS, reason)
