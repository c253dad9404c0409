"""Counts of one training step: FLOPs, bytes of live tensors, and the process's peak memory; on tiny and SmolLM2.

    python benchmarks/counts.py          # about two minutes; needs SmolLM2 (lorakit.load_model fetches it)

Counts are exact and need no quiet machine. The peak is that of a fresh process that trains three steps, less what the
process held before it loaded the model; a C library keeps freed memory, so it is an upper bound. Records go to
`book/results/cpu/counts.jsonl`, one a model, arm and recompute.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, resolve_name

MODELS = {"tiny": "tiny", "smollm2-135m-instruct-q4": "smollm2-135m"}
RANKS = (None, 1, 4, 16, 64, 128)
PEAK_RANKS = (None, 1, 16)
SHAPE = {"tiny": (2, 64), "smollm2-135m-instruct-q4": (2, 64)}


@dataclass(frozen=True)
class Count:
    """What was counted; the `spec` of its record."""

    model: str
    shape: str
    rank: int | None
    recompute: bool
    batch_size: int
    length: int

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "count", **asdict(self)}


def count(one: Count) -> dict[str, Any]:
    """FLOPs and live bytes of one step."""
    from lorakit.train.measure import count_step
    from lorakit.train.models import load_model

    lora = LoRASpec(rank=one.rank) if one.rank else None
    return count_step(load_model(one.model)[0], lora, one.batch_size, one.length, one.recompute)


def peak(one: Count) -> int:
    """Bytes at the peak of three training steps in this process, above what it held before the model came."""
    import torch

    from lorakit.train.adapters import attach
    from lorakit.train.models import load_model

    torch.set_num_threads(1)
    load_model("tiny")  # imports and first touches
    before = resident()
    model = load_model(one.model)[0].train()
    subject = attach(model, LoRASpec(rank=one.rank), 0) if one.rank else model
    optimizer = torch.optim.AdamW([p for p in subject.parameters() if p.requires_grad], lr=1e-6)
    ids = torch.randint(200, (one.batch_size, one.length))
    for _ in range(3):
        subject(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def resident() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main() -> None:
    import torch

    from lorakit.train.worker import device_name, versions

    provenance = {**versions(), "device": device_name("cpu"), "torch": torch.__version__, "threads": 1}
    store = Store("book/results")
    for model, shape in MODELS.items():
        for recompute in (False, True):
            for rank in RANKS:
                one = Count(resolve_name("models", model), shape, rank, recompute, *SHAPE[model])
                metrics: dict[str, Any] = count(one)
                if shape != "tiny" and rank in PEAK_RANKS and not recompute:
                    command = [sys.executable, __file__, json.dumps(asdict(one))]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    metrics["peak_bytes"] = int(done.stdout.splitlines()[-1])
                store.append("cpu", "counts", Record.from_run(one, "ok", metrics, {}, provenance))
                print(shape, rank, recompute, metrics, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(Count(**json.loads(sys.argv[1]))))
    else:
        main()
