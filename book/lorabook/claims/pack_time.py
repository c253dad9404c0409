"""How fast packs are, from the records of `lorabook bench`: the law of their time, what peers take, bytes, goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from lorakit.analysis.statistics import Interval
from lorakit.analysis.tables import Table
from lorakit.records import Record, Store

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
NOT_TIMED = "not timed"
NAMES = {"packed": "in packs", "vmap": "torch.func vmap", "time_sliced": "time-slicing",
         "peft_tuned": "PEFT loops, tuned", "peft_default": "PEFT loops", "trl_tuned": "TRL, tuned",
         "trl_default": "TRL as it comes", "trl": "TRL"}
KINDS = {"products": "matrix products", "others": "other operations", "optimizer": "AdamW",
         "rest": "Python between them"}


@dataclass(frozen=True)
class Law:
    """Seconds of a step: `fixed` + `each` · configurations · tokens.

    Args:
        off: median relative error over what was timed.

    >>> round(Law(0.004, 1e-5).step(16, 128), 5)
    0.02448
    """

    fixed: float
    each: float
    off: float = 0.0

    def step(self, count: int, tokens: float) -> float:
        """Of so many configurations with so many tokens each."""
        return self.fixed + self.each * count * tokens


def fit(seconds: Mapping[tuple[int, int], float]) -> Law:
    """The law that is nearest in relative error to the steps of (configurations, tokens)."""
    took = np.array(list(seconds.values()))
    work = np.array([[1, count * tokens] for count, tokens in seconds]) / took[:, None]
    fixed, each = nnls(work, np.ones(len(took)))[0]
    return Law(float(fixed), float(each), float(np.median(np.abs(work @ [fixed, each] - 1))))


def gain(loop: Law, pack: Law, count: int, tokens: float) -> float:
    """How many times longer runs take one after another than in a pack.

    >>> round(gain(Law(0.004, 1e-5), Law(0.004, 1e-5), 16, 128), 2)
    3.45
    """
    return count * loop.step(1, tokens) / pack.step(count, tokens)


def newest(name: str, profile: str = "cpu") -> list[Record]:
    """The last records of a benchmark, one for each number of tokens a step."""
    file = name.removesuffix("-small").removesuffix("-tiny")
    found: dict[object, Record] = {}
    for record in Store(RESULTS).records(profile, file):
        at = record.spec.get("tokens")
        if record.spec["name"] == name and (at not in found or _date(found[at]) <= _date(record)):
            found[at] = record
    return list(found.values())


def _date(record: Record) -> str:
    return str(record.provenance["date"])


def laws(records: Sequence[Record]) -> dict[str, Law]:
    """Of `pack` and of a PEFT `loop`, from `step-p1`; empty where it was not timed."""
    if not records:
        return {}
    steps: dict[str, dict[tuple[int, int], float]] = {"pack": {}, "loop": {}}
    for record in records:
        for arm, count in record.spec["arms"].items():
            kind = "pack" if arm.startswith("packed") else "loop" if arm == "peft_tuned" else None
            if kind:
                steps[kind][count, record.spec["tokens"]] = count * float(record.metrics[f"{arm}_seconds_median"] or 0)
    return {kind: fit(found) for kind, found in steps.items()}


def curve(records: Sequence[Record]) -> pd.DataFrame:
    """Tokens a step, arm (seen, and the largest pack by the law), gain over PEFT loops one after another."""
    found, rows = laws(records), []
    for record in records:
        for arm in ("packed", "packed_4"):
            count, tokens = record.spec["arms"][arm], record.spec["tokens"]
            loop, pack = (float(record.metrics[f"{name}_seconds_median"] or 0) for name in ("peft_tuned", arm))
            rows.append((tokens, f"{count} in a pack", loop / pack))
            if arm == "packed":
                rows.append((tokens, f"{count}, by the law", gain(found["loop"], found["pack"], count, tokens)))
    return pd.DataFrame(rows, columns=["tokens", "arm", "gain"])


def times(record: Record) -> dict[str, Interval]:
    """Of each arm but the packs: its time over theirs, the median with the range of the rounds."""
    rounds = len(record.curve.get("round", ())) or int(record.provenance.get("rounds", 1))
    def over(arm: str, part: str) -> float:
        return float(record.metrics[f"{arm}_over_packed_{part}"] or 0)

    return {words: Interval(over(arm, "median"), over(arm, "low"), over(arm, "high"), rounds)
            for arm, words in NAMES.items() if arm != "packed" and f"{arm}_over_packed_median" in record.metrics}


def waits(record: Record) -> pd.DataFrame:
    """Arm, share of the data (%), seconds until every run has seen it; empty where it was not timed."""
    rows = [(NAMES[arm], int(share.rstrip("%")), value) for name, value in record.metrics.items()
            for arm, between, share in (name.partition("_until_"),)
            if between and arm in ("packed", "time_sliced", "peft_tuned")]
    return pd.DataFrame(rows, columns=["arm", "share", "seconds"])


def turns_are_early(waited: pd.DataFrame) -> bool:
    """Whether time-slicing lets all runs be compared at a quarter of the data before loops do, and packs at the end."""
    at = waited.set_index(["arm", "share"])["seconds"]
    turns, loop, pack = (at[NAMES[arm]] for arm in ("time_sliced", "peft_tuned", "packed"))
    return bool(turns[25] < loop[25] and pack[100] < min(turns[100], loop[100]))


def profile(records: Sequence[Record]) -> pd.DataFrame:
    """Arm, component and microseconds of a step of one run, from `profile`; empty where it was not made."""
    rows = [(NAMES[arm], words, record.metrics[f"{arm}_{kind}"]) for record in records
            for arm in ("peft_tuned", "packed") for kind, words in KINDS.items()]
    return pd.DataFrame(rows, columns=["arm", "component", "microseconds"])


def remains(records: Sequence[Record]) -> dict[str, float | None]:
    """What a pack can and cannot save, from `profile`; None for each where it was not made.

    Returns:
        `products`, `others`, `rest`, as shares of a pack's step, and with `peft_` before them of a PEFT step;
        `ceiling`, the gain over PEFT of a pack that needed nothing but its operations; `launched` and
        `peft_launched`, operations for a step of one run.
    """
    kinds = [f"{arm}{kind}" for arm in ("", "peft_") for kind in ("products", "others", "rest", "launched")]
    if not records:
        nothing: dict[str, float | None] = dict.fromkeys((*kinds, "ceiling"))
        return nothing
    found = {name: float(value or 0) for name, value in records[0].metrics.items()}
    shares = {f"{short}{kind}": found[f"{arm}_{kind}"] / (1 if kind == "launched" else found[f"{arm}_whole"])
              for short, arm in (("", "packed"), ("peft_", "peft_tuned"))
              for kind in ("products", "others", "rest", "launched")}
    return {**shares, "ceiling": found["peft_tuned_whole"] / (found["packed_whole"] - found["packed_rest"])}


def held(records: Sequence[Record]) -> dict[int, float]:
    """Megabytes of tensors beside the base by configurations in a pack; empty where they were not counted."""
    return {record.spec["arms"][arm]: float(record.metrics[f"{arm}_peak_bytes"] or 0) / 1e6 for record in records
            for arm in ("packed_1", "packed_4", "packed") if f"{arm}_peak_bytes" in record.metrics}


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


def sweeps(which: Sequence[str] = ("small", "tiny")) -> Table:
    """The ratios of P7's sweeps by base, with their ranges."""
    found = {base: times(record) for base in which for record in newest(f"packed-sweep-{base}")}
    names = dict.fromkeys(name for arms in found.values() for name in arms)
    return Table([{"time over packs": name, **{base: format(arms[name], ".2f") if name in arms else NOT_TIMED
                                               for base, arms in found.items()}} for name in names])


