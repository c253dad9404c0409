"""Whether runs fit on a card, as they are or with less memory for the same numbers; and which card would hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lorakit.specs import SFTSpec, UnknownNameError
from lorakit.theory.configs import ConfigError
from lorakit.theory.estimate import CONTEXT_BYTES, USABLE
from lorakit.theory.hardware import GPU, GPUS, find_gpu
from lorakit.theory.memory import peak_bytes, training_bytes
from lorakit.theory.shapes import ModelShape


class DoesNotFitError(ValueError):
    """Runs were planned that one GPU cannot hold; the message says how much they need, and what would hold them."""


def needed_bytes(spec: Any, rows: int, recompute: bool) -> int:
    """Bytes at the peak of a run with `rows` sequences in one pass, the GPU's context included.

    Of a run of reinforcement learning the completions alone are counted, without prompts and sampler: a lower bound.
    """
    shape = ModelShape.of(spec.model)
    length = spec.max_length if isinstance(spec, SFTSpec) else spec.max_completion_length
    return CONTEXT_BYTES + peak_bytes(training_bytes(
        shape, spec.lora, rows, length, spec.dtype, recompute, foreach=True, master_weights=True,
        full_targets=spec.full_targets, accumulation=2))


def least_bytes(spec: Any) -> int:
    """What a run needs at least, in micro-batches of one sequence and with recompute; 0 where its model is unknown."""
    try:
        return needed_bytes(spec, 1, True)
    except (UnknownNameError, ConfigError):
        return 0


def require_fit(specs: Iterable[Any], gpu: str | GPU) -> None:
    """Refuse runs that no micro-batch and no recompute makes small enough for this card.

    Raises:
        DoesNotFitError: the message names the runs, what they need, and the cards that would hold them.

    >>> from dataclasses import replace
    >>> lora = SFTSpec(model="meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b", dataset="d@1",
    ...                learning_rate=1e-4, dtype="bfloat16")
    >>> require_fit([lora], "H100")
    >>> try: require_fit([lora, replace(lora, lora=None)], "H100")
    ... except DoesNotFitError as error: print(str(error)[:62])
    1 of 2 runs cannot fit on one H100 (86 GB, 83 of them usable):
    """
    card = find_gpu(gpu)
    specs = list(specs)
    too_large = {id(spec): needed for spec in specs if (needed := least_bytes(spec)) > USABLE * card.bytes}
    if not too_large:
        return
    largest = max(too_large.values())
    methods = sorted({f"{spec.method} of {spec.model.partition('@')[0]}" for spec in specs if id(spec) in too_large})
    holding = [other.name for other in GPUS.values() if USABLE * other.bytes >= largest]
    raise DoesNotFitError(
        f"{len(too_large)} of {len(specs)} runs cannot fit on one {card.name} ({card.bytes / 1e9:.0f} GB, "
        f"{USABLE * card.bytes / 1e9:.0f} of them usable): {', '.join(methods)}, up to {largest / 1e9:.0f} GB in "
        "micro-batches of one sequence and with recompute. " + (
            f"One {' or '.join(holding)} would hold them" if holding else
            "No known GPU alone would hold them: take an adapter, a smaller base or shorter sequences"))
