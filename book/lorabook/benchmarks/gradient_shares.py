"""Shares of the tangent kernel by component, on base models before any training; three draws of tokens each.

    python book/lorabook/benchmarks/gradient_shares.py     # about three minutes; needs SmolLM2

Records go to `book/results/cpu/gradient-shares.jsonl`, one a model, dataset, adapter and draw; what exists is kept.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

from lorabook.benchmarks.measured import Measured
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, resolve_name

SMOLLM2 = "smollm2-135m-instruct-q4"
REPLAY, TEXT = ("reworded-skills-replay", 40), ("real-text", 64)
DRAWS = 3


@dataclass(frozen=True)
class Shares(Measured):
    """Whose gradients were split, and on what; the `spec` of a record. Without `targets`: those of the base."""

    kind = "gradient shares"
    model: str
    dataset: str
    length: int
    tokens: int
    seed: int
    targets: str | None = None
    rank: int | None = None


def wanted() -> list[Shares]:
    """Every base that the chapter looks at; SmolLM2 with fewer tokens, since each costs a pass through all of it."""
    found = []
    for name, (dataset, length), tokens, adapter in (
            *(("tiny", data, 256, a) for data in (REPLAY, TEXT) for a in ((None, None), ("all-linear", 16))),
            *(("tiny-moe", REPLAY, 256, a) for a in ((None, None), ("attention+experts", 16))),
            *((name, REPLAY, 256, (None, None)) for name in ("tiny-w64-s0", "tiny-w128-s1", "tiny-w128-s2")),
            (SMOLLM2, TEXT, 16, (None, None))):
        model, data = resolve_name("models", name), resolve_name("datasets", dataset)
        found += [Shares(model, data, length, tokens, seed, *adapter) for seed in range(DRAWS)]
    return found


def measure(one: Shares) -> Record:
    """The record of one draw."""
    from lorabook.probes.gradient_shares import gradient_shares
    from lorakit.bases.models import load_model
    from lorakit.data.datasets import load_dataset
    from lorakit.data.tokens import tokenize
    from lorakit.sweep.worker import device_name, versions

    started = time.process_time()
    model, tokenizer = load_model(one.model)
    train = tokenize(load_dataset(one.dataset), tokenizer, one.length)["train"]
    lora = LoRASpec(rank=one.rank, targets=one.targets) if one.rank and one.targets else None
    shares = gradient_shares(model, train, one.tokens, one.seed, lora).set_index("component")
    metrics = {f"{component} {name}": value for component, row in shares.iterrows() for name, value in row.items()}
    provenance = {**versions(), "device": device_name("cpu"), "seconds": round(time.process_time() - started, 1)}
    return Record.from_run(one, "ok", metrics, {}, provenance)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    store = Store("book/results")
    for one in store.missing(wanted()):
        store.append("cpu", "gradient-shares", measure(one))
        print(one, flush=True)
