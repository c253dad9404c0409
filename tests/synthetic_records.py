"""Records of runs that never ran, with losses from a formula, so that a test knows what the study must find."""

import math
from dataclasses import replace

from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec

STEPS = [1, 2, 4, 8, 16, 32, 64, 128]
BASE = 3.0
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
METRICS = {"delta_norm": 0.02, "base_text_loss_before": 1.0, "base_text_loss_after": 1.03, "parameters": 360_000}


def jitter(*keys, size=0.002):
    """A small number that looks random, the same for the same keys."""
    return size * math.sin(sum((i + 1) * 12.9898 * float(key) for i, key in enumerate(keys)) * 43.7)


def curve_loss(rank, rate, seed, step, best=1e-3):
    """A U in log rate around `best`, falling with log steps, the same for all ranks but for a jitter."""
    progress = 1.5 * math.log(1 + step) / math.log(1 + STEPS[-1])
    wide = 1 - 0.15 * math.log10(rate / best) ** 2
    return BASE - progress * wide + 0.01 * seed + jitter(rank or 500, rate * 1e4, seed, step, size=0.002) * progress


def make(
    loss=curve_loss,
    *,
    ranks=(None, 1, 16, 64),
    rates=RATES,
    seeds=range(5),
    steps=tuple(STEPS),
    dataset="reworded-skills@1",
    model="base@1",
    metrics=None,
    status="ok",
):
    """One record for each rank (None: full fine-tuning), rate and seed."""
    records = []
    for rank in ranks:
        for rate in rates:
            for seed in seeds:
                spec = SFTSpec(learning_rate=rate, lora=rank and LoRASpec(rank=rank), model=model, dataset=dataset,
                               steps=steps[-1], seed=seed)
                losses = [BASE + 0.01 * seed, *(loss(rank, rate, seed, step) for step in steps)]
                diverged = not all(map(math.isfinite, losses))
                records.append(Record.from_run(
                    spec,
                    "diverged" if diverged else status,
                    {"base_test_loss": BASE, "base_validation_loss": BASE, **METRICS, **(metrics or {})},
                    {"step": [0, *steps], "tokens": [s * 256 for s in (0, *steps)],
                     "train_loss": losses, "validation_loss": losses, "test_loss": losses},
                    {"tokens": steps[-1] * 256, "date": "2026-01-01"},
                ))
    return records


def changed(record, **losses):
    """The record with the last values of some curve columns replaced, dated later."""
    curve = {name: [*column[:-1], losses.get(name, column[-1])] for name, column in record.curve.items()}
    return replace(record, curve=curve, provenance={**record.provenance, "date": "2026-02-01"})
