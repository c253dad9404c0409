"""The rules of C11, counted FLOPs of a training step (exact, so no seeds), and of T2, the peak memory of an RL step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from lorabook.claims.claim import claim
from lorabook.claims.decisions import FAILS, OPEN, Finding, Limit, Unit, decide, exactly, over_seeds
from lorabook.claims.evidence import Scale
from lorabook.claims.regime import pretraining_facts
from lorabook.claims.step_cost import counts
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.records import Record, Store

COUNTS, RL_MEMORY = "counts", "rl-memory"  # files of records; benchmarks/{counts,rl_memory}.py write them
SLIGHTLY = 1 / 12  # two thirds and a twelfth are three quarters
LOW = 24  # a rank is low up to width / 24, where 2/3 + 2 R / N reaches 3/4

SHARE = Unit("", "", form=".3f")
FORMULA = Limit("largest difference of a count, full or of any rank, from the formula's", (-math.inf, 1),
                Unit(" %", "", form=".2g"))
LOW_RANKS = Limit("counted ratio of LoRA to full fine-tuning, mean of the low ranks (least to largest)",
                  (2 / 3 - SLIGHTLY, 2 / 3 + SLIGHTLY), SHARE)
PEAK = Limit("peak of rank 1 over full fine-tuning's", (-math.inf, 1), SHARE)


@claim("C11", source="schulman2025lora", chapter="04-cost", computed=True, corrected=False, limits=[LOW_RANKS, FORMULA],
       written="2026-11-22T03:17", files=(COUNTS,),
       scope="Matrix products of supervised training; the source leaves out attention scores. Operations, not time.")
def flops_ratio(store: Store) -> list[tuple[Scale | None, Finding]]:
    """with a rank far below the width, training with LoRA takes slightly more than two thirds of full fine-tuning's
    floating-point operations (2 N² + 6 N R multiply-adds for an N × N matrix against 3 N²)

    Counted, not timed, so that an interval is a number: FLOPs of all matrix products of one training step by torch's
    counter, without recompute, LoRA on every linear layer below the head against full fine-tuning, on each counted
    model, the largest first. The formula is the one with matrices that are not square, attention scores and head
    included. A rank is low up to 1/{LOW} of the hidden size. Inconclusive without a count of full fine-tuning and of
    two such ranks. Step time is no part of the claim, and is shown beside it.
    """
    models: dict[str, list[Record]] = {}
    for record in store.records("cpu", COUNTS):
        if not record.spec["recompute"]:
            models.setdefault(record.spec["model"], []).append(record)
    shapes = {model: ModelShape.of(records[0].spec["shape"]) for model, records in models.items()}
    order = sorted(models, key=lambda model: -shapes[model].parameters)
    return [(Scale("cpu", model, shapes[model].parameters, None, bool(pretraining_facts(model))),
             _judge(shapes[model], models[model])) for model in order]


def _judge(shape: ModelShape, records: list[Record]) -> Finding:
    width = next(m.d_in for m in shape.matrices if m.name == "q_proj")
    counted = counts(records).sort_values("rank")
    if "full" not in set(counted["arm"]):
        return Finding(OPEN, "Full fine-tuning was not counted.")
    ranks = counted.dropna(subset="rank")
    low = ranks.loc[ranks["rank"] <= width / LOW, "share"].tolist()
    if len(low) < 2:
        return Finding(OPEN, f"Only {len(low)} counted ranks are at most 1/{LOW} of the hidden size, {width}.")
    off = float(100 * counted["off"].abs().max())
    words = ", ".join(f"{row.arm} {row.share:.3f}" for row in ranks.itertuples())
    reason = (f"LoRA's counted FLOPs as a share of full fine-tuning's: {words}. Ranks up to {width // LOW} count as "
              f"low here; a square matrix of this width breaks even at rank {width // 6}.")
    span = exactly(sum(low) / len(low), min(low), max(low), len(low))
    found = decide([LOW_RANKS.measured("FLOPs of LoRA / full, low ranks", span), FORMULA.measured("", exactly(off))],
                   corrected=False, before=reason)
    return replace(found, outcome=FAILS) if found.outcome == OPEN else found  # counts leave nothing open


@claim("T2", source="trl2025lora", chapter="09-grpo", computed=True, corrected=False, limits=[PEAK],
       written="2026-11-22T07:58", files=(RL_MEMORY,), why="It was written after a first measurement with one seed.",
       scope="SmolLM3-3B; the guide shows the memory of one run of each.")
def peaks_lower_in_rl(store: Store) -> list[tuple[Scale | None, Finding]]:
    """an RL step with LoRA of rank 1 peaks at less memory than one of full fine-tuning

    Measured on a process; written after a first measurement with one seed. Two steps of GRPO on SmolLM2-135M with
    TRL's trainer, each arm and seed in a process of its own: peak resident memory beyond the loaded base, paired by
    seed (each meets other problems). Inconclusive also with fewer than three seeds.
    """
    peaks: dict[int | None, dict[int, float]] = {}
    weights = 0.0
    for record in store.records("cpu", RL_MEMORY):
        peaks.setdefault(record.spec["rank"], {})[record.spec["seed"]] = float(record.metrics["peak_bytes"] or 0)
        model, weights = record.spec["model"], float(record.metrics["weights"] or 0)
    full, one = peaks.get(None, {}), peaks.get(1, {})
    both = sorted(full.keys() & one.keys())
    if not both:
        return []
    scale = Scale("cpu", model, int(weights / 4), None)
    if len(both) < 3:
        return [(scale, Finding(OPEN, f"Needs 3 seeds, has {len(both)}.", seeds=len(both)))]
    share = PEAK.measured("peak of rank 1 / full", over_seeds([one[seed] / full[seed] for seed in both]))
    beyond = sum(full[seed] for seed in both) / len(both) / 1e9
    return [(scale, decide([share], before=f"Full fine-tuning peaks at {beyond:.2f} GB beyond the loaded base.",
                           seeds=len(both)))]
