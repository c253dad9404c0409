"""What a run is: supervised or RL, a frozen, checked description that JSON gives back; and grids of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar

from lorakit.grpo_spec import GRPOSpec as GRPOSpec
from lorakit.lora_spec import TARGET_GROUPS as TARGET_GROUPS
from lorakit.lora_spec import LoRASpec as LoRASpec
from lorakit.names import PACKAGE as PACKAGE
from lorakit.names import UnknownNameError as UnknownNameError
from lorakit.names import known_names as known_names
from lorakit.names import near
from lorakit.names import resolve_name as resolve_name
from lorakit.run_spec import RunSpec
from lorakit.spec_fields import CHECK_DEFAULT, Count, CountOrNone, Flag, allowed, pinned, require, shown, spec
from lorakit.spec_fields import SpecError as SpecError

T = TypeVar("T", bound=RunSpec)


@spec
class SFTSpec(RunSpec):
    """One supervised run with AdamW, by default at a constant learning rate without warm-up (as Schulman et al. 2025).

    Args:
        learning_rate: the peak rate, > 0.
        lora: the adapter, or None for full fine-tuning.
        model: a name (`tiny`, `smollm2-135m-instruct-q4`, …), `org/name@COMMIT`, what `register_model` returns, or the
            folder of a checkpoint (`/models/ckpt`, `./ckpt`), which is hashed and stays where it is.
        dataset: a name (`reworded-skills`, …), or what `register_dataset` returns.
        steps: optimizer steps. With a constant rate, every shorter run is a prefix of this one.
        batch_size: sequences in one forward pass.
        accumulation: forward passes per optimizer step; the loss is the mean over all label tokens of the step.
        max_length: tokens per sequence, prompt included; longer ones are refused or windowed by the dataset.
        weight_decay: AdamW's decoupled decay on matrices, ≥ 0.
        max_grad_norm: clip the norm of each run's gradient, or None.
        beta1, beta2, epsilon: AdamW's.
        seed: decides A's start and the order of the data.
        dtype: of the base weights; adapters are float32 (float64 over a float64 base). In bfloat16 a GPU attends by
            torch's flash kernel, which takes no mask: packs give it none but where a window slides.
        tf32: a GPU multiplies float32 matrices (adapters, a float32 base) in TensorFloat32, which keeps 10 bits of the
            fraction; a CPU, and a GPU before Ampere, computes in float32 all the same. Not yet tried on a GPU.
        torch_compile: compile the decoder layers of a pack, into CUDA graphs on a GPU: the same step but for rounding,
            from fewer launches, after a minute or so of compiling. Needs a C compiler; not yet tried on a GPU.
        recompute: gradient checkpointing: layers keep their input only and are computed twice, for less memory.
        micro_batch: sequences in one pass, a divisor of `batch_size`; None: all, or as many as the GPU holds.
        schedule: what the rate does after the warm-up: `constant`, or down to 0 at the end, `linear` or `cosine`.
        warmup: steps in which the rate rises from 0 to its peak: a whole number, or a share of all steps below 1.
        evaluations: log-spaced points of the curve, 2 to 20.
        evaluation_tokens: tokens of the validation set and of the test set, each; prompts count, padding does not.
        final_evaluation_tokens: of the sets on which base and final weights are measured (the metrics), where those of
            the curve would be too small; None takes the curve's.
        gpus: processors that hold the run together, each a share of its weights, gradients and moments, and that divide
            the rows of each pass among them; a divisor of these. More than 1: engine trl, for what one GPU cannot hold.
        full_targets: what full fine-tuning trains: `all`, or `all-linear`, the layers that LoRA's `all-linear` adapts
            (embedding, head and norms stay as they are).

    >>> spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    >>> SFTSpec.from_json(spec.to_json()) == spec
    True
    """

    kind: ClassVar[str] = "sft"
    unhashed: ClassVar[tuple[str, ...]] = (*RunSpec.unhashed, "gpus", "torch_compile")
    use_vllm: ClassVar[bool] = False

    dataset: Annotated[str, pinned("datasets"), CHECK_DEFAULT] = "reworded-skills"
    steps: Count = 300
    batch_size: Count = 4
    accumulation: Count = 1
    max_length: Count = 64
    evaluation_tokens: Count = 2048
    final_evaluation_tokens: CountOrNone = None
    gpus: Annotated[Count, allowed("1, or a divisor of the rows of one pass (micro_batch, else batch_size)")] = 1
    torch_compile: Flag = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_micro_batch(self.batch_size, f"batch_size={self.batch_size}")
        rows = self.micro_batch or self.batch_size
        require(self, "gpus", rows % self.gpus == 0, f"1, or a divisor of the {rows} rows of one pass")


AnySpec = SFTSpec | GRPOSpec
SPECS: dict[str, type[SFTSpec] | type[GRPOSpec]] = {kind.kind: kind for kind in (SFTSpec, GRPOSpec)}


def read_spec(data: Any) -> AnySpec:
    """The spec of whichever kind that `to_json` wrote.

    Raises:
        SpecError: no spec, or a kind that this version does not know.

    >>> read_spec({"kind": "grpo", "model": "m@1", "task": "t@1", "learning_rate": 1e-3, "lora": None}).method
    'full'
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in SPECS:
        raise SpecError(f"not a spec: kind={kind!r}; allowed: {', '.join(SPECS)}")
    return SPECS[kind].from_json(data)


def vary(base: T, **axes: Any) -> list[T]:
    """Every combination of the axes' values over `base`; `rank`, `alpha`, `targets`, … reach into the adapter.

    An axis is a list, a range or an array. None as a `rank` means full fine-tuning. An empty axis or a misspelt one is
    an error.

    >>> base = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    >>> [s.learning_rate for s in vary(base, learning_rate=[1e-3, 1e-2])]
    [0.001, 0.01]
    >>> [s.method for s in vary(base, rank=[1, None])]
    ['lora', 'full']
    """
    lora_fields = {field.name for field in dataclasses.fields(LoRASpec)}
    known = lora_fields | {field.name for field in dataclasses.fields(base)}
    specs = [base]
    for name, values in axes.items():
        if name not in known:
            raise SpecError(f"unknown axis {name!r}; {near(name, known)}axes: {', '.join(sorted(known))}")
        listed = _values(name, values)
        specs = [_set(spec, name, value, name in lora_fields) for spec in specs for value in listed]
    return specs


def _values(axis: str, values: Any) -> list[Any]:
    """The values of an axis; arrays and their numbers become Python's."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise SpecError(f"axis {axis!r} needs a list of values, got {shown(values)}: write {axis}=[{shown(values)}]")
    listed = [value.item() if hasattr(value, "item") else value for value in values]
    if not listed:
        raise SpecError(f"axis {axis!r} has no values: {shown(values)}; give a non-empty list")
    return listed


def _set(spec: Any, name: str, value: Any, in_lora: bool) -> Any:
    if not in_lora:
        return dataclasses.replace(spec, **{name: value})
    if name == "rank" and value is None:
        return dataclasses.replace(spec, lora=None)
    if spec.lora is None and name != "rank":
        raise SpecError(f"axis {name!r} belongs to LoRA, but the spec is full fine-tuning (lora=None)")
    return dataclasses.replace(spec, full_targets="all",
                               lora=dataclasses.replace(spec.lora or LoRASpec(), **{name: value}))
