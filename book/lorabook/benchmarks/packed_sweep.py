"""P7: a 16-point LoRA sweep on two cores, packed, against a pool of PEFT loops and against TRL, one run after another.

    python book/lorabook/benchmarks/packed_sweep.py small   # 131,072 parameters in linear layers, 2 × 64 tokens a step
    python book/lorabook/benchmarks/packed_sweep.py tiny    # the embedded model

Arms take turns (A B C A B C …), five rounds; start-up and imports are outside the clock, for every arm. The processes
of all arms have one thread. All arms see the same tokens in the same order; equal losses are asserted. The PEFT loop
comes twice, with AdamW as torch builds it by default and tuned (fused); so does TRL, with its default gradient
checkpointing and tuned (without). `vmap` is torch.func over stacked adapters, what one would write for a pack without
this engine. Of TRL's 16 runs four are timed a round, spread over the rates, and their time is
multiplied by four. The record goes to `book/lorabook/benchmarks/results`.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

from lorakit.records import Record, Store  # noqa: E402
from lorakit.specs import LoRASpec, SFTSpec, vary  # noqa: E402

ROUNDS, POINTS, RANK, BATCH, LENGTH = 5, 16, 8, 2, 64
STEPS = {"small": 100, "tiny": 50}
TRL_SHARE = 4
TOLERANCE = 2e-3  # nats, mean training loss of fp32 steps of Adam at stable rates


@dataclass(frozen=True)
class Benchmark:
    """What was timed; the `spec` of its record."""

    name: str
    fields: dict[str, Any]

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "benchmark", "name": self.name, **self.fields}


def model_name(which: str) -> str:
    """`tiny`, or the registered random model with 131,072 parameters in its linear layers."""
    if which == "tiny":
        return "tiny"
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lorakit.bases.models import byte_tokenizer, embedded_record, register_model

    torch.manual_seed(0)
    config = embedded_record("tiny")["config"] | {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2,
                                                 "num_key_value_heads": 2}
    return register_model("small", LlamaForCausalLM(LlamaConfig(**config)), byte_tokenizer())


def _load(spec: SFTSpec) -> tuple[Any, Any, Any]:
    import torch

    from lorakit.bases.models import load_model
    from lorakit.data.datasets import load_dataset
    from lorakit.data.tokens import tokenize

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if spec.model not in _cache:
        model, tokenizer = load_model(spec.model)
        _cache[spec.model] = (model, tokenizer, tokenize(load_dataset(spec.dataset), tokenizer, spec.max_length))
    return _cache[spec.model]


_cache: dict[str, Any] = {}


def packed(specs: list[SFTSpec]) -> list[float]:
    from lorakit.packed.engine import train_pack

    model, _, splits = _load(specs[0])
    return [float(r.curve["train_loss"][-1]) for r in train_pack(specs, model, splits)]


def peft_loop(specs: list[SFTSpec], fused: bool | None) -> list[float]:
    """A plain loop over PEFT models; `fused` is AdamW's, None its default."""
    import copy

    import torch

    from lorakit.adapters.peft_layers import attach
    from lorakit.data.tokens import order
    from lorakit.result import evaluation_steps

    base, _, splits = _load(specs[0])
    losses = []
    for spec in specs:
        model = attach(copy.deepcopy(base), spec.lora or LoRASpec(), spec.seed)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=0.0, fused=fused)
        rows = order(spec.seed, len(splits["train"]), spec.steps * spec.batch_size).view(spec.steps, -1)
        recent: list[float] = []
        for step in rows:
            loss = model(input_ids=splits["train"].input_ids[step], labels=splits["train"].labels[step],
                         use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent.append(loss.item())
        last = evaluation_steps(spec.steps, spec.evaluations)[-2]
        losses.append(sum(recent[last:]) / len(recent[last:]))
    return losses


def peft_tuned(specs: list[SFTSpec]) -> list[float]:
    return peft_loop(specs, fused=True)


def peft_default(specs: list[SFTSpec]) -> list[float]:
    return peft_loop(specs, fused=None)


def vmapped(specs: list[SFTSpec]) -> list[float]:
    """torch.func: one model, its adapters stacked, `vmap` over the gradients; AdamW by hand, a rate a configuration."""
    import copy

    import torch
    from torch.func import functional_call, grad_and_value, vmap

    from lorakit.adapters.peft_layers import attach
    from lorakit.data.tokens import order
    from lorakit.result import evaluation_steps

    base, _, splits = _load(specs[0])
    models = [attach(copy.deepcopy(base), spec.lora or LoRASpec(), spec.seed) for spec in specs]
    model, steps = models[0], specs[0].steps
    model.set_attn_implementation("eager")  # the fused attention has no rule for vmap, and would loop
    frozen = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()
              if not value.requires_grad}
    trained = {name: torch.stack([dict(one.named_parameters())[name].detach() for one in models])
               for name, value in model.named_parameters() if value.requires_grad}
    first, second = ({name: torch.zeros_like(value) for name, value in trained.items()} for _ in range(2))
    rates = torch.tensor([spec.learning_rate for spec in specs])
    rows = torch.stack([order(spec.seed, len(splits["train"]), steps * spec.batch_size).view(steps, -1)
                        for spec in specs])

    def loss_of(adapter: dict[str, torch.Tensor], ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional_call(model, frozen | adapter, kwargs={"input_ids": ids, "labels": labels,
                                                                "use_cache": False}).loss

    gradients, losses = vmap(grad_and_value(loss_of)), []
    for step in range(steps):
        found, loss = gradients(trained, splits["train"].input_ids[rows[:, step]],
                                splits["train"].labels[rows[:, step]])
        losses.append(loss)
        spec = specs[0]
        root = (1 - spec.beta2 ** (step + 1)) ** 0.5
        for name, gradient in found.items():
            first[name].lerp_(gradient, 1 - spec.beta1)
            second[name].mul_(spec.beta2).addcmul_(gradient, gradient, value=1 - spec.beta2)
            scale = (rates / (1 - spec.beta1 ** (step + 1))).view(-1, *[1] * (gradient.ndim - 1))
            trained[name].sub_(scale * first[name] / (second[name].sqrt() / root + spec.epsilon))
    last = evaluation_steps(steps, specs[0].evaluations)[-2]
    return [float(x) for x in torch.stack(losses[last:]).mean(0)]


def trl_runs(specs: list[SFTSpec], defaults: bool) -> list[float]:
    from lorakit.reference.sft import train_sft

    model, tokenizer, splits = _load(specs[0])
    return [float(train_sft(spec, model, tokenizer, splits, trl_defaults=defaults).curve["train_loss"][-1])
            for spec in specs]


def trl_tuned(specs: list[SFTSpec]) -> list[float]:
    return trl_runs(specs, defaults=False)


def trl_default(specs: list[SFTSpec]) -> list[float]:
    return trl_runs(specs, defaults=True)


def main(which: str) -> None:
    base = SFTSpec(model=model_name(which), dataset="real-text", learning_rate=1e-3, lora=LoRASpec(rank=RANK),
                   steps=STEPS[which], batch_size=BATCH, max_length=LENGTH, evaluations=2, evaluation_tokens=1)
    rates = [10 ** (-4 + i / (POINTS - 1)) for i in range(POINTS)]
    specs = vary(base, learning_rate=rates)
    halves = [specs[0::2], specs[1::2]]
    some = specs[::TRL_SHARE]
    arms = {"packed": (packed, halves), "vmap": (vmapped, halves), "peft_tuned": (peft_tuned, halves),
            "peft_default": (peft_default, halves), "trl_tuned": (trl_tuned, [some]),
            "trl_default": (trl_default, [some])}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    losses: dict[str, dict[str, float]] = {}
    with get_context("spawn").Pool(2) as pool:
        for function, parts in arms.values():  # imports, first touches: outside the clock
            pool.map(function, [part[:1] for part in parts], chunksize=1)
        for round_number in range(ROUNDS):
            for name, (function, parts) in arms.items():
                started = time.perf_counter()
                results = pool.map(function, parts, chunksize=1)
                factor = len(specs) / sum(len(part) for part in parts)
                seconds[name].append(factor * (time.perf_counter() - started))
                losses[name] = {s.id: x for part, result in zip(parts, results, strict=True)
                                for s, x in zip(part, result, strict=True)}
            took = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
            print(f"round {round_number + 1}: {took}", flush=True)
    for name, found in losses.items():
        worst = max(abs(losses["packed"][i] - x) for i, x in found.items())
        if worst > TOLERANCE:
            raise RuntimeError(f"{name} and packed disagree by {worst:.2g} nats: the arms do not train the same thing")
    metrics: dict[str, Any] = {}
    for name, values in seconds.items():
        metrics[f"{name}_seconds_median"] = statistics.median(values)
        ratios = [v / p for v, p in zip(values, seconds["packed"], strict=True)]
        metrics |= {f"{name}_over_packed_median": statistics.median(ratios), f"{name}_over_packed_low": min(ratios),
                    f"{name}_over_packed_high": max(ratios)}
    metrics["tokens_per_step"] = BATCH * LENGTH
    spec = Benchmark(f"packed-sweep-{which}", {
        "model": base.model, "rank": RANK, "points": POINTS, "steps": STEPS[which], "batch_size": BATCH,
        "max_length": LENGTH, "processes": 2, "threads": 1})
    import torch

    from lorakit.sweep.worker import device_name, versions

    provenance = {**versions(), "device": device_name("cpu"), "torch": torch.__version__}
    record = Record.from_run(spec, "ok", metrics, {"round": list(range(1, ROUNDS + 1)), **seconds}, provenance)
    Store("book/lorabook/benchmarks/results").append("cpu", "packed-sweep", record)
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "small")
