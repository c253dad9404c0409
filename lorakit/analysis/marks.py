"""What charts are put together from: means with bands, names at the ends of lines, ticks where the data are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lorakit.analysis.palette import HEIGHT, arm_scales, axis_title
from lorakit.analysis.statistics import over_seeds

MAX_ROWS = 5_000
MAX_TICKS = 16
LABEL_PIXELS = 15  # between two names of lines
NAME_WIDTH = 0.4  # of a phone's panel: within it names of lines that end at different places may overlap
TITLE_CHARACTERS = 66  # of a line
HIGHER_IS_BETTER = ("accuracy", "reward")


class PlotError(ValueError):
    """A frame cannot be drawn as it is: a column is missing, it is empty, or it has too many rows."""


def require(frame: pd.DataFrame, *columns: str) -> None:
    """Raise PlotError unless the frame has rows and all the columns; the message names those that it has."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise PlotError(f"the frame lacks {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise PlotError("the frame has no rows: no finished run is in it")


def checked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows; raise PlotError where there is none, or too many for a page."""
    if rows.empty:
        raise PlotError("no row has a finite value to draw")
    if len(rows) > MAX_ROWS:
        raise PlotError(f"{len(rows):,} rows; a chart holds {MAX_ROWS:,} at most: aggregate first")
    return rows


def over_seeds_at(rows: pd.DataFrame, x: str, y: str, color: str, log: bool = False) -> pd.DataFrame:
    """The mean of `y` over seeds at every `x` of every line, with the 95 % interval (`low`, `high`) of two or more.

    On a logarithmic axis the mean is that of the logarithms.

    >>> rates = pd.DataFrame({"arm": "full", "step": 9, "rate": [1e-4, 1e-2]})
    >>> float(over_seeds_at(rates, "step", "rate", "arm", log=True)["rate"].iloc[0].round(6))
    0.001
    """
    found = []
    for (name, place), values in rows.groupby([color, x], sort=False)[y]:
        span = over_seeds(np.log(values).tolist() if log else values.tolist())
        numbers = [span.mean, *((span.low, span.high) if span.n > 1 else (math.nan, math.nan))]
        mean, low, high = np.exp(numbers) if log else numbers
        found.append({color: str(name), x: place, y: mean, "low": low, "high": high, "seeds": span.n})
    return pd.DataFrame(found, columns=[color, x, y, "low", "high", "seeds"]).sort_values([color, x], kind="stable")


def mean_and_band(base: alt.Chart, rows: pd.DataFrame, vertical: alt.Y, y: str, color: str) -> list[alt.Chart]:
    """Each line's interval as a band, its mean with the line's dash, and a point of its shape where it was measured."""
    order, _, shapes, dashes = arm_scales(rows[color].astype(str))
    low = vertical.copy()
    low.shorthand = "low:Q"
    columns = [c for c in rows.columns if c not in ("best", "lost")]
    bands = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.16, clip=True).encode(y=low, y2="high:Q")
    mean = base.mark_line(strokeWidth=2).encode(
        y=vertical,
        strokeDash=alt.StrokeDash(f"{color}:N", scale=alt.Scale(domain=order, range=dashes), legend=None),
    )
    points = base.mark_point(size=28, strokeWidth=1.6, filled=False).encode(
        y=vertical,
        shape=alt.Shape(f"{color}:N", scale=alt.Scale(domain=order, range=shapes), legend=None),
        tooltip=[alt.Tooltip(c, format=".4~g" if rows[c].dtype.kind == "f" else "") for c in columns],
    )
    return [bands, mean, points]


def domain_of(values: Sequence[float], log: bool) -> list[float]:
    """From the least to the greatest value with a twentieth to spare on both sides."""
    low, high = (math.log(end) if log else end for end in (min(values), max(values)))
    spare = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ends = low - spare, high + spare
    return [math.exp(end) if log else end for end in ends]


def names_at_ends(rows: pd.DataFrame, x: str, y: str, color: str, vertical: alt.Y, across: alt.X, hues: alt.Color,
                  domain: list[float], log: bool = False) -> alt.Chart:
    """Each line's name at its last point, moved up or down until no two that end near each other overlap."""
    ends = rows.sort_values(x).groupby(color, as_index=False).last()
    ends["name_height"] = np.log(ends[y]) if log else ends[y].astype(float)
    low, high = (math.log(end) if log else end for end in domain)
    apart = LABEL_PIXELS / HEIGHT * (high - low)
    spare = 0.4 * apart  # half a line of letters
    places, measured = (np.log(part) if (rows[x] > 0).all() else part for part in (ends[x].sort_values(), rows[x]))
    groups = (places.diff() > NAME_WIDTH * (measured.max() - measured.min())).cumsum()
    for _, together in ends["name_height"].groupby(groups):
        ordered = together.sort_values(kind="stable")
        ends.loc[ordered.index, "name_height"] = spaced(ordered.tolist(), apart, low + spare, high - spare)
    if log:
        ends["name_height"] = np.exp(ends["name_height"])
    height = vertical.copy()
    height.shorthand = "name_height:Q"
    return alt.Chart(ends).mark_text(align="left", dx=9).encode(x=across, y=height, text=f"{color}:N", color=hues)


def spaced(heights: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Ascending heights moved as little as possible until neighbours are `apart`, within low to high where they fit.

    >>> spaced([1.0, 1.0, 5.0], 1.0, 0.0, 9.0)
    [0.5, 1.5, 5.0]
    """
    groups: list[list[float]] = []  # each: sum of (height − place in the group), members
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and _start(groups[-2], apart) + groups[-2][1] * apart > _start(groups[-1], apart):
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    placed = [_start(group, apart) + i * apart for group in groups for i in range(int(group[1]))]
    raised = [max(place, low + i * apart) for i, place in enumerate(placed)]
    return [min(place, high - i * apart) for i, place in enumerate(reversed(raised))][::-1]


def _start(group: list[float], apart: float) -> float:
    return group[0] / group[1] - (group[1] - 1) / 2 * apart


def layered(marks: Sequence[alt.Chart], text: str, title: str | None, note: str | None) -> alt.LayerChart:
    """Marks on one another, with a description for who cannot see them."""
    return alt.LayerChart(layer=list(marks), description=text, title=heading(title, note))


def x_axis(column: str, log: bool, title: str | None = None, values: Sequence[float] | pd.Series = ()) -> alt.X:
    """An axis with its ticks where the data are, if they are few; else at powers of ten, or at 1, 2, 5 times those."""
    measured = sorted({float(value) for value in values})
    ticks: dict[str, Any] = {"tickCount": 6}
    if measured and (len(measured) <= MAX_TICKS or log):
        ticks = {"values": measured if len(measured) <= MAX_TICKS else round_values(measured[0], measured[-1])}
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(zero=False, padding=12)
    axis = alt.Axis(format=axis_format(measured, log, column), labelOverlap="greedy", labelSeparation=4, **ticks)
    return alt.X(f"{column}:Q", title=title or axis_title(column), scale=scale, axis=axis)


def round_values(low: float, high: float) -> list[float]:
    """What one would write on a logarithmic axis.

    >>> round_values(3, 40), round_values(1, 1500)
    ([5.0, 10.0, 20.0], [1.0, 10.0, 100.0, 1000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    parts = (1,) if high / low >= 100 else (1, 2, 5)
    return [value for power in powers for part in parts if low <= (value := float(part * 10.0**power)) <= high]


def axis_format(values: Sequence[float], log: bool, column: str = "") -> str:
    """How numbers are written: rates, and what spans many powers of ten, with their exponent."""
    sizes = [abs(value) for value in values if value]
    if "learning_rate" in column or (log and sizes and min(sizes) < 1e-3):
        return ".2~e"
    return ".6~g" if sizes and max(sizes) < 1e4 else "~s"  # without digits, a linear axis would write 25 as 3e+1


def rule_marks(rules: Mapping[float, str] | Sequence[float], across: str = "y") -> list[alt.Chart]:
    """Dashed lines to compare with, at heights (`y`) or places (`x`), each with its name where it has one."""
    named = rules if isinstance(rules, Mapping) else dict.fromkeys(rules, "")
    marks = []
    for value, name in named.items():
        place = {across: alt.datum(value)}
        marks.append(alt.Chart().mark_rule(strokeDash=[3, 3], opacity=0.7).encode(**place))
        said = alt.Chart(pd.DataFrame({"name": [name] if name else []}))
        if name and across == "y":
            marks.append(said.mark_text(align="left", dy=-7).encode(x=alt.value(4), text="name:N", **place))
        elif name:
            marks.append(said.mark_text(align="right", dx=-5, dy=-6).encode(y=alt.value(0), text="name:N", **place))
    return marks


def colors(values: Sequence[str] | pd.Series, column: str, legend: bool = False) -> alt.Color:
    """The colour of each name, the same on every page; a legend stands beneath the chart, four names a line."""
    order, hues, _, _ = arm_scales(str(value) for value in values)
    shown = alt.Legend(orient="bottom", columns=4, symbolOpacity=1) if legend else None
    return alt.Color(f"{column}:N", scale=alt.Scale(domain=order, range=hues), title=None, legend=shown)


def heading(title: str | None, note: str | None = None) -> Any:
    """A title, with the note beneath it; a note alone is slanted."""
    if not title:
        return alt.TitleParams(note, fontStyle="italic", fontSize=12) if note else alt.Undefined
    return alt.TitleParams(wrap(title, TITLE_CHARACTERS), subtitle=wrap(note or "", TITLE_CHARACTERS + 16),
                           fontSize=14, fontWeight="bold", subtitleFontSize=12)
