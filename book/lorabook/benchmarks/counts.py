"""Counts of one training step: FLOPs, bytes of live tensors, and the process's peak memory; on tiny and SmolLM2.

    python book/lorabook/benchmarks/counts.py     # about two minutes; needs SmolLM2 (lorakit.load_model fetches it)

Counts are exact and need no quiet machine. The peak is that of a fresh process over three training steps with fused
AdamW, less what it held before them beside the weights: once as it comes (the C library keeps much of what is freed),
and once with the C library told to give memory back. Records go to `book/results/cpu/counts.jsonl`, one a model, arm
and recompute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from lorabook.benchmarks.measured import Measured
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, resolve_name

MODELS = {"tiny": "tiny", "smollm2-135m-instruct-q4": "smollm2-135m"}
RANKS = (None, 1, 4, 16, 64, 128)
PEAK_RANKS = (None, 1, 16)
TOKENS = (2, 64)
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Count(Measured):
    """What was counted; the `spec` of its record."""

    kind = "count"
    model: str
    shape: str
    rank: int | None
    recompute: bool
    batch_size: int
    length: int


def count(one: Count) -> dict[str, Any]:
    """FLOPs and live bytes of one step."""
    from lorabook.probes.measure import count_step
    from lorakit.bases.models import load_model

    lora = LoRASpec(rank=one.rank) if one.rank else None
    return count_step(load_model(one.model)[0], lora, one.batch_size, one.length, one.recompute)


def peak(one: Count) -> int:
    """Bytes at the peak of three training steps in this process, without what it held before beside the weights."""
    import torch

    from lorakit.adapters.peft_layers import attach
    from lorakit.bases.models import load_model

    torch.set_num_threads(1)
    model = load_model(one.model)[0].train()
    weights = sum(p.detach().mul(1.0).numel() * p.element_size() for p in model.parameters())  # read from the disk
    before = resident("VmRSS") - weights
    subject = attach(model, LoRASpec(rank=one.rank), 0) if one.rank else model
    optimizer = torch.optim.AdamW([p for p in subject.parameters() if p.requires_grad], lr=1e-6, fused=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
    ids = torch.randint(200, (one.batch_size, one.length))
    for _ in range(3):
        subject(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes that this process holds now (VmRSS), or held at most since the mark was reset (VmHWM). Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def record(one: Count, provenance: dict[str, Any]) -> Record:
    """Count a step, and where asked for measure the peak in two processes of their own."""
    metrics: dict[str, Any] = count(one)
    if one.shape != "tiny" and one.rank in PEAK_RANKS and not one.recompute:
        for name, setting in (("peak_bytes", {}), ("peak_bytes_given_back", GIVE_BACK)):
            done = subprocess.run([sys.executable, __file__, json.dumps(asdict(one))], env=os.environ | setting,
                                  capture_output=True, text=True, check=True)
            metrics[name] = int(done.stdout.splitlines()[-1])
    print(one.shape, one.rank, one.recompute, metrics, flush=True)
    return Record.from_run(one, "ok", metrics, {}, provenance)


def main() -> None:
    import torch

    from lorakit.sweep.worker import device_name, versions

    provenance = {**versions(), "device": device_name("cpu"), "torch": torch.__version__, "threads": 1}
    store = Store("book/results")
    for model, shape in MODELS.items():
        for recompute in (False, True):
            for rank in RANKS:
                one = Count(resolve_name("models", model), shape, rank, recompute, *TOKENS)
                store.append("cpu", "counts", record(one, provenance))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(Count(**json.loads(sys.argv[1]))))
    else:
        main()
