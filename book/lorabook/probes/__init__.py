"""Measurements that the book makes besides those of every run, and which records lack them."""

from __future__ import annotations

from collections.abc import Iterable

from lorakit.records import Record

# By name: the function that measures, and how the metrics begin of which a record with this probe has at least one.
PROBES = {
    "base text": ("lorabook.probes.base_text:base_text_loss", ("base_text_loss_",)),
    "truncation": ("lorabook.probes.truncation:truncated_losses", ("truncated_test_loss_",)),
    "rounding": ("lorabook.probes.rounding:rounded_losses", ("test_loss_bf16",)),
}
OF_METHOD = {"truncation": "full", "rounding": "lora"}  # what the other method has no answer to


ON_THE_CPU = ("truncation",)  # on a GPU it costs more than the run


def functions(names: Iterable[str], profile: str = "cpu") -> list[str]:
    """The probes of these names, as `lorakit.run` takes them, less those that only the profile `cpu` makes."""
    return [PROBES[name][0] for name in names if profile == "cpu" or name not in ON_THE_CPU]


def lacking(name: str, records: Iterable[Record]) -> list[Record]:
    """The records that a probe was not made for: they count as runs, and its metrics are missing in them."""
    starts = PROBES[name][1]
    return [record for record in records
            if record.status == "ok" and OF_METHOD.get(name, _method(record)) == _method(record)
            and not any(metric.startswith(starts) and value is not None for metric, value in record.metrics.items())]


def _method(record: Record) -> str:
    return "full" if record.spec["lora"] is None else "lora"
