"""The rules of the claims on layers and experts: evidence in, finding out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from lorabook.claims.claim import claim
from lorabook.claims.datasets import by_data
from lorabook.claims.decisions import FAILS, HOLDS, OPEN, PERCENT, UNTESTED, Finding, Limit, decide, paired
from lorabook.claims.evidence import Evidence, Scale
from lorabook.claims.rank import ARTICLE, PER_CENT, by_seed, improvement
from lorabook.claims.regime import SKILLS, regime_of
from lorakit.analysis.curves import best_rate_by_validation
from lorakit.analysis.statistics import Interval, Size
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.analysis.sweep import Sweep
    from lorakit.records import Store

MATCHED = 0.05  # arms whose weights differ by no more than this share are compared as equally large
CLOSE = 0.1
FAMILIES = (("attention", "mlp", "all-linear"), ("attention+head", "mlp+head", "all-linear+head"),
            ("attention", "experts", "attention+experts"))
MIXTURE = "qwen3-30b-a3b"
MADE_UP = (*SKILLS, "copy")  # skills for a small model, of which no source speaks

BY_DATA = ("The worst dataset decided, so that more datasets meant more refutations: each has its own verdict now, and "
           "natural data count as what the source speaks of.")

APART = Limit("test loss of attention alone minus the MLP alone with equally many adapter weights, in % of full "
              "fine-tuning's improvement over the base", (0, math.inf), PERCENT, outside=(PER_CENT, math.inf))
ADDED = Limit("test loss of the MLP alone minus the MLP and attention, the MLP at the same rank in both, in % of the "
              "same", (-math.inf, PER_CENT), PERCENT)
QUESTIONS = {"apart": APART, "added": ADDED}


def pairs(metrics: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """What C6 compares among the arms of one dataset: (question, arm, arm).

    The questions are "apart" (attention alone − MLP alone) and "added" (MLP alone − MLP and attention).

    Args:
        metrics: of `runs`, with the number of trained `parameters`.
    """
    arms = metrics.groupby("arm")[["targets", "rank", "expert_rank", "parameters"]].first()
    for attention, mlp, both in FAMILIES:
        for one, row in arms[arms["targets"] == mlp].iterrows():
            near = (arms["parameters"] / row["parameters"] - 1).abs() <= MATCHED
            yield from (("apart", str(other), str(one)) for other in arms[near & (arms["targets"] == attention)].index)
            same = arms["expert_rank" if mlp == "experts" else "rank"] == row["rank"]
            yield from (("added", str(one), str(other)) for other in arms[same & (arms["targets"] == both)].index)


def contrasts(curves: pd.DataFrame, metrics: pd.DataFrame,
              size: Size = "record") -> tuple[dict[tuple[str, str], Limit], Interval]:
    """C6's comparisons on one model and dataset, by question and label; full fine-tuning's improvement in nats.

    Raises:
        GridEdgeError: at the record size, a best rate at the edge of its grid.
    """
    best = best_rate_by_validation(curves, size)
    gain = improvement(by_seed(best, "full"), metrics)
    return {(question, f"{a} − {b}"): QUESTIONS[question].measured(
        f"{a} − {b}", paired(by_seed(best, a), by_seed(best, b), 100 / gain.mean))
        for question, a, b in pairs(metrics)}, gain


def questions(sweep: Sweep) -> dict[str, Interval]:
    """C6's two comparisons of one model and dataset, without the head, in % of full fine-tuning's improvement."""
    found, _ = contrasts(sweep.curves, sweep.runs, sweep.size)
    return {question: limit.span for (question, arms), limit in found.items() if "head" not in arms}


def kernel_shares(store: Store) -> pd.DataFrame:
    """What each component has of a base's weights and of its tangent kernel, means over the recorded draws of tokens.

    Returns:
        One row a base, dataset and component, each share 0 to 1: `weights`; `trace` and `sum` of the kernel; `adapter`,
        the trace over the weights of an adapter at its start, missing where none was measured.
    """
    names = {"parameter_share": "weights", "kernel_share": "trace", "gradient_share": "sum"}
    rows = []
    for record in store.records("cpu", "gradient-shares"):
        for metric, value in record.metrics.items():
            component, _, share = metric.partition(" ")
            name = names.get(share) if record.spec["rank"] is None else {"kernel_share": "adapter"}.get(share)
            rows += [(*(record.spec[key].partition("@")[0] for key in ("model", "dataset")), component, name, value)]
    frame = pd.DataFrame(rows, columns=["base", "dataset", "component", "share", "value"]).dropna()
    return frame.pivot_table("value", ["base", "dataset", "component"], "share", sort=False)


@claim("C6", source=ARTICLE, chapter="05-layers", experiments=("layers", "moe"), limits=[APART, ADDED],
       written="2026-11-22T03:00", changed="2026-11-26", why=BY_DATA,
       scope="Llama-3.1-8B and Qwen3-30B-A3B (rank 256 against 128) in supervised fine-tuning, and in RL on MATH; all "
       "arms with the head.")
def mlp_carries_it(evidence: Evidence) -> Finding:
    """attention alone does worse than the MLP alone even with equally many weights, and adding attention to the MLP
    gains nothing

    Data: every dataset of the experiments; the regime gate is reported and bars nothing. Each arm at its own best
    learning rate by mean validation loss, read on test data at the last step, paired by seed; once with the head
    adapted in all arms and once without, wherever both were run; in a mixture of experts the experts stand for the MLP.
    Equally many adapter weights: within {MATCHED:.0%}. Inconclusive also if full fine-tuning's improvement is not
    clearly above zero. Without a pair for each quantity: not tested. Each dataset has a verdict; where a limit holds on
    one and is refuted on another, the claim depends on the data; otherwise natural data decide, where there are any.
    """
    return by_data({name: _layers(*evidence.of(name), evidence.peak_learning_rate) for name in evidence.datasets},
                   MADE_UP)


def _layers(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None) -> Finding:
    if {question for question, *_ in pairs(metrics)} != {"apart", "added"}:
        return Finding(UNTESTED, "Attention and MLP were not run with equally many weights, apart and together.")
    found, gain = contrasts(curves, metrics)
    regime = str(regime_of(curves, metrics, peak_rate))
    if gain.low <= 0:
        return Finding(OPEN, "Full fine-tuning did not clearly improve on the base.", regime=regime)
    return decide(list(found.values()), regime=regime)


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


@claim("C7", source=ARTICLE, chapter="13-experts", computed=True, written="2026-11-22T03:00",
       scope="Mixtures of experts; Qwen3-30B-A3B with 8 active experts.")
def same_ratio(store: Store) -> Sequence[tuple[Scale | None, Finding]]:
    """an adapter for each expert, of the total rank divided by the number of active experts, keeps the ratio of adapter
    weights to full weights the same as in other layers

    Counted, not trained, from the shape of the article's mixture, Qwen3-30B-A3B; the embedded mixture beside it. Ratio:
    adapter weights over base weights. Every expert has an adapter on its gate, up and down projections, of the total
    rank divided by the number of active experts. Its ratio is divided by the ratio that the total rank gives (a) the
    attention matrices of the same model, and (b) a dense MLP with as many weights as the active experts of a layer.
    Holds if one of the two quotients lies within {CLOSE:.0%} of 1, since the source does not say which other layers it
    means; does not hold if neither does. The rule is arithmetic, so it was not blind.
    """
    return [_same_ratio(profile, ModelShape.of(name), name != MIXTURE)
            for profile, name in (("paper", MIXTURE), ("cpu", "tiny-moe"))]


def _same_ratio(profile: str, shape: ModelShape, embedded: bool = False) -> tuple[Scale, Finding]:
    found = expert_ratios(shape, 1 / (shape.active_experts or 1))
    same = [name for name, value in found.items() if abs(value - 1) <= CLOSE]
    words = " and ".join(f"{value:.2f} of that of {name}" for name, value in found.items())
    reason = f"With the total rank divided by {shape.active_experts} active experts, an expert's ratio is {words}."
    scale = Scale(profile, shape.name, shape.parameters, None, embedded)
    return scale, Finding(HOLDS if same else FAILS, reason)
