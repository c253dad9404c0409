"""Which specs can share a pack, and how a group of them is cut into packs. Pure Python on specs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec

AnySpec = TypeVar("AnySpec", bound=SFTSpec | GRPOSpec)


def pack_key(spec: SFTSpec | GRPOSpec) -> tuple[Any, ...]:
    """What configurations of one pack must share; everything else may differ between them.

    The rank is part of it as a bucket (up to 8, 16, 32, 64, …): padding rank 8 to 128 would cost 2.5 times the time.

    >>> def of(**f): return pack_key(SFTSpec(model="m@1", dataset="d@1", learning_rate=f.pop("lr", 1e-3), **f))
    >>> of(seed=1, lr=1e-2) == of(seed=2), of(steps=10) == of(steps=20)
    (True, False)
    """
    bucket = None if spec.lora is None else max(8, 1 << (spec.lora.rank - 1).bit_length())
    targets = None if spec.lora is None else spec.lora.targets
    common = (spec.model, spec.dtype, spec.tf32, spec.steps, spec.beta1, spec.beta2, spec.epsilon, spec.evaluations,
              bucket, targets, spec.full_targets, spec.recompute, spec.micro_batch)
    if isinstance(spec, GRPOSpec):
        return (*common, spec.task, spec.prompts_per_step, spec.group_size, spec.iterations, spec.max_completion_length,
                spec.merge_to_sample, spec.use_vllm, spec.evaluation_problems, spec.final_evaluation_problems)
    return (*common, spec.dataset, spec.batch_size, spec.accumulation, spec.max_length, spec.evaluation_tokens,
            spec.final_evaluation_tokens, spec.gpus, spec.torch_compile)


def group(specs: Iterable[AnySpec]) -> list[list[AnySpec]]:
    """Specs by `pack_key`, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[AnySpec]] = {}
    for spec in specs:
        groups.setdefault(pack_key(spec), []).append(spec)
    return list(groups.values())


def split_evenly(specs: Sequence[AnySpec], largest: int) -> list[list[AnySpec]]:
    """Packs of nearly equal size, none larger than `largest`.

    >>> [len(pack) for pack in split_evenly([None] * 10, 4)]
    [4, 3, 3]
    """
    count = -(-len(specs) // max(1, largest))
    return [list(specs[i * len(specs) // count : (i + 1) * len(specs) // count]) for i in range(count)][::-1]


def work(spec: SFTSpec | GRPOSpec) -> int:
    """How much there is to do for a run, in tokens: trained ones, and evaluated ones at a third of the cost."""
    if isinstance(spec, GRPOSpec):
        return trained_tokens(spec) + spec.evaluations * spec.evaluation_problems * spec.max_completion_length
    return trained_tokens(spec) + 2 * spec.evaluations * spec.evaluation_tokens // 3


def trained_tokens(spec: SFTSpec | GRPOSpec) -> int:
    """Tokens that a run learns from, padding included; of RL, those of completions, at the most."""
    if isinstance(spec, GRPOSpec):
        return spec.steps * spec.episodes_per_step * spec.max_completion_length
    return spec.steps * spec.batch_size * spec.accumulation * spec.max_length
