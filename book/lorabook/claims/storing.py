"""Bits that adapters stored of random strings: by passes over them, and what rounding takes away."""

from __future__ import annotations

import math

import pandas as pd

from lorabook.claims.capacity import LENGTH, bits_at, last_doubling, stored_bits
from lorakit.analysis.statistics import Interval, mean_interval
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import Table

MARKS = (100, 300, 1000)  # passes


def largest_sets(*sweeps: Sweep) -> pd.DataFrame:
    """`stored_bits` of every arm on the largest of its sets of strings, where the room binds and not the data."""
    parts = [stored_bits(sweep.curves, sweep.runs) for sweep in sweeps]
    return pd.concat([rows[rows["strings"] == rows.groupby("arm")["strings"].transform("max")] for rows in parts])


def per_weight(rows: pd.DataFrame, passes: float) -> Interval:
    """Bits a weight that one arm had stored after so many passes.

    Args:
        rows: of `stored_bits`, one arm on one set.
        passes: no more than the runs made.
    """
    weights = int(rows["parameters"].iloc[0])
    return mean_interval([bits / weights for bits in bits_at(rows, passes).values()])


def table(stored: pd.DataFrame, by: str = "arm") -> Table:
    """A row an arm: weights, bits offered and stored a weight, what the last doubling of passes added, the rate."""
    lines = []
    for name, rows in stored.groupby(by, sort=False):
        last = rows["exposures"].max()
        end = rows[rows["exposures"] == last].iloc[0]
        lines.append({by: str(name), "weights": f"{end['parameters']:,}", "offered": f"{end['offered']:.1f}",
                      **{f"after {n}": f"{per_weight(rows, n):.2f}" if n <= last else "–" for n in MARKS},
                      "last doubling added": f"{last_doubling(rows):.0%}",
                      "best rate": f"{end['learning_rate']:g}" + (", its grid's end" if end["edge"] else "")})
    return Table(lines, "Bits a weight, after so many passes over the strings")


def lost_by_rounding(sweep: Sweep, stored: pd.DataFrame) -> dict[str, Interval]:
    """Bits a weight that each LoRA arm loses when its trained adapter is rounded to bfloat16.

    Args:
        sweep: the runs, with their losses after rounding.
        stored: of `largest_sets`; arms that the sweep lacks are left out.
    """
    lost, last = {}, stored[stored["step"] == stored.groupby("arm")["step"].transform("max")]
    for arm, rows in last[last["method"] == "lora"].groupby("arm"):
        runs = sweep.runs.merge(rows[["arm", "dataset", "learning_rate"]].drop_duplicates())
        before, after = (runs[f"validation_loss{tag}"] + runs[f"test_loss{tag}"] for tag in ("", "_bf16"))
        nats = (after - before) / 2 * rows["strings"].iloc[0] * LENGTH / runs["parameters"]
        lost[str(arm)] = mean_interval((nats / math.log(2)).tolist())
    return lost
