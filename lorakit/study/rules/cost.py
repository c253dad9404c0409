"""The rules of C11, counted FLOPs of a training step (exact, so no seeds), and of T2, the peak memory of an RL step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.specs import LoRASpec
from lorakit.study.evidence import FAILS, HOLDS, OPEN, Finding, Outcome, Scale
from lorakit.study.statistics import Interval, mean_interval
from lorakit.theory.compute import training_flops
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.records import Record, Store

COUNTS, RL_MEMORY = "counts", "rl-memory"  # the files of records that benchmarks/{counts,rl_memory}.py write
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
T2_RULE = (
    "Measured on a process; written after a first measurement with one seed. Two steps of GRPO on SmolLM2-135M with "
    "TRL's trainer, each arm and seed in a process of its own: peak resident memory beyond the loaded base. Rank 1's "
    "peak over full fine-tuning's, paired by seed (each meets other problems). Holds if the 95 % interval lies below "
    "1, does not hold if it lies above; otherwise inconclusive, also with fewer than three seeds."
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


def peaks_lower_in_rl(store: Store) -> list[tuple[Scale | None, Finding]]:
    """T2, by `T2_RULE`."""
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
    share = mean_interval([one[seed] / full[seed] for seed in both])
    reason = (f"Rank 1 peaks at {share.mean:.3f} ({share.low:.3f} to {share.high:.3f}) of full fine-tuning's "
              f"{sum(full[seed] for seed in both) / len(both) / 1e9:.2f} GB beyond the loaded base.")
    outcome: Outcome = HOLDS if share.high < 1 else FAILS if share.low > 1 else OPEN
    return [(scale, Finding(outcome, reason, "peak of rank 1 / full", share, seeds=len(both)))]
