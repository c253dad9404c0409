"""What every kind of run shares: model, adapter and AdamW, the id that hashes what changes numbers, and JSON."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field

from lorakit.lora_spec import LoRASpec
from lorakit.schedules import Schedule, rate_factor, warmup_steps
from lorakit.spec_fields import (
    CHECK_DEFAULT,
    Count,
    Decay,
    Flag,
    NotNegative,
    Positive,
    SpecError,
    Whole,
    allowed,
    non_defaults,
    pinned,
    require,
    spec,
)

T = TypeVar("T", bound="RunSpec")
FULL_TARGETS = "all; or, with lora=None, all-linear (the layers that LoRA's all-linear adapts)"
MICRO_BATCH = "a divisor of what one step passes at once, or None for all or as many as fit"
WARMUP = "whole steps from 0 on, or a share of the steps below 1; fewer than all steps"
Adapter = Annotated[LoRASpec | None,
                    BeforeValidator(lambda value: LoRASpec(**value) if isinstance(value, dict) else value),
                    allowed("a LoRASpec, or None for full fine-tuning")]


@spec
class RunSpec:
    """What every kind of run shares; `SFTSpec` and `GRPOSpec` say what the fields mean."""

    kind: ClassVar[str]
    unhashed: ClassVar[tuple[str, ...]] = ("recompute", "micro_batch")  # cost time or memory, change no number

    learning_rate: Annotated[Positive, allowed("a finite number above 0")]
    lora: Adapter = LoRASpec()
    model: Annotated[str, pinned("models"), CHECK_DEFAULT] = "tiny"
    weight_decay: NotNegative = 0.0
    max_grad_norm: Annotated[Positive | None, allowed("a number above 0, or None for no clipping")] = None
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8
    seed: Whole = 0
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    tf32: Flag = False
    recompute: Flag = False
    micro_batch: Annotated[Count | None, allowed(MICRO_BATCH)] = None
    evaluations: Annotated[Count, Field(ge=2, le=20), allowed("2 to 20")] = 12
    full_targets: Annotated[Literal["all", "all-linear"], allowed(FULL_TARGETS)] = "all"
    schedule: Schedule = "constant"
    warmup: Annotated[Whole | Decay, allowed(WARMUP)] = 0

    def __post_init__(self: Any) -> None:
        require(self, "warmup", self.warmup_steps < self.steps, f"{WARMUP}, with steps={self.steps}")
        require(self, "dtype", self.dtype != "float64" or not (self.lora and self.lora.pissa),
                "float32 or bfloat16 with pissa=True (PEFT decomposes no float64 weights)")
        require(self, "tf32", not self.tf32 or self.dtype != "float64", "False with dtype='float64'")
        require(self, "full_targets", self.lora is None or self.full_targets == "all", FULL_TARGETS)

    def _check_micro_batch(self, whole: int, words: str) -> None:
        require(self, "micro_batch", self.micro_batch is None or whole % self.micro_batch == 0,
                f"a divisor of {words}, or None for all or as many as fit")

    @property
    def warmup_steps(self: Any) -> int:
        """Steps of the warm-up."""
        return warmup_steps(self.warmup, self.steps)

    def rate_factor(self: Any, step: int) -> float:
        """What the learning rate is multiplied by in a step, counted from 1."""
        return rate_factor(self.schedule, step, self.steps, self.warmup_steps)

    @property
    def method(self) -> str:
        """`full` or `lora`."""
        return "full" if self.lora is None else "lora"

    @cached_property
    def id(self) -> str:
        """16 hex digits of the hash of the canonical JSON; specs of equal numbers, and only they, have equal ids."""
        # the micro-batches decide what dropout draws
        unhashed = ("recompute",) if self.lora and self.lora.dropout else self.unhashed
        hashed = {name: value for name, value in self.to_json().items() if name not in unhashed}
        if self.warmup:
            hashed["warmup"] = self.warmup_steps
        canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with `kind`, `lora` and every field that differs from its default, as a pinned name does."""
        return {"kind": self.kind, "lora": {}} | non_defaults(self)

    @classmethod
    def from_json(cls: type[T], data: Any) -> T:
        """The spec that `to_json` wrote; an unknown field is an error that names the nearest known one."""
        given = data.get("kind") if isinstance(data, dict) else data
        if not isinstance(data, dict) or given != cls.kind:
            raise SpecError(f"not a spec of {cls.__name__}: kind={given!r}")
        return cls(**{name: value for name, value in data.items() if name != "kind"})
