"""Measurements that the owner of a run adds to those of every run, in every engine."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from lorakit.result import Metrics


@dataclass(frozen=True)
class Subject:
    """What a probe sees of a pack, or of one run.

    Args:
        specs: of the runs, K of them; 1 with TRL and PEFT.
        model: that is trained.
        tokenizer: of the base.
        losses: token sequences to the mean loss of each run, K numbers (nats per label token).
        splits: `validation` and `test` sequences of the curve; empty in RL.
        packed: the `PackedModel`, in the packed engine alone.
        trained: False before the first step, True after the last.
    """

    specs: Sequence[Any]
    model: Any
    tokenizer: Any
    losses: Callable[[Any], list[float]]
    splits: Mapping[str, Any] = field(default_factory=dict)
    packed: Any = None
    trained: bool = False


# Called before the first step and after the last; the metrics of each run, if any, are added to its own.
Probe = Callable[[Subject], list[Metrics]]


class ProbeError(ValueError):
    """A probe was given that a worker process cannot import."""


def measure(probes: Sequence[Probe], subject: Subject, before: Sequence[Metrics] | None = None) -> list[Metrics]:
    """What the probes find in each run, put together: at the start, or, with what they found there, at the end."""
    found: list[Metrics] = [dict(metrics) for metrics in before or [{} for _ in subject.specs]]
    for probe in probes:
        for metrics, more in zip(found, probe(replace(subject, trained=before is not None)), strict=True):
            metrics |= more
    return found


def probe_name(probe: Probe | str) -> str:
    """`module:function` of a probe, by which a worker process imports it; such a name stays as it is.

    Raises:
        ProbeError: it lives in a notebook, a shell or another function.

    >>> probe_name("my_probes:sharpness")
    'my_probes:sharpness'
    """
    if isinstance(probe, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", probe):
        return probe
    module, name = getattr(probe, "__module__", "__main__"), getattr(probe, "__name__", "")
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not probe:
        raise ProbeError(f"the probe {name or probe!r} cannot be imported by another process: write it at the top "
                         "level of a file of its own, such as my_probes.py, and import it from there")
    return f"{module}:{name}"


def load_probe(name: str) -> Probe:
    """The probe that `probe_name` named."""
    module, _, function = name.partition(":")
    found: Probe = getattr(import_module(module), function)
    return found
