"""The chart of C8, T1 and P1: what LoRA lacks in RL against the bits that it holds over those that it was told."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from lorabook.claims.rank import PER_CENT
from lorabook.claims.rl_tasks import ROOM, deficits
from lorakit.analysis.marks import heading
from lorakit.analysis.palette import INK
from lorakit.analysis.sweep import Sweep

COLOURS = ("#2a78d6", "#cd5a1c", "#00857c")


def deficits_by_room(tasks: Mapping[str, Sweep], title: str) -> alt.LayerChart:
    """A dot and an interval over seeds for each rank and task; the margin as a band, the source's condition as a line.

    Args:
        tasks: names to the runs of full fine-tuning and LoRA of several ranks, three at most.
    """
    rows = pd.concat([deficits(ran).assign(task=name) for name, ran in tasks.items()])
    rows = rows.assign(label=rows["rank"].astype(str))
    across = alt.X("room:Q", scale=alt.Scale(type="log"), title="bits held, two a weight, over bits told (log scale)",
                   axis=alt.Axis(values=[0.5, 1, 2, 4, 8, 16, 32, 64, 128], format="~g"))
    colours = alt.Scale(domain=[*tasks], range=COLOURS[:len(tasks)])
    base = alt.Chart(rows).encode(x=across, color=alt.Color("task:N", title=None, scale=colours, legend=alt.Legend(
        orient="bottom", columns=1)))
    up = "accuracy that LoRA lacks (% of full's gain)"
    band = alt.Chart(pd.DataFrame({"low": [-PER_CENT], "high": [PER_CENT]})).mark_rect(color=INK, opacity=0.08).encode(
        y=alt.Y("low:Q", title=up), y2="high:Q")
    line = alt.Chart(pd.DataFrame({"room": [ROOM]})).mark_rule(color=INK, strokeDash=[5, 3]).encode(x=across)
    words = alt.Chart(pd.DataFrame({"room": [ROOM], "says": ["the article's condition →"]})).mark_text(
        align="left", dx=5, dy=8, color=INK, fontSize=12).encode(x=across, y=alt.value(0), text="says:N")
    spans = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=up), y2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(y=alt.Y("mean:Q", title=up), tooltip=[
        "task", "arm", alt.Tooltip("room:Q", format=".2g"), alt.Tooltip("mean:Q", format="+.1f"),
        alt.Tooltip("low:Q", format="+.1f"), alt.Tooltip("high:Q", format="+.1f")])
    names = base.mark_text(align="right", dx=-8, fontSize=12).encode(y=alt.Y("mean:Q", title=up), text="label:N")
    said = "; ".join(f"{row.task}, rank {row.rank}: {row.mean:+.0f} % at {row.room:.2g} times"
                     for row in rows.itertuples())
    return alt.LayerChart(
        layer=[band, line, words, spans, dots, names], title=heading(title), width=440, height=280,
        description=f"Accuracy that LoRA lacks against bits held over bits told. {said}.")
