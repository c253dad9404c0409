"""The rule of C11: counted FLOPs of a training step, LoRA against full fine-tuning. Exact, so no seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.specs import LoRASpec
from lorakit.study.evidence import FAILS, HOLDS, OPEN, Finding, Scale
from lorakit.study.statistics import Interval
from lorakit.theory.compute import training_flops
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.records import Record, Store

COUNTS = "counts"  # the file of records that benchmarks/counts.py writes
TOLERANCE = 0.01
SLIGHTLY = 1 / 12  # two thirds and a twelfth are three quarters
LOW = 24  # a rank is low up to width / 24, where 2/3 + 2 R / N reaches 3/4

C11_RULE = (
    "Counted, not timed: FLOPs of all matrix products of one training step by torch's counter, without recompute, LoRA "
    "on every linear layer below the head against full fine-tuning, on each counted model. Holds if (a) every count, "
    f"full and of every rank, lies within {TOLERANCE:.0%} of the formula's, with matrices that are not square, "
    "attention scores and head included, and (b) at every counted rank up to 1/24 of the hidden size the counted ratio "
    "of LoRA to full lies within 1/12 of 2/3, that is between 0.583 and 0.75. Does not hold if a count or a ratio lies "
    "outside. Inconclusive without a count of full fine-tuning and of two such ranks. Step time is no part of the "
    "claim, and is shown beside it."
)


def flops_ratio(store: Store) -> list[tuple[Scale | None, Finding]]:
    """C11 on each model with counts, the largest first."""
    models: dict[str, list[Record]] = {}
    for record in store.records("cpu", COUNTS):
        if not record.spec["recompute"]:
            models.setdefault(record.spec["model"], []).append(record)
    shapes = {model: ModelShape.of(records[0].spec["shape"]) for model, records in models.items()}
    order = sorted(models, key=lambda model: -shapes[model].parameters)
    return [(Scale("cpu", model, shapes[model].parameters, None), _judge(shapes[model], models[model]))
            for model in order]


def _judge(shape: ModelShape, records: list[Record]) -> Finding:
    width = next(m.d_in for m in shape.matrices if m.name == "q_proj")
    counted = {record.spec["rank"]: float(record.metrics["flops"] or 0) for record in records}
    off = {rank: abs(flops / _formula(shape, records, rank) - 1) for rank, flops in counted.items()}
    if None not in counted:
        return Finding(OPEN, "Full fine-tuning was not counted.")
    ratios = {rank: flops / counted[None] for rank, flops in sorted(counted.items(), key=lambda item: item[0] or 0)
              if rank is not None}
    low = [ratio for rank, ratio in ratios.items() if rank <= width / LOW]
    if len(low) < 2:
        return Finding(OPEN, f"Only {len(low)} counted ranks are at most 1/{LOW} of the hidden size, {width}.")
    good = max(off.values()) <= TOLERANCE and all(abs(ratio - 2 / 3) <= SLIGHTLY for ratio in low)
    words = ", ".join(f"rank {rank} {ratio:.3f}" for rank, ratio in ratios.items())
    reason = (f"LoRA's counted FLOPs as a share of full fine-tuning's: {words}. The formula is off by "
              f"{100 * max(off.values()):.2g} % at most. Ranks up to {width // LOW} count as low here; a square matrix "
              f"of this width breaks even at rank {width // 6}.")
    return Finding(HOLDS if good else FAILS, reason, "FLOPs of LoRA / full, low ranks",
                   Interval(sum(low) / len(low), min(low), max(low), len(low)))


def _formula(shape: ModelShape, records: list[Record], rank: int | None) -> float:
    spec = next(record.spec for record in records if record.spec["rank"] == rank)
    per_token = training_flops(shape, LoRASpec(rank=rank) if rank else None, spec["length"])
    return sum(per_token.values()) * float(spec["batch_size"]) * float(spec["length"])
