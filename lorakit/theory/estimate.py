"""What a run, or a whole experiment, needs: FLOPs, hours, bytes and dollars on a GPU, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorakit.specs import SFTSpec
from lorakit.theory.compute import forward_flops, training_flops
from lorakit.theory.hardware import GPU, find_gpu
from lorakit.theory.memory import CONTEXT_BYTES, peak_bytes, training_bytes
from lorakit.theory.shapes import ModelShape
from lorakit.theory.shown import InWords

USABLE = 0.97  # of a GPU's memory: the rest breaks into pieces that no tensor fits into
# Two constants fitted on 34 public timings (the test of them says how well): the share of the dense FLOP/s that a busy
# GPU reaches, and seconds in which the host launches the kernels of one layer's forward pass (a backward pass is two).
MFU, HOST_SECONDS = 0.45, 1.3e-3
# How often a foreach update of AdamW reads or writes a number of a trained weight's size, operation by operation.
UPDATE_PASSES = 20


class EstimateError(ValueError):
    """Something was asked that has no estimate."""


@dataclass(frozen=True)
class Estimate(InWords):
    """What one run, or several one after another on one GPU, would need.

    Args:
        gpu: its name.
        runs: how many were priced.
        flops: of all matrix products, evaluations included.
        seconds: of training steps and evaluations, without start-up and data loading.
        memory: bytes by part of the run that needs most; see `lorakit.theory.memory.training_bytes`.
        peak: bytes of tensors that this run holds at once.
        needed: the peak and what a GPU holds beside tensors; what nvidia-smi would show.
        fits: whether the bytes needed stay below 97 % of the GPU's memory.
        cost: US dollars, or None where no price is known.
        assumption: what seconds and cost stand on, in words.
    """

    gpu: str
    runs: int
    flops: float
    seconds: float
    memory: dict[str, int]
    peak: int
    needed: int
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
        beside = (self.needed - self.peak) / 1e9
        return (f"{self.runs} run{'s' * (self.runs > 1)} on one {self.gpu}: {self.flops:.3g} FLOPs, "
                f"{self.hours:,.3g} hours, {cost}\nmemory: {self.peak / 1e9:.3g} GB of tensors at the peak and "
                f"{beside:.3g} GB beside them, {fits} ({parts} GB)\nassumed: {self.assumption}")


def estimate(model: Any, spec: SFTSpec | Sequence[SFTSpec], gpu: str | GPU = "H100", *, mfu: float = MFU,
             recompute: bool = False, master_weights: bool = True, price_per_hour: float | None = None) -> Estimate:
    """Price a supervised run, or all runs of an experiment one after another, in microseconds and without torch.

    Args:
        model: a known name, a Hugging Face config, a loaded model or a `ModelShape`; None takes each spec's own model.
        spec: what to run. Its sequences count as full (`max_length` tokens), so this is an upper bound.
        gpu: of `lorakit.theory.hardware.GPUS`, or a `GPU` of your own.
        mfu: share of the GPU's dense FLOP/s that training reaches while it computes, above 0 and up to 1.
        recompute: gradient checkpointing, also of specs that do not ask for it.
        master_weights: full fine-tuning in bfloat16 trains float32 copies of the weights, as the engines here do; False
            prices training in bfloat16 alone, as others do.
        price_per_hour: US dollars for an hour of one GPU; None takes the dated list price.

    Returns:
        The estimate. A forward and backward pass takes FLOPs / (mfu · FLOP/s), the time to read the weights, or the
        time in which the host launches its kernels, whichever is longest; to a step's passes the update is added, which
        reads and writes the trained weights and their moments. Of causal attention half the square is timed.

    Raises:
        UnknownGPUError, UnknownNameError: a GPU or a model that is not known; the message names the nearest ones.
        ConfigError: a config that lacks a field.
        EstimateError: no spec, a spec of another kind, full fine-tuning of a quantised base, DoRA or
            dropout, an mfu outside (0, 1], a
            negative price.

    >>> from lorakit.specs import LoRASpec
    >>> spec = SFTSpec(learning_rate=1e-4, lora=LoRASpec(rank=16), steps=1000, batch_size=8, max_length=1024,
    ...                dtype="bfloat16")
    >>> one = estimate("llama-3.1-8b", spec, "H100", recompute=True)
    >>> round(one.memory["weights"] / 1e9, 2)  # 8,030,261,248 weights of two bytes
    16.06
    >>> round(one.hours, 2), one.fits
    (0.23, True)
    """
    specs = [spec] if isinstance(spec, SFTSpec) else list(spec)
    if not specs:
        raise EstimateError("no spec to price: the list is empty; is the experiment defined for this profile?")
    if strange := [s for s in specs if not isinstance(s, SFTSpec)]:
        raise EstimateError(f"{type(strange[0]).__name__} has no estimate; allowed: SFTSpec, or a list of them")
    if not 0 < mfu <= 1:
        raise EstimateError(f"mfu={mfu!r}; allowed: above 0 and up to 1 (0.45 is usual on a GPU that is kept busy)")
    if price_per_hour is not None and not price_per_hour >= 0:
        raise EstimateError(f"price_per_hour={price_per_hour!r}; allowed: 0 or more, in US dollars")
    device = find_gpu(gpu)
    shapes = {name: ModelShape.of(name) for name in {s.model for s in specs}} if model is None else {}
    given = None if model is None else model if isinstance(model, ModelShape) else ModelShape.of(model)
    flops = seconds = 0.0
    memories: dict[tuple[Any, ...], dict[str, int]] = {}
    for one in (replace(s, recompute=True) if recompute else s for s in specs):
        shape = given or shapes[one.model]
        if one.lora is None and shape.quantization:
            raise EstimateError(f"{shape.name} is quantised ({shape.quantization}): its weights take no gradient; "
                                "price an adapter, or give the config of the base in half precision")
        if one.lora is not None and (one.lora.dora or one.lora.dropout):
            raise EstimateError("dora=True and dropout above 0 are not counted (merged weights, or masks, stay for the "
                                "backward pass); the same spec without them is a lower bound")
        batch, passes = _passes(one)
        key = (shape.name, one.lora, one.full_targets, batch, one.max_length, one.dtype, one.recompute, passes > 1)
        if key not in memories:
            memories[key] = training_bytes(
                shape, one.lora, batch, one.max_length, one.dtype, one.recompute, foreach=True,
                master_weights=master_weights, full_targets=one.full_targets, accumulation=passes)
        work, took = _run(shape, one, device, mfu, memories[key])
        flops, seconds = flops + work, seconds + took
    largest = max(memories.values(), key=peak_bytes)
    peak = peak_bytes(largest)
    price = device.price_per_hour if price_per_hour is None else price_per_hour
    source = "your price" if price_per_hour is not None else f"list price, {device.price_source}"
    words = [f"{mfu:.0%} of the GPU's dense FLOP/s", "fused attention, which keeps no scores"]
    if given and given.quantization:
        words.append(f"{given.name} is quantised: {given.quantization}")
    words += [f"{shape.name} is {shape.note}" for shape in (given, *shapes.values()) if shape and shape.note]
    words += ["float32 master weights"] * bool(largest["masters"])
    if price:
        words.append(f"{price:g} dollars an hour ({source})")
    return Estimate(device.name, len(specs), flops, seconds, largest, peak, peak + CONTEXT_BYTES,
                    peak + CONTEXT_BYTES <= USABLE * device.bytes, None if price is None else price * seconds / 3600,
                    "; ".join(words))


def _passes(spec: SFTSpec) -> tuple[int, int]:
    """Sequences in one forward and backward pass, and passes of a step."""
    batch = spec.micro_batch or spec.batch_size
    return batch, spec.accumulation * spec.batch_size // batch


def _run(shape: ModelShape, spec: SFTSpec, device: GPU, mfu: float, memory: dict[str, int]) -> tuple[float, float]:
    """FLOPs and seconds of one run."""
    (batch, passes), length, recompute = _passes(spec), spec.max_length, spec.recompute
    tokens = batch * length
    parts = training_flops(shape, spec.lora, length, recompute, full_targets=spec.full_targets)
    work = sum(parts.values()) * tokens
    attention = parts["scores"] + (4.0 * length * shape.query_size * shape.layers if recompute else 0.0)
    # the curve's points, and the base before training; validation and test data each
    looked_at = 2 * spec.evaluation_tokens * (spec.evaluations + 1) + 4 * (spec.final_evaluation_tokens or 0)
    evaluation = forward_flops(shape, spec.lora, length) * looked_at
    tf32 = device.flops / 2 if spec.tf32 and device.tf32 else device.flops_float32
    rate = mfu * (device.flops if spec.dtype == "bfloat16" else tf32)
    each = max((work - attention * tokens / 2) / rate, memory["weights"] * (2 + recompute) / device.bytes_per_second,
               HOST_SECONDS * shape.layers * (3 + recompute))
    update = UPDATE_PASSES * memory["optimizer"] / 2 / device.bytes_per_second
    return (spec.steps * passes * work + evaluation,
            spec.steps * (passes * each + update) + evaluation / rate)
