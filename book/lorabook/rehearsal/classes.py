"""Classes of specs: all that differ in seed, rate, rank, alpha and steps alone; and what a rehearsal runs of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorabook import experiments
from lorabook.experiments import SIZES
from lorakit.specs import AnySpec
from lorakit.sweep.call import check_engine

LONGEST_RUN = 10**6  # steps of a class's own description: more than any warm-up
STEPS = 2
# What a rehearsal cuts, besides the width and depth of the base: how much there is of it, and never what it is.
MOST: dict[str, int] = {
    "evaluations": 2, "evaluation_tokens": 256, "final_evaluation_tokens": 512, "batch_size": 2, "accumulation": 2,
    "max_length": 384, "prompts_per_step": 2, "group_size": 4, "max_completion_length": 8, "evaluation_problems": 4,
    "final_evaluation_problems": 6, "format_steps": 1,
}


@dataclass(frozen=True)
class SpecClass:
    """Specs of a profile that differ in seed, rate, rank, alpha and steps alone.

    Args:
        key: 16 hex digits of the hash of all other fields, and of the engine.
        profile: `gpu` or `paper`.
        engine: that the experiments name for them.
        specs: all of them, each once.
        experiments: names of those that they belong to.
        probes: that these make with each run.
    """

    key: str
    profile: str
    engine: str
    specs: tuple[AnySpec, ...]
    experiments: tuple[str, ...]
    probes: tuple[str, ...]

    @property
    def first(self) -> AnySpec:
        """One of them."""
        return self.specs[0]

    @property
    def vllm(self) -> bool:
        """Whether vLLM samples for them."""
        return bool(self.first.use_vllm)

    def arms(self) -> list[tuple[str, AnySpec]]:
        """What is run of them, cut by `cut`, each with its engine.

        The smallest rank with two seeds, the largest with recompute in the smallest micro-batches, and the smallest
        with TRL as well, where TRL can train it. Where vLLM samples, one run.
        """
        low, high = (min(self.specs, key=_rank), max(self.specs, key=_rank))
        if self.vllm:
            return [(self.engine, cut(low))]
        other = cut(high)
        saving = replace(other, seed=2, recompute=True, micro_batch=getattr(other, "group_size", 1))
        runs = [(self.engine, cut(low)), (self.engine, replace(cut(low), seed=1)), (self.engine, saving)]
        return runs + ([("trl", cut(low))] if self.engine != "trl" and trained_by_trl(low) else [])


def _rank(spec: AnySpec) -> int:
    return spec.lora.rank if spec.lora else 0


def cut(spec: AnySpec) -> AnySpec:
    """The spec for two steps and at most `MOST` of what it has much of; all else is as it was."""
    fields = {name: min(most, value) for name, most in MOST.items()
              if (value := getattr(spec, name, None)) is not None}
    warmup = min(spec.warmup, 1) if isinstance(spec.warmup, int) else spec.warmup
    return replace(spec, steps=STEPS, seed=0, warmup=warmup, micro_batch=None, **fields)


def trained_by_trl(spec: AnySpec) -> bool:
    """Whether TRL trains such a run: it adapts neither the head nor fused experts."""
    return spec.lora is None or not ("experts" in spec.lora.targets or "+head" in str(spec.lora.targets))


def spec_classes(profile: str) -> list[SpecClass]:
    """Every class of a profile's specs, of both sizes, in the experiments' order.

    Raises:
        ValueError: a spec that its engine cannot run; TypeError, SpecError: one that is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, experiment in experiments.EXPERIMENTS.items():
        for size in SIZES:
            specs = experiment.specs(profile, size)
            engine = experiment.engine_for(specs)
            check_engine(engine, specs)
            for spec in specs:
                if type(spec).from_json(spec.to_json()) != spec:
                    raise ValueError(f"{name}: a spec does not come back from its JSON: {spec}")
                one = found.setdefault(key_of(spec, engine), {"engine": engine, "specs": {}, "experiments": {},
                                                              "probes": {}})
                one["specs"][spec.id] = spec
                one["experiments"][name] = None
                one["probes"] |= dict.fromkeys(experiment.probes)
    return [SpecClass(key, profile, one["engine"], tuple(one["specs"].values()), tuple(one["experiments"]),
                      tuple(one["probes"])) for key, one in found.items()]


def key_of(spec: AnySpec, engine: str) -> str:
    """Which class a spec belongs to."""
    lora = None if spec.lora is None else replace(spec.lora, rank=1, alpha=1.0)
    plain = replace(spec, seed=0, learning_rate=1.0, steps=LONGEST_RUN, lora=lora)
    text = json.dumps([engine, plain.to_json()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def distinct(classes: Iterable[SpecClass]) -> dict[str, list[AnySpec]]:
    """The runs of some classes by engine, each once: cut, classes that differ in a size alone share one."""
    runs: dict[str, dict[tuple[str, bool], AnySpec]] = {}
    for one in classes:
        for engine, spec in one.arms():
            runs.setdefault(engine, {})[spec.id, spec.recompute] = spec
    return {engine: list(specs.values()) for engine, specs in runs.items()}


def count(classes: Sequence[SpecClass]) -> str:
    """How many specs, classes and runs, in words."""
    runs = sum(map(len, distinct(classes).values()))
    return f"{sum(len(one.specs) for one in classes)} specs in {len(classes)} classes, {runs} runs"
