"""How fast packs are, from the records of `lorabook bench`: the law of their time, what peers take, bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from lorabook.claims.speed_goals import GOALS, NOT_TIMED, asked, date_of, metrics_of, newest, ray_words, said, verdict
from lorakit.analysis.statistics import Interval
from lorakit.analysis.tables import Table
from lorakit.records import Record

NAMES = {"packed": "in packs", "vmap": "torch.func vmap", "time_sliced": "time-slicing",
         "peft_tuned": "PEFT loops, tuned", "peft_default": "PEFT loops", "trl_tuned": "TRL, tuned",
         "trl_default": "TRL as it comes", "trl": "TRL"}
PARTS = {"sampling": "sampling", "update": "forward, backward, AdamW", "scoring": "log-probabilities to record",
         "rewards": "rewards", "evaluation": "held-out problems", "rest": "all else"}
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
    """Whether all runs can be compared earlier by time-slicing than by loops, at a quarter, and by packs throughout."""
    at = waited.set_index(["arm", "share"])["seconds"]
    turns, loop, pack = (at[NAMES[arm]] for arm in ("time_sliced", "peft_tuned", "packed"))
    return bool(turns[25] < loop[25] and (pack < turns).all() and (pack < loop).all())


def profile(records: Sequence[Record]) -> pd.DataFrame:
    """Arm, component and milliseconds of a step of one run, from `profile`; empty where it was not made."""
    rows = [(NAMES[arm], words, float(record.metrics[f"{arm}_{kind}"] or 0) / 1000) for record in records
            for arm in ("peft_tuned", "packed") for kind, words in KINDS.items()]
    return pd.DataFrame(rows, columns=["arm", "component", "milliseconds"])


def remains(records: Sequence[Record]) -> dict[str, float | None]:
    """What a pack can and cannot save, from `profile`; None for each where it was not made.

    Returns:
        `products`, `others`, `rest`, as shares of a pack's step, and with `peft_` before them of a PEFT step;
        `ceiling`, the gain over PEFT of a pack that needed nothing but its operations; `dispatched` and
        `peft_dispatched`, operations for a step of one run that no other operation calls.
    """
    arms, kinds = (("", "packed"), ("peft_", "peft_tuned")), ("products", "others", "rest")
    if not records:
        nothing: dict[str, float | None] = dict.fromkeys(
            ["ceiling", *(f"{short}{kind}" for short, _ in arms for kind in (*kinds, "dispatched"))])
        return nothing
    found = metrics_of(records[0])
    return {**{f"{short}{kind}": found[f"{arm}_{kind}"] / found[f"{arm}_whole"] for short, arm in arms
               for kind in kinds},
            **{f"{short}dispatched": found.get(f"{arm}_dispatched") for short, arm in arms},
            "ceiling": found["peft_tuned_whole"] / (found["packed_whole"] - found["packed_rest"])}


def rl_profile(records: Sequence[Record]) -> Table | None:
    """Where a run of GRPO spends its time in packs and under TRL, from `profile-grpo`; None where it was not made."""
    rows = {**PARTS, "whole": "together", "dispatched": "operations, as a number"}
    return Table([{"of one run, ms": words, "in packs": f"{pack:,.0f}", "TRL": f"{trl:,.0f}",
                   "TRL over packs": f"{trl / pack:.1f}" if pack else ""}
                  for found in map(metrics_of, records) for part, words in rows.items()
                  for pack, trl in [(found[f"packed_{part}"], found[f"trl_{part}"])]]) if records else None


def rl_words(records: Sequence[Record]) -> str:
    """Why GRPO in packs gains what it gains, from `profile-grpo`."""
    if not records:
        return "No profile of it was made"
    found, cores = metrics_of(records[0]), records[0].spec["processes"]
    share = {part: found[f"packed_{part}"] / found["packed_whole"] for part in ("sampling", "update", "operations")}
    gain = {part: found[f"trl_{part}"] / found[f"packed_{part}"] for part in ("sampling", "update", "whole")}
    ceiling = cores * found["trl_whole"] / found["packed_operations"]
    return (f"Packs have {cores} cores, TRL makes one run after another on one, and on one core packs gain "
            f"{gain['whole']:.1f} times. Sampling, token by token, is {share['sampling']:.0%} of a pack's time and "
            f"gains {gain['sampling']:.1f} times; the update is {share['update']:.0%} and gains {gain['update']:.1f} "
            f"times. Operations are {share['operations']:.0%} of a pack's time at the most (the profiler lengthens "
            f"them), and {found['packed_products']:.0%} of theirs is matrix products and attention: with nothing "
            f"between them packs would gain {ceiling:.1f} times or more. "
            f"{found['trl_scoring'] / found['trl_whole']:.0%} of TRL's time goes to log-probabilities for our records")


def held(records: Sequence[Record]) -> dict[int, float]:
    """Megabytes of tensors beside the base by configurations in a pack; empty where they were not counted."""
    return {record.spec["arms"][arm]: float(record.metrics[f"{arm}_peak_bytes"] or 0) / 1e6 for record in records
            for arm in ("packed_1", "packed_4", "packed") if f"{arm}_peak_bytes" in record.metrics}


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
        **{name: (value, ",.0f" if "dispatched" in name else ".1f" if name == "ceiling" else ".0%")
           for name, value in left.items()},
        "one": (megabytes.get(1), ",.0f"), "sixteen": (megabytes.get(16), ",.0f"),
        "grpo": (asked(asked_for["grpo"], "cpu"), ".1f")}
    return {name: said(value, form) for name, (value, form) in found.items()} | {
        **{f"verdict_{name}": verdict(goal) for name, goal in asked_for.items()},
        "grpo_why": rl_words(newest("profile-grpo")), "ray": ray_words(newest("ray-overhead")),
        "made": date_of(sweep)[:10], "device": str(sweep.provenance["device"]),
        "gpu": "timed" if newest("step-p1", "gpu") else NOT_TIMED}
