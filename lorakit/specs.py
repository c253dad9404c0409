"""What a run is: frozen, validated descriptions with a JSON round trip and an id that hashes what changes numbers."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from lorakit.lora_spec import TARGET_GROUPS as TARGET_GROUPS
from lorakit.lora_spec import LoRASpec as LoRASpec
from lorakit.lora_spec import SpecError as SpecError
from lorakit.lora_spec import _is_count, _is_positive, _require, _shown
from lorakit.names import PACKAGE as PACKAGE
from lorakit.names import UnknownNameError as UnknownNameError
from lorakit.names import known_names as known_names
from lorakit.names import resolve_name

T = TypeVar("T")
FULL_TARGETS = ("all", "all-linear")
DTYPES = ("float32", "bfloat16", "float64")
PLAIN = LoRASpec()


class RunSpec:
    """What every kind of run shares: the checks of model, adapter and AdamW, the id, and the JSON round trip."""

    kind: ClassVar[str]
    named: ClassVar[tuple[str, ...]]  # fields that JSON always holds
    unhashed: ClassVar[tuple[str, ...]] = ("recompute", "micro_batch")  # cost time or memory, change no number

    def _check(self, ok: bool, field: str, allowed: str) -> None:
        _require(ok, field, getattr(self, field), allowed)

    def _check_shared(self: Any) -> None:
        object.__setattr__(self, "model", resolve_name("models", self.model))
        self._check(_is_positive(self.learning_rate), "learning_rate", "a finite number above 0")
        self._check(self.lora is None or isinstance(self.lora, LoRASpec), "lora",
                    "a LoRASpec, or None for full fine-tuning")
        self._check(self.full_targets in FULL_TARGETS and (self.lora is None or self.full_targets == "all"),
                    "full_targets", "all; or, with lora=None, all-linear (the layers that LoRA's all-linear adapts)")
        self._check(_is_count(self.seed, 0), "seed", "a whole number of 0 or more")
        self._check(_is_count(self.evaluations, 2) and self.evaluations <= 20, "evaluations", "2 to 20")
        self._check(self.weight_decay == 0 or _is_positive(self.weight_decay), "weight_decay", "0 or more")
        self._check(self.max_grad_norm is None or _is_positive(self.max_grad_norm), "max_grad_norm",
                    "a number above 0, or None for no clipping")
        for field in ("beta1", "beta2"):
            value = getattr(self, field)
            self._check(value == 0 or (_is_positive(value) and value < 1), field, "0 up to, not including, 1")
        self._check(_is_positive(self.epsilon), "epsilon", "a number above 0")
        self._check(self.dtype in DTYPES, "dtype", ", ".join(DTYPES))
        self._check(isinstance(self.recompute, bool), "recompute", "True or False")
        for field in ("learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, float(getattr(self, field)))

    def _check_micro_batch(self: Any, whole: int, words: str) -> None:
        divides = self.micro_batch is None or (_is_count(self.micro_batch) and whole % self.micro_batch == 0)
        self._check(divides, "micro_batch", f"a divisor of {words}, or None for all or as many as fit")

    @property
    def method(self: Any) -> str:
        """`full` or `lora`."""
        return "full" if self.lora is None else "lora"

    @property
    def id(self) -> str:
        """16 hex digits of the hash of the canonical JSON: specs of equal numbers, and only they, have equal ids."""
        hashed = {name: value for name, value in self.to_json().items() if name not in self.unhashed}
        canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self: Any) -> dict[str, Any]:
        """A JSON object with `kind` and every field that differs from its default (what it names, always)."""
        out: dict[str, Any] = {"kind": self.kind} | {name: getattr(self, name) for name in self.named}
        out |= _non_defaults(self, skip=("lora", *self.named))
        out["lora"] = None if self.lora is None else _non_defaults(self.lora)
        return out

    @classmethod
    def from_json(cls: type[T], data: dict[str, Any]) -> T:
        """The spec that `to_json` wrote; an unknown field is an error that names the nearest known one."""
        given = data.get("kind") if isinstance(data, dict) else data
        if not isinstance(data, dict) or given != cls.kind:  # type: ignore[attr-defined]
            raise SpecError(f"not a spec of {cls.__name__}: kind={given!r}")
        fields = {k: v for k, v in data.items() if k != "kind"}
        if fields.get("lora") is not None:
            fields["lora"] = build(LoRASpec, fields["lora"])
        return build(cls, fields)


@dataclass(frozen=True, kw_only=True)
class SFTSpec(RunSpec):
    """One supervised run with AdamW at a constant learning rate, without warm-up (the article's protocol).

    Args:
        learning_rate: peak and constant rate, > 0.
        lora: the adapter, or None for full fine-tuning.
        model: a name (`tiny`, `smollm2-135m-instruct-q4`, …), `org/name@COMMIT`, or what `register_model` returns.
        dataset: a name (`reworded-skills`, …), or what `register_dataset` returns.
        steps: optimizer steps. With a constant rate, every shorter run is a prefix of this one.
        batch_size: sequences in one forward pass.
        accumulation: forward passes per optimizer step; the loss is the mean over all label tokens of the step.
        max_length: tokens per sequence, prompt included; longer ones are refused or windowed by the dataset.
        weight_decay: AdamW's decoupled decay on matrices, ≥ 0.
        max_grad_norm: clip the norm of each run's gradient, or None.
        beta1, beta2, epsilon: AdamW's.
        seed: decides A's start and the order of the data.
        dtype: of the base weights; adapters are float32 (float64 over a float64 base).
        recompute: gradient checkpointing: layers keep their input only and are computed twice, for less memory.
        micro_batch: sequences in one pass, a divisor of `batch_size`; None: all, or as many as the GPU holds.
        evaluations: log-spaced points of the curve, 2 to 20.
        evaluation_tokens: tokens of the validation set and of the test set, each; prompts count, padding does not.
        final_evaluation_tokens: of the sets on which base and final weights are measured (the metrics), where those of
            the curve would be too small; None takes the curve's.
        full_targets: what full fine-tuning trains: `all`, or `all-linear`, the layers that LoRA's `all-linear` adapts
            (embedding, head and norms stay as they are).

    >>> spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    >>> SFTSpec.from_json(spec.to_json()) == spec
    True
    """

    kind: ClassVar[str] = "sft"
    named: ClassVar[tuple[str, ...]] = ("model", "dataset")

    learning_rate: float
    lora: LoRASpec | None = PLAIN
    model: str = "tiny"
    dataset: str = "reworded-skills"
    steps: int = 300
    batch_size: int = 4
    accumulation: int = 1
    max_length: int = 64
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    seed: int = 0
    dtype: str = "float32"
    recompute: bool = False
    micro_batch: int | None = None
    evaluations: int = 12
    evaluation_tokens: int = 2048
    final_evaluation_tokens: int | None = None
    full_targets: str = "all"

    def __post_init__(self) -> None:
        self._check_shared()
        object.__setattr__(self, "dataset", resolve_name("datasets", self.dataset))
        for field in ("steps", "batch_size", "accumulation", "max_length", "evaluation_tokens"):
            self._check(_is_count(getattr(self, field)), field, "a whole number of 1 or more")
        self._check(self.final_evaluation_tokens is None or _is_count(self.final_evaluation_tokens),
                    "final_evaluation_tokens", "a whole number of 1 or more, or None")
        self._check_micro_batch(self.batch_size, f"batch_size={self.batch_size}")


def _non_defaults(spec: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if field.name not in skip and getattr(spec, field.name) != field.default
    }


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def build(cls: type[T], fields: dict[str, Any]) -> T:
    """Build a spec from a mapping; a misspelt field is an error that suggests the right one."""
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise SpecError(f"{cls.__name__} has no field {name!r}; {_near(name, known)}fields: {', '.join(known)}")
    return cls(**fields)


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
    known = lora_fields | {field.name for field in dataclasses.fields(base)}  # type: ignore[arg-type]
    specs = [base]
    for name, values in axes.items():
        if name not in known:
            raise SpecError(f"unknown axis {name!r}; {_near(name, known)}axes: {', '.join(sorted(known))}")
        listed = _values(name, values)
        specs = [_set(spec, name, value, name in lora_fields) for spec in specs for value in listed]
    return specs


def _values(axis: str, values: Any) -> list[Any]:
    """The values of an axis; arrays and their numbers become Python's."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise SpecError(f"axis {axis!r} needs a list of values, got {_shown(values)}: write {axis}=[{_shown(values)}]")
    listed = [value.item() if hasattr(value, "item") else value for value in values]
    if not listed:
        raise SpecError(f"axis {axis!r} has no values: {_shown(values)}; give a non-empty list")
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
