"""What an arm of a sweep is called, when more than its adapter varies: `rank 8, batch_size 32`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorakit.records import Record

NO_ARM = {"kind", "model", "dataset", "task", "learning_rate", "seed", "lora", "full_targets",  # named elsewhere
          "steps", "evaluations", "evaluation_tokens", "evaluation_problems", "micro_batch", "recompute", "gpus",
          "torch_compile"}  # no numbers
IN_ARM_NAME = {"rank", "alpha", "targets", "expert_rank", "shared_outer", "train_a", "init_a_scale",
               "learning_rate_b_ratio"}


def settings_that_vary(records: Sequence[Record]) -> dict[int, str]:
    """For each record (by place), what sets it apart from others on its data beside its adapter, rate and seed.

    A setting at its default is not named. The engine counts as a setting: runs of two engines are two arms.
    """
    groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for place, record in enumerate(records):
        spec = record.spec
        group = (spec.get("model"), spec.get("dataset", spec.get("task")))
        groups.setdefault(group, {})[place] = _settings(record)
    found: dict[int, str] = {}
    for members in groups.values():
        names = {name: None for settings in members.values() for name in settings}
        varied = [name for name in names
                  if len({repr(settings.get(name)) for settings in members.values()}) > 1]
        for place, settings in members.items():
            found[place] = ", ".join(f"{name} {settings[name]}" for name in varied if name in settings)
    return found


def _settings(record: Record) -> dict[str, Any]:
    plain = {name: value for name, value in record.spec.items() if name not in NO_ARM}
    adapter = {name: value for name, value in (record.spec.get("lora") or {}).items() if name not in IN_ARM_NAME}
    engine = record.provenance.get("engine")
    return plain | adapter | ({"engine": engine} if engine else {})
