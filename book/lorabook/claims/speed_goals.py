"""The goals for speed, and the records of `lorabook bench` that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.analysis.tables import Table
from lorakit.records import Record, Store

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"  # where `lorabook bench` writes
NOT_TIMED = "not timed"


def newest(name: str, profile: str = "cpu") -> list[Record]:
    """The last records of a benchmark, one for each number of tokens a step."""
    file = name.removesuffix("-small").removesuffix("-tiny")
    found: dict[object, Record] = {}
    for record in Store(RESULTS).records(profile, file):
        at = record.spec.get("tokens")
        if record.spec["name"] == name and (at not in found or date_of(found[at]) <= date_of(record)):
            found[at] = record
    return list(found.values())


def date_of(record: Record) -> str:
    """When it was timed."""
    return str(record.provenance["date"])


def metrics_of(record: Record) -> dict[str, float]:
    """Its metrics as numbers."""
    return {name: float(value or 0) for name, value in record.metrics.items()}


@dataclass(frozen=True)
class Goal:
    """A goal, where it is asked, and the metric that answers it; `most` where less is better."""

    name: str
    words: str
    least: float
    record: str
    metric: str
    where: str = "gpu"
    most: bool = False
    form: str = ".2f"


RAY = Goal("Ray", "32 runs on two nodes of a local cluster: over two processes", 1.25, "ray-overhead",
           "ray_over_local_median", "cpu", most=True)
GOALS = (
    Goal("P1", "16 LoRA runs in a pack, 2,048 tokens a step: over PEFT loops", 6, "step-p1",
         "peft_tuned_over_packed_median"),
    Goal("P1", "the same: over TRL as it comes", 10, "step-p1", "trl_default_over_packed_median"),
    Goal("P2", "8 full fine-tunings in a pack: over TRL", 3, "step-p2", "trl_tuned_over_packed_median"),
    Goal("P3", "one LoRA run: over TRL as it comes", 2.5, "step-p3", "trl_default_over_packed_median"),
    Goal("P3", "the same: over TRL, tuned", 1.5, "step-p3", "trl_tuned_over_packed_median"),
    Goal("P4", "share of the card's FLOP/s: full", 0.35, "step-p4", "full_mfu"),
    Goal("P4", "the same: 16 LoRA runs in a pack", 0.30, "step-p4", "packed_mfu"),
    Goal("P5", "a LoRA step over a full one", 0.90, "step-p5", "lora_over_full_median", most=True),
    Goal("P6", "a GRPO step: TRL over ours", 6, "step-p6", "trl_over_packed_median"),
    Goal("P6", "the same: TRL with vLLM", 2, "step-p6", "trl_vllm_over_packed_median"),
    Goal("P7", "16 runs of 131 thousand weights: over PEFT loops", 4, "packed-sweep-small",
         "peft_tuned_over_packed_median", "cpu"),
    Goal("P7", "the same: over vmap", 2, "packed-sweep-small", "vmap_over_packed_median", "cpu"),
    Goal("P7", "16 GRPO runs in packs: over TRL", 8, "packed-grpo", "trl_over_packed_median", "cpu"),
    Goal("P8", "a refresh with nothing to do, over a build", 0.02, "refresh", "nothing_over_build", "cpu", most=True,
         form=".3f"),
    RAY,
)


def asked(goal: Goal, profile: str) -> float | None:
    """What was timed for a goal on a CPU or GPU, at 2,048 tokens where there are several sizes; None if nothing was."""
    found = [record.metrics.get(goal.metric) for record in newest(goal.record, profile)
             if record.spec.get("tokens", 2048) == 2048 or goal.record != "step-p1"]
    return next((value for value in found if value is not None), None)


def verdict(goal: Goal) -> str:
    """`reached`, `missed` or `not timed` on the machine that the goal is about."""
    value = asked(goal, goal.where)
    return NOT_TIMED if value is None else "reached" if (value <= goal.least) == goal.most else "missed"


def goals() -> Table:
    """All goals with what was timed on two cores and on a GPU."""
    return Table([{"": goal.name, "what": goal.words, "goal": f"{'≤' if goal.most else '≥'} {goal.least:g}",
                   **{column: said(asked(goal, profile), goal.form) for column, profile in
                      (("two cores", "cpu"), ("GPU", "gpu"))},
                   "verdict": verdict(goal)} for goal in GOALS])


def ray_words(records: Sequence[Record]) -> str:
    """What Ray costs, from `ray-overhead`."""
    if not records:
        return "not measured"
    found = metrics_of(records[0])
    over, low, high = (found[f"ray_over_local_{part}"] for part in ("median", "low", "high"))
    return (f"{over:.2f} times as long ({low:.2f} to {high:.2f}; goal {RAY.least:g}, {verdict(RAY)}), and "
            f"{found['ray_cpu_seconds'] / found['local_cpu_seconds']:.2f} times the CPU seconds; the shortest run "
            f"takes {found['shortest_run']:.1f} s")


def said(value: float | None, form: str) -> str:
    """A number in words for the page, or that there is none."""
    return NOT_TIMED if value is None else format(value, form)
