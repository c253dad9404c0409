"""What a run, or a whole experiment, needs: FLOPs, hours, bytes and dollars on a GPU, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.specs import SFTSpec
from lorakit.theory.compute import forward_flops, training_flops
from lorakit.theory.hardware import GPU, find_gpu
from lorakit.theory.memory import peak_bytes, training_bytes
from lorakit.theory.shapes import ModelShape

USABLE = 0.94  # of a GPU's memory: the rest goes to the driver's context and to fragmentation
MFU = 0.4


class EstimateError(ValueError):
    """Something was asked that has no estimate."""


@dataclass(frozen=True)
class Estimate:
    """What one run, or several one after another on one GPU, would need.

    Args:
        gpu: its name.
        runs: how many were priced.
        flops: of all matrix products, evaluations included.
        seconds: of computing, without start-up, data loading and waiting for the host.
        memory: bytes by part of the run that needs most; see `lorakit.theory.memory.training_bytes`.
        peak: bytes that this run holds at once.
        fits: whether the peak stays below 94 % of the GPU's memory.
        cost: US dollars, or None where no price is known.
        assumption: what seconds and cost stand on, in words.
    """

    gpu: str
    runs: int
    flops: float
    seconds: float
    memory: dict[str, int]
    peak: int
    fits: bool
    cost: float | None
    assumption: str

    @property
    def hours(self) -> float:
        """GPU hours."""
        return self.seconds / 3600

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in self.memory.items() if size)
        cost = "price unknown (pass price_per_hour)" if self.cost is None else f"{self.cost:,.2f} dollars"
        fits = "fits" if self.fits else "does NOT fit"
        return (f"{self.runs} run{'s' * (self.runs > 1)} on one {self.gpu}: {self.flops:.3g} FLOPs, "
                f"{self.hours:,.3g} hours, {cost}\nmemory: {self.peak / 1e9:.3g} GB at the peak, {fits} ({parts} GB)\n"
                f"assumed: {self.assumption}")


def estimate(model: Any, spec: SFTSpec | Sequence[SFTSpec], gpu: str | GPU = "H100", *, mfu: float = MFU,
             recompute: bool = False, price_per_hour: float | None = None) -> Estimate:
    """Price a supervised run, or all runs of an experiment one after another, in microseconds and without torch.

    Args:
        model: a known name, a Hugging Face config, a loaded model or a `ModelShape`; None takes each spec's own model.
        spec: what to run. Its sequences count as full (`max_length` tokens), so this is an upper bound.
        gpu: of `lorakit.theory.hardware.GPUS`, or a `GPU` of your own.
        mfu: share of the GPU's dense FLOP/s that training reaches, above 0 and up to 1. 0.4 is good for a model of
            billions of weights and thousands of tokens a step; small ones reach a tenth of it.
        recompute: gradient checkpointing.
        price_per_hour: US dollars for an hour of one GPU; None takes the dated list price.

    Returns:
        The estimate. A step takes FLOPs / (mfu · FLOP/s), or the time to read the weights once a pass and to update
        the trained ones, where that is longer.

    Raises:
        UnknownGPUError, UnknownNameError: a GPU or a model that is not known; the message names the nearest ones.
        ConfigError: a config that lacks a field.
        EstimateError: no spec, a spec of another kind, an mfu outside (0, 1], a negative price.

    >>> from lorakit.specs import LoRASpec
    >>> spec = SFTSpec(learning_rate=1e-4, lora=LoRASpec(rank=16), steps=1000, batch_size=8, max_length=1024,
    ...                dtype="bfloat16")
    >>> one = estimate("llama-3.1-8b", spec, "H100", recompute=True)
    >>> round(one.memory["weights"] / 1e9, 2)  # 8,030,261,248 weights of two bytes
    16.06
    >>> round(one.hours, 2), one.fits
    (0.27, True)
    """
    specs = [spec] if isinstance(spec, SFTSpec) else list(spec)
    if not specs:
        raise EstimateError("no spec to price: the list is empty; is the experiment defined for this profile?")
    if strange := [s for s in specs if not isinstance(s, SFTSpec)]:
        raise EstimateError(f"{type(strange[0]).__name__} has no estimate; allowed: SFTSpec, or a list of them")
    if not 0 < mfu <= 1:
        raise EstimateError(f"mfu={mfu!r}; allowed: above 0 and up to 1 (0.4 is usual on a GPU that is kept busy)")
    if price_per_hour is not None and not price_per_hour >= 0:
        raise EstimateError(f"price_per_hour={price_per_hour!r}; allowed: 0 or more, in US dollars")
    device = find_gpu(gpu)
    shapes = {name: ModelShape.of(name) for name in {s.model for s in specs}} if model is None else {}
    given = None if model is None else model if isinstance(model, ModelShape) else ModelShape.of(model)
    flops = seconds = 0.0
    memories: dict[tuple[Any, ...], dict[str, int]] = {}
    for one in specs:
        shape = given or shapes[one.model]
        work, took = _run(shape, one, device, mfu, recompute)
        flops, seconds = flops + work, seconds + took
        key = (shape.name, one.lora, one.batch_size, one.max_length, one.dtype)
        if key not in memories:
            memories[key] = training_bytes(shape, one.lora, one.batch_size, one.max_length, one.dtype, recompute)
    largest = max(memories.values(), key=peak_bytes)
    price = device.price_per_hour if price_per_hour is None else price_per_hour
    source = "your price" if price_per_hour is not None else f"list price, {device.price_source}"
    words = f"{mfu:.0%} of the GPU's dense FLOP/s" + (f"; {price:g} dollars an hour ({source})" if price else "")
    return Estimate(device.name, len(specs), flops, seconds, largest, peak_bytes(largest),
                    peak_bytes(largest) <= USABLE * device.bytes,
                    None if price is None else price * seconds / 3600, words)


def _run(shape: ModelShape, spec: SFTSpec, device: GPU, mfu: float, recompute: bool) -> tuple[float, float]:
    """FLOPs and seconds of one run."""
    tokens = spec.batch_size * spec.accumulation * spec.max_length
    step = sum(training_flops(shape, spec.lora, spec.max_length, recompute).values()) * tokens
    # the curve's points, and the base before training; validation and test data each
    looked_at = 2 * spec.evaluation_tokens * (spec.evaluations + 1) + 4 * (spec.final_evaluation_tokens or 0)
    evaluation = forward_flops(shape, spec.lora, spec.max_length) * looked_at
    rate = mfu * (device.flops if spec.dtype == "bfloat16" else device.flops_float32)
    memory = training_bytes(shape, spec.lora, 1, 1, spec.dtype)
    moved = memory["weights"] * (2 + recompute) * spec.accumulation
    moved += 7 * memory["gradients"]  # reading weight, gradient and two moments, writing three of them
    return (spec.steps * step + evaluation,
            spec.steps * max(step / rate, moved / device.bytes_per_second) + evaluation / rate)
