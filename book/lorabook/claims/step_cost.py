"""What a training step costs: counted, timed and computed, from the records of two benchmarks."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lorakit.analysis.tables import Table
from lorakit.records import Record
from lorakit.specs import LoRASpec
from lorakit.theory.compute import training_flops
from lorakit.theory.memory import peak_bytes, training_bytes
from lorakit.theory.shapes import ModelShape

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations")
PHASES = ("forward", "backward", "update")


def share(model: str | ModelShape, rank: int, recompute: bool = False, length: int = 1024) -> float:
    """Floating-point operations of a LoRA step on every linear layer, over those of full fine-tuning."""
    shape = model if isinstance(model, ModelShape) else ModelShape.of(model)
    lora = training_flops(shape, LoRASpec(rank=rank), length, recompute)
    full = training_flops(shape, None, length, recompute)
    return sum(lora.values()) / sum(full.values())


def break_even(model: str) -> int:
    """The lowest rank at which LoRA takes as many operations as full fine-tuning."""
    shape = ModelShape.of(model)
    return next(rank for rank in range(1, 100_000) if share(shape, rank) >= 1)


def counts(records: Iterable[Record]) -> pd.DataFrame:
    """Counted operations of a step: model, arm, recompute, flops, `share` of full without recompute, `off` (relative).

    Args:
        records: of `benchmarks/counts.py`.
    """
    rows = []
    for record in records:
        spec = record.spec
        per_token = training_flops(ModelShape.of(spec["shape"]), _lora(spec), spec["length"], spec["recompute"])
        computed = sum(per_token.values()) * spec["batch_size"] * spec["length"]
        flops = float(record.metrics["flops"] or 0)
        rows.append({"model": spec["shape"], "arm": _arm(spec), "rank": spec["rank"], "recompute": spec["recompute"],
                     "flops": flops, "off": flops / computed - 1})
    frame = pd.DataFrame(rows)
    full = frame[(frame["arm"] == "full") & ~frame["recompute"]].set_index("model")["flops"]
    return frame.assign(share=frame["flops"] / frame["model"].map(full))


def wrong_bytes(records: Iterable[Record]) -> int:
    """How many counts of live bytes, five a record without recompute, differ from the calculator's."""
    return sum(_bytes(record)[part] != record.metrics[part] for record in records
               if not record.spec["recompute"] for part in PARTS)


def peaks(records: Iterable[Record]) -> pd.DataFrame:
    """Of each arm whose process was measured, megabytes: predicted, measured, and with freed memory given back."""
    rows = {_arm(record.spec): {"predicted": peak_bytes(_bytes(record)), "measured": record.metrics["peak_bytes"],
                                "given back": record.metrics["peak_bytes_given_back"]}
            for record in records if record.metrics.get("peak_bytes") and not record.spec["recompute"]}
    return pd.DataFrame(rows).T.astype(float) / 1e6


def clock(records: Iterable[Record]) -> pd.DataFrame:
    """Times of a step, milliseconds: case, arm, rank, seconds, low, high, phases, operations; and its `share` of full.

    Args:
        records: of `benchmarks/step_time.py`; those of the most rounds count.
    """
    records = list(records)
    rounds = max(record.spec["rounds"] for record in records)
    rows = []
    for record in (r for r in records if r.spec["rounds"] == rounds):
        spec = record.spec
        name = "tiny" if spec["model"].startswith("tiny") else "SmolLM2"
        medians = {phase: 1e3 * pd.Series(record.curve[phase]).median() for phase in PHASES if phase in record.curve}
        rows.append({"case": f"{name}, {spec['batch_size'] * spec['length']} tokens, {spec['engine']}",
                     "arm": _arm(spec), "rank": spec["rank"], "rounds": rounds, **medians,
                     **{key: 1e3 * float(record.metrics[key] or 0) for key in ("seconds", "low", "high")},
                     "operations": record.metrics["operations"]})
    frame = pd.DataFrame(rows)
    full = frame[frame["arm"] == "full"].set_index("case")["seconds"]
    return frame.assign(share=frame["seconds"] / frame["case"].map(full))


def table(frame: pd.DataFrame, name: str, form: str, caption: str = "") -> Table:
    """A frame of numbers as a table, with its index as the first column."""
    return Table([{name: str(place), **{str(column): "–" if pd.isna(value) else format(value, form)
                                        for column, value in row.items()}}
                  for place, row in frame.to_dict("index").items()], caption)


def _lora(spec: dict[str, object]) -> LoRASpec | None:
    return LoRASpec(rank=int(str(spec["rank"]))) if spec["rank"] else None


def _arm(spec: dict[str, object]) -> str:
    return "full" if spec["rank"] is None else f"rank {spec['rank']}"


def _bytes(record: Record) -> dict[str, int]:
    spec = record.spec
    return training_bytes(ModelShape.of(spec["shape"]), _lora(spec), spec["batch_size"], spec["length"])
