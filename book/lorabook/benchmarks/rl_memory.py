"""Peak memory of a GRPO step on SmolLM2, LoRA against full: the second figure of TRL's guide, measured here.

    python book/lorabook/benchmarks/rl_memory.py          # about ten core-minutes; needs SmolLM2 and reasoning-gym

Each arm is a run of its own spec with TRL (`train_grpo`) in a fresh process, with the C library told to give memory
back: a step samples, scores and learns. The peak is what the process held at most until the last step's end, less
what it held with the base loaded; the prediction is that of `lorakit.theory.memory` for a step on as many tokens.
Counts need no quiet machine. Records go to `book/results/cpu/rl-memory.jsonl`, one an arm and seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

from counts import GIVE_BACK, resident

from lorabook.benchmarks.measured import Measured
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, resolve_name

SMOLLM2, SHAPE = "smollm2-135m-instruct-q4", "smollm2-135m"
CASES = ((None, 3), (1, 3), (16, 1), (64, 1))  # rank and number of seeds: each samples other problems


@dataclass(frozen=True)
class Peak(Measured):
    """What was measured; the `spec` of its record."""

    kind = "rl-memory"
    model: str
    task: str
    rank: int | None
    prompts: int = 2
    group_size: int = 4
    completion: int = 24
    steps: int = 2
    seed: int = 0

    @property
    def lora(self) -> LoRASpec | None:
        return LoRASpec(rank=self.rank) if self.rank else None


def measure(one: Peak) -> dict[str, int]:
    """Bytes at the peak of sampling and learning in this process, over what it holds with the base alone."""
    import torch

    from lorakit.bases.models import load_model
    from lorakit.data.rl_tasks import encode_prompts, load_task
    from lorakit.data.tokens import order
    from lorakit.reference import grpo

    torch.set_num_threads(1)
    (model, tokenizer), task = load_model(one.model), load_task(one.task)
    spec = GRPOSpec(model=one.model, task=one.task, lora=one.lora, learning_rate=1e-6, steps=one.steps,
                    prompts_per_step=one.prompts, group_size=one.group_size, max_completion_length=one.completion,
                    evaluations=2, evaluation_problems=1, seed=one.seed)
    prompts = encode_prompts(task, "train", tokenizer, model.config.max_position_embeddings, one.completion)
    met = order(one.seed, len(prompts), one.steps * one.prompts).tolist()
    weights = sum(p.detach().mul(1.0).numel() * p.element_size() for p in model.parameters())  # read from the disk
    before, peaks = resident("VmRSS"), [0]

    class Watched(grpo.Episodes):
        def point(self, *arguments: Any) -> None:  # at a step's end, before the run measures its weights
            peaks.append(resident("VmHWM"))
            super().point(*arguments)

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
    with patch.object(grpo, "Episodes", Watched):
        grpo.train_grpo(spec, model, tokenizer, task)
    # the run trains a copy of the base, so the copy's weights are among what is counted
    return {"peak_bytes": max(peaks) - before, "weights": weights, "prompt_tokens": max(len(prompts[i]) for i in met)}


def predicted(one: Peak, prompt: int) -> dict[str, int]:
    """Parts of a training step on all completions at once, of which the head and the loss meet the completion only."""
    from lorakit.theory.memory import peak_bytes, training_bytes
    from lorakit.theory.shapes import ModelShape

    shape, rows = ModelShape.of(SHAPE), one.prompts * one.group_size
    parts = training_bytes(shape, one.lora, rows, prompt + one.completion)
    head = 4 * rows * prompt * next(m.d_out for m in shape.matrices if m.component == "head")
    parts |= {"activations": parts["activations"] - head, "logits": parts["logits"] - 2 * head}
    return {**{f"predicted_{name}": value for name, value in parts.items()}, "predicted_peak_bytes": peak_bytes(parts)}


def main() -> None:
    import torch

    from lorakit.sweep.worker import device_name, versions

    provenance = {**versions(), "device": device_name("cpu"), "torch": torch.__version__, "threads": 1}
    store = Store("book/results")
    asked = [Peak(resolve_name("models", SMOLLM2), resolve_name("tasks", "chain-sum"), rank, seed=seed)
             for rank, seeds in CASES for seed in range(seeds)]
    for one in store.missing(asked):
        done = subprocess.run([sys.executable, __file__, json.dumps(asdict(one))], env=os.environ | GIVE_BACK,
                              stdout=subprocess.PIPE, text=True, check=True)
        metrics = json.loads(done.stdout.splitlines()[-1])
        metrics |= predicted(one, metrics["prompt_tokens"])
        print(one.rank, one.seed, metrics, flush=True)
        store.append("cpu", "rl-memory", Record.from_run(one, "ok", metrics, {}, provenance))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Peak(**json.loads(sys.argv[1])))))
    else:
        main()
