"""How long a training step takes, full and LoRA, plain PEFT and packed: why fewer FLOPs need not mean less time.

    python book/lorabook/benchmarks/step_time.py             # five rounds, about ten minutes: on a quiet machine
    python book/lorabook/benchmarks/step_time.py --rounds 1  # a rehearsal

One thread, float32. The arms of a model take turns, a round each, and each starts anew from the base: one step to warm
up, then the timed ones (the median of a round counts). Plain arms are timed by phase; the operations that they dispatch
are counted in a step of its own. A packed arm trains several configurations and is charged its share. Records go to
`book/results/cpu/step-time.jsonl`, one an arm, with the load of the machine before the first round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from lorabook.benchmarks.measured import Measured
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec, resolve_name

TINY, SMOLLM2 = "tiny", "smollm2-135m-instruct-q4"
# model, sequences, tokens of each, timed steps a round, configurations of a pack (0: no packed arm)
CASES = ((TINY, 2, 64, 30, 8), (TINY, 32, 64, 8, 0), (SMOLLM2, 2, 64, 3, 1), (SMOLLM2, 8, 64, 1, 0))
RANKS = (None, 1, 16, 128)


@dataclass(frozen=True)
class Timing(Measured):
    """What was timed; the `spec` of its record."""

    kind = "step-time"
    model: str
    engine: str
    rank: int | None
    configurations: int
    batch_size: int
    length: int
    steps: int
    rounds: int


def _lora(one: Timing) -> LoRASpec | None:
    return LoRASpec(rank=one.rank) if one.rank else None


def plain(one: Timing) -> dict[str, Any]:
    """Seconds of a step and of its phases, and the operations dispatched, of transformers with PEFT and AdamW."""
    import torch

    from lorakit.adapters.peft_layers import attach
    from lorakit.bases.models import load_model

    model = load_model(one.model)[0].train()
    lora = _lora(one)
    subject = attach(model, lora, 0) if lora else model
    optimizer = torch.optim.AdamW([p for p in subject.parameters() if p.requires_grad], lr=1e-6, fused=True)
    ids = torch.randint(200, (one.batch_size, one.length))

    def step() -> list[float]:
        marks = [time.perf_counter()]
        loss = subject(input_ids=ids, labels=ids, use_cache=False).loss
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        return [b - a for a, b in pairwise(marks)]

    step()
    phases = [step() for _ in range(one.steps)]
    middle = statistics.median(sum(phase) for phase in phases)
    forward, backward, update = (statistics.median(column) for column in zip(*phases, strict=True))
    with _operations() as counter:
        step()
    return {"seconds": middle, "forward": forward, "backward": backward, "update": update, "operations": counter.count}


def _operations() -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    return Counter()


def packed(one: Timing) -> dict[str, Any]:
    """Seconds of a step of the packed engine, divided by its configurations."""
    import torch

    from lorakit.bases.models import load_model
    from lorakit.packed.model import PackedModel

    specs = [SFTSpec(model=one.model, learning_rate=1e-6 * (k + 1), lora=_lora(one)) for k in range(one.configurations)]
    ids = torch.randint(200, (one.configurations, one.batch_size, one.length))
    seconds = []
    with PackedModel(load_model(one.model)[0], specs) as pack:
        for _ in range(one.steps + 1):
            started = time.perf_counter()
            sums, counts = pack.loss_sums(ids, ids)
            (sums / counts).sum().backward()
            pack.optimizer.step()
            seconds.append((time.perf_counter() - started) / one.configurations)
    return {"seconds": statistics.median(seconds[1:])}


def main(rounds: int) -> None:
    import torch

    from lorakit.sweep.worker import device_name, versions

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    load = os.getloadavg()[0]
    found: dict[Timing, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for model, batch_size, length, steps, configurations in CASES:
            for engine in ("plain", "packed") if configurations else ("plain",):
                for rank in RANKS:
                    several = configurations if engine == "packed" else 1
                    pinned = resolve_name("models", model)
                    one = Timing(pinned, engine, rank, several, batch_size, length, steps, rounds)
                    found.setdefault(one, []).append((plain if engine == "plain" else packed)(one))
                    print(number + 1, model, batch_size, engine, rank, found[one][-1], flush=True)
    provenance = {**versions(), "device": device_name("cpu"), "torch": torch.__version__, "threads": 1, "load": load}
    store = Store("book/results")
    for one, results in found.items():
        curve = {"round": list(range(1, rounds + 1)),
                 **{name: [result[name] for result in results] for name in results[0] if name != "operations"}}
        seconds = curve["seconds"]
        metrics = {"seconds": statistics.median(seconds), "low": min(seconds), "high": max(seconds),
                   "operations": results[0].get("operations")}
        store.append("cpu", "step-time", Record.from_run(one, "ok", metrics, curve, provenance))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
