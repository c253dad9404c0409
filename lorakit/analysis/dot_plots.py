"""Charts of few numbers: means with their intervals beside a reference, and successes as counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from lorakit.analysis.marks import (
    PlotError,
    axis_format,
    checked,
    domain_of,
    heading,
    layered,
    round_values,
    rule_marks,
)
from lorakit.analysis.palette import INK, WIDTH
from lorakit.analysis.statistics import Interval

WORD_COLORS = {"equal": "#00857c", "better": "#2a78d6", "worse": "#cd5a1c", "open": "#6f7780"}
PLAIN = "#2a78d6"
ROW, CIRCLE, MOST_RUNS = 26, 30, 60  # pixels of a row and of a circle; runs of an arm
Spans = Mapping[str, Interval]


def dots(
    found: Spans | Mapping[str, Spans],
    *,
    x_title: str,
    rules: Mapping[float, str] | None = None,
    margin: float | None = None,
    log_x: bool = False,
    form: str = ".3g",
    title: str | None = None,
    note: str | None = None,
) -> alt.LayerChart | alt.VConcatChart:
    """A row for each name: the mean as a dot, its interval as a bar, and a word or number after it.

    Args:
        found: intervals by name, such as `sweep.compare()` or `sweep.ratio()`; or several of these by panel, which
            share one scale: `{"real text": text.compare(), "skills": skills.compare()}`. What has a `word` (a
            `Difference`) takes its colour and shows it, anything else its mean.
        x_title: quantity and unit.
        rules: vertical lines to compare with, each with a name: `{10: "ten times"}`; None: 0 on a linear scale.
        margin: the half width of a grey band around 0, within which a difference counts as none.
        log_x: a logarithmic scale; what lies at 0 or below is refused.
        form: of a mean that is written out.
        title: what was found.
        note: a line beneath it, such as the number of seeds.

    Raises:
        PlotError: nothing to draw, or a value ≤ 0 on a logarithmic scale.

    >>> dots({"rank 1": Interval(2.0, 1.0, 3.0, 5)}, x_title="ratio").description
    'ratio: rank 1 2 (1 to 3).'
    """
    nested = any(isinstance(part, Mapping) for part in found.values())
    groups: Mapping[str, Spans] = found if nested else {"": found}  # type: ignore[assignment, dict-item]
    rows = {panel: _rows(spans, form) for panel, spans in groups.items()}
    lines = ({} if log_x else {0.0: ""}) if rules is None else dict(rules)
    ends = [value for part in rows.values() for column in ("low", "value", "high") for value in part[column].dropna()]
    ends += [*lines, *([-margin, margin] if margin else [])]
    if not ends or (log_x and min(ends) <= 0):
        raise PlotError("nothing to draw" if not ends else "a logarithmic scale cannot show 0 or less: log_x=False")
    scale = alt.Scale(type="log" if log_x else "linear", domain=domain_of(ends, log_x), nice=False, zero=False)
    ticks = round_values(*domain_of(ends, True)) if log_x else []
    written = alt.Axis(tickCount=6)
    if log_x:
        few = {"values": ticks} if len(ticks) > 1 else {"tickCount": 6}
        written = alt.Axis(format=axis_format(ends, log_x), **few)
    said = {panel: ", ".join(f"{name} {span:{form}}" for name, span in part.items()) for panel, part in groups.items()}
    listed = "; ".join(f"{panel}: {words}" if panel else words for panel, words in said.items())
    text = f"{x_title}: {listed}."
    parts = []
    for place, (panel, part) in enumerate(rows.items()):
        ends_it = place == len(rows) - 1  # the title of the axis stands once
        across = {end: alt.X(f"{end}:Q", title=x_title if ends_it else None, scale=scale, axis=written)
                  for end in ("value", "low", "end")}
        marks = _panel(part, across, lines, margin)
        if not nested:
            return layered(marks, text, title, note).properties(height=alt.Step(ROW))
        parts.append(alt.LayerChart(layer=marks, width=WIDTH, height=alt.Step(ROW),
                                    title=alt.TitleParams(panel, fontSize=13)))
    return alt.VConcatChart(vconcat=parts, description=text, title=heading(title, note), spacing=8)


def _rows(spans: Spans, form: str) -> pd.DataFrame:
    rows = [{"name": name, "value": span.mean, "low": span.low, "high": span.high,
             "word": getattr(span, "word", ""), "text": getattr(span, "word", format(span.mean, form)),
             "seeds": span.n} for name, span in spans.items()]
    frame = checked(pd.DataFrame(rows, columns=["name", "value", "low", "high", "word", "text", "seeds"]))
    frame = frame.replace([math.inf, -math.inf], math.nan)
    return frame.assign(end=frame["high"].fillna(frame["value"]))


def _panel(rows: pd.DataFrame, across: Mapping[str, alt.X], lines: Mapping[float, str],
           margin: float | None) -> list[Any]:
    hues = alt.Scale(domain=["", *WORD_COLORS], range=[PLAIN, *WORD_COLORS.values()])
    hue = alt.Color("word:N", legend=None, scale=hues)
    base = alt.Chart(rows).encode(color=hue, y=alt.Y("name:N", sort=list(rows["name"]), title=None,
                                                    axis=alt.Axis(ticks=False, domain=False)))
    spans = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5).encode(
        x=across["low"], x2="high:Q")
    words = base.mark_text(align="left", dx=9).encode(x=across["end"], text="text:N")
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=across["value"], tooltip=list(rows.columns[:-1]))
    band = [] if not margin else [alt.Chart().mark_rect(opacity=0.1, color=INK).encode(
        x=alt.datum(-margin), x2=alt.datum(margin))]
    return [*band, *rule_marks(lines, "x"), spans, words, points]


def counts(found: Mapping[str, tuple[int, int]], *, title: str | None = None,
           note: str | None = None) -> alt.LayerChart:
    """How many runs of each arm succeeded, a circle a run: for outcomes with two peaks, of which a mean says little.

    Args:
        found: successes and runs by arm: `{"full": (6, 10), "rank 8": (2, 10)}`.
        title: what was found.
        note: a line beneath it: what counts as a success.

    Raises:
        PlotError: no arm, more successes than runs, or more than 60 runs of one arm.

    >>> counts({"full": (6, 10)}).description
    'runs that succeeded: full 6 of 10.'
    """
    if not found:
        raise PlotError("no arm to count")
    for arm, (successes, runs) in found.items():
        if not 0 <= successes <= runs or not 0 < runs <= MOST_RUNS:
            raise PlotError(f"{arm}: {successes} of {runs}; allowed: 1 to {MOST_RUNS} runs, and no more successes")
    rows = pd.DataFrame([{"arm": arm, "run": run, "ended": "succeeded" if run <= successes else "did not"}
                         for arm, (successes, runs) in found.items() for run in range(1, runs + 1)])
    sums = pd.DataFrame([{"arm": arm, "run": runs, "text": f"{successes} of {runs}"}
                         for arm, (successes, runs) in found.items()])
    place = alt.Y("arm:N", sort=list(found), title=None, axis=alt.Axis(ticks=False, domain=False))
    across = alt.X("run:Q", axis=None, scale=alt.Scale(zero=False, padding=12))
    circles = alt.Chart(rows).mark_point(size=150, opacity=1, strokeWidth=1.8).encode(
        x=across, y=place, tooltip=["arm", "run", "ended"],
        stroke=alt.value(PLAIN), fill=alt.Color("ended:N", legend=None, scale=alt.Scale(
            domain=["succeeded", "did not"], range=[PLAIN, "transparent"])))
    words = alt.Chart(sums).mark_text(align="left", dx=16).encode(x=across, y=place, text="text:N")
    said = ", ".join(f"{arm} {successes} of {runs}" for arm, (successes, runs) in found.items())
    return layered([circles, words], f"runs that succeeded: {said}.", title, note).properties(
        height=alt.Step(ROW), width=min(WIDTH, CIRCLE * max(runs for _, runs in found.values())))