def numbers() -> dict[str, str]:
    """The numbers of the page in words, by name; each may be `not timed`."""
    sweep, steps = newest("packed-sweep-small")[0], newest("step-p1")
    gains = curve(steps).set_index(["arm", "tokens"])["gain"]
    seen, by_law = (gains.get(arm, pd.Series(dtype=float)).sort_index() for arm in ("16 in a pack", "16, by the law"))
    law, megabytes, left = laws(steps), held(steps), remains(newest("profile"))
    asked_for = dict(zip(("peft", "vmap", "grpo"), (goal for goal in GOALS if goal.name == "P7"), strict=True))
    found: dict[str, tuple[float | None, str]] = {
        **{arm: (sweep.metrics.get(f"{arm}_over_packed_median"), ".1f")
           for arm in ("vmap", "peft_tuned", "trl_tuned", "time_sliced")},
        "points": (sweep.spec["points"], ""), "tokens": (sweep.metrics["tokens_per_step"], ".0f"),
        "few": (next(iter(seen.index), None), ","), "most": (next(iter(seen), None), ".1f"),
        "many": (next(iter(seen.index[::-1]), None), ","), "least": (next(iter(seen[::-1]), None), ".1f"),
        "law_end": (next(iter(by_law[::-1]), None), ".1f"),
        **{f"goal_{name}": (goal.least, "g") for name, goal in asked_for.items()},
        "off": (law["pack"].off if law else None, ".0%"),
        "limit": (law["loop"].step(1, 128) / law["pack"].each / 128 if law else None, ".1f"),
        **{name: (value, ",.0f" if "launched" in name else ".1f" if name == "ceiling" else ".0%")
           for name, value in left.items()},
        "one": (megabytes.get(1), ",.0f"), "sixteen": (megabytes.get(16), ",.0f"),
        "grpo": (asked(asked_for["grpo"], "cpu"), ".1f")}
    return {name: said(value, form) for name, (value, form) in found.items()} | {
        **{f"verdict_{name}": verdict(goal) for name, goal in asked_for.items()},
        "made": _date(sweep)[:10], "device": str(sweep.provenance["device"]),
        "gpu": "timed" if newest("step-p1", "gpu") else NOT_TIMED}


def said(value: float | None, form: str) -> str:
    """A number in words for the page, or that there is none."""
    return NOT_TIMED if value is None else format(value, form)
