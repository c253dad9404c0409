"""Charts: a tidy frame in, an `alt.Chart` out; no input, no output, no training. Captions are the chapter's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from lorakit.study.curves import pointwise_minimum
from lorakit.study.palette import INK, arm_order, arm_scales, axis_title

MAX_ROWS = 5_000
CROSS = "M-0.7,-0.7L0.7,0.7M0.7,-0.7L-0.7,0.7"


class PlotError(ValueError):
    """A frame cannot be drawn as it is: a column is missing, it is empty, or it has too many rows."""


def loss_against_steps(
    frame: pd.DataFrame, *, y: str = "test_loss", description: str | None = None, note: str | None = None
) -> alt.LayerChart:
    """Loss of each arm at its best learning rate for every training length: seeds as points, their mean as a line.

    Args:
        frame: of `tidy` (then the pointwise minimum is taken), or of `pointwise_minimum`.
        y: the loss that is drawn; rates are chosen on validation loss in any case.
        note: a line above the chart, such as "illustration: 3 seeds".

    Raises:
        PlotError: a missing column, no finite row, or more than 5,000 rows after the choice.
        FrameError: the frame mixes experiments, or a run is missing.
    """
    require(frame, "arm", "seed", "learning_rate", "step", y)
    best = pointwise_minimum(frame) if "id" in frame.columns else frame
    best = best[["arm", "seed", "learning_rate", "step", y]]
    text = description or f"{axis_title(y)} against {axis_title('step')}, best rate of each arm: {_names(best)}."
    return lines(best, "step", y, description=text, note=note)


def u_curve(
    frame: pd.DataFrame,
    *,
    y: str = "test_loss",
    chosen_by: str = "validation_loss",
    ceiling: float | None = None,
    description: str | None = None,
    note: str | None = None,
) -> alt.LayerChart:
    """Final loss against learning rate, per arm: seeds as points, mean as a line, the best rate ringed.

    Runs that diverged, or that end above `ceiling`, are crosses on the top edge, so that no failure goes unseen.

    Args:
        frame: as of `loss_against_steps`, with `id` and `status`; the last step of each run is drawn.
        ceiling: the top of the chart, in the unit of `y`; None takes the highest loss of the first curve points
            (the untrained model, or nearly) plus a tenth of the range.
    """
    require(frame, "id", "arm", "seed", "learning_rate", "step", "status", y, chosen_by)
    rows = frame.replace(math.inf, math.nan).sort_values("step")
    last = rows.groupby("id", as_index=False).tail(1).copy()
    finite = last.loc[last["status"] == "ok", y].dropna()
    if finite.empty:
        raise PlotError(f"no run has a finite {y}: nothing to draw a curve through")
    if ceiling is None:
        start = rows.groupby("id")[y].first().max()
        top = start if start > finite.min() else finite.max()
        ceiling = top + 0.1 * (top - finite.min())
    lost = (last["status"] != "ok") | last[y].isna() | (last[y] > ceiling)
    last["fate"] = lost.map({True: "diverged or above the chart", False: "finished"})
    below = {arm: i * 0.03 * (ceiling - finite.min()) for i, arm in enumerate(arm_order(last["arm"]))}
    last.loc[lost, y] = ceiling - last.loc[lost, "arm"].map(below).astype(float)  # failures at one rate: side by side
    means = last[~lost].groupby(["arm", "learning_rate"])[chosen_by].mean().reset_index()
    best = means.loc[means.groupby("arm")[chosen_by].idxmin()]
    pairs = set(zip(best["arm"], best["learning_rate"], strict=True))
    last["best"] = [pair in pairs for pair in zip(last["arm"], last["learning_rate"], strict=True)]
    drawn = last[["arm", "learning_rate", "seed", y, "fate", "best"]]
    text = description or f"{axis_title(y)} against learning rate, best rate of each arm ringed: {_names(drawn)}."
    return _u_curve_layers(drawn, y, float(min(finite.min(), ceiling)), ceiling, text, note)


def _u_curve_layers(
    rows: pd.DataFrame, y: str, floor: float, ceiling: float, text: str, note: str | None
) -> alt.LayerChart:
    domain = [floor - 0.05 * (ceiling - floor), ceiling]
    vertical = alt.Y(f"{y}:Q", title=axis_title(y), scale=alt.Scale(domain=domain, nice=False, zero=False))
    base = alt.Chart(_checked(rows)).encode(x=_x("learning_rate", True), color=_color(rows["arm"], "arm"))
    finished = base.transform_filter("datum.fate == 'finished'")
    best = finished.transform_filter("datum.best").transform_aggregate(
        mean=f"mean({y})", groupby=["arm", "learning_rate"])
    ring = best.mark_point(size=260, strokeWidth=2, filled=False, shape="circle").encode(y="mean:Q")
    lost = base.transform_filter("datum.fate != 'finished'").mark_point(size=60, strokeWidth=2, shape=CROSS).encode(
        y=vertical, tooltip=["arm", "learning_rate", "seed", "fate"])
    layers = _mean_and_seeds(finished, rows, vertical, y, "arm")
    return alt.LayerChart(layer=[*layers, ring, lost], description=text, title=_heading(note))


def early_steps(
    frame: pd.DataFrame,
    *,
    learning_rate: float,
    reference: str,
    y: str = "test_loss",
    last_step: int = 30,
    description: str | None = None,
    note: str | None = None,
) -> alt.LayerChart:
    """First steps at one learning rate: each arm's `y` minus that of the arm `reference`, seed by seed.

    Args:
        learning_rate: one rate that every arm has run.
        reference: the arm that is subtracted, such as "rank 16"; it lies on zero.
        last_step: steps beyond it are left out.
    """
    require(frame, "arm", "seed", "learning_rate", "step", y)
    near = (frame["learning_rate"] / learning_rate - 1).abs() < 1e-6
    rows = frame[near & (frame["step"] <= last_step)]
    if reference not in set(rows["arm"]):
        raise PlotError(f"no run of arm {reference!r} at learning rate {learning_rate:g}; arms there: {_names(rows)}")
    pivot = rows[rows["arm"] == reference].groupby(["seed", "step"])[y].first().rename("reference_loss")
    joined = rows.join(pivot, on=["seed", "step"]).dropna(subset=[y, "reference_loss"])
    difference = f"{y}_difference"
    joined = joined.assign(**{difference: joined[y] - joined["reference_loss"]})
    text = description or f"Difference in {axis_title(y)} from {reference} over the first {last_step} steps."
    return lines(joined, "step", difference, log_x=False, description=text, note=note,
                 y_title=f"difference from {reference} (nats per label token)")


def spectrum(
    frame: pd.DataFrame,
    *,
    y: str = "singular_value",
    description: str | None = None,
    note: str | None = None,
) -> alt.LayerChart:
    """Spectrum of ΔW: one thin line per module, their median as a thick one.

    Args:
        frame: one row per (module, index): module, index (1 is the largest singular value) and the column `y`:
            `singular_value` (log axis) or `energy` (share of the squared Frobenius norm kept by the first ones).
    """
    require(frame, "module", "index", y)
    rows = _checked(frame[["module", "index", y]])
    log = y != "energy"
    rows = rows[rows[y] > 0] if log else rows
    text = description or f"{axis_title(y)} for {rows['module'].nunique()} modules against the index."
    vertical = alt.Y(f"{y}:Q", title=axis_title(y), scale=alt.Scale(type="log" if log else "linear", zero=False))
    base = alt.Chart(rows).encode(x=_x("index", True))
    thin = base.mark_line(strokeWidth=1, opacity=0.55, color="#7a63d8").encode(
        y=vertical, detail="module:N", tooltip=["module", "index", y])
    middle = alt.Y(f"median({y}):Q", title=axis_title(y))
    thick = base.mark_line(strokeWidth=2.5, color=INK).encode(y=middle)
    return alt.LayerChart(layer=[thin, thick], description=text, title=_heading(note))


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    color: str = "arm",
    *,
    log_x: bool = True,
    log_y: bool = False,
    x_title: str | None = None,
    y_title: str | None = None,
    description: str | None = None,
    note: str | None = None,
) -> alt.LayerChart:
    """Any quantity against any other: seeds as points, their mean as a line, one colour, shape and dash per arm.

    Args:
        frame: one row per point, with the columns `x`, `y`, `color` and, where there are several, `seed`.
        log_x, log_y: logarithmic axes; values of 0 or less cannot be drawn on one and are refused.

    Raises:
        PlotError: a missing column, no row, more than 5,000 rows, or a value ≤ 0 on a logarithmic axis.
    """
    require(frame, x, y, color)
    kept = [c for c in frame.columns if c in {x, y, color, "seed", "learning_rate"}]
    rows = _checked(frame[kept].replace([math.inf, -math.inf], math.nan).dropna(subset=[y]))
    for column, log in ((x, log_x), (y, log_y)):
        if log and (rows[column] <= 0).any():
            raise PlotError(f"{column} has values of 0 or less, which a logarithmic axis cannot show: drop those rows")
    title = y_title or axis_title(y)
    scale = alt.Scale(type="log" if log_y else "linear", zero=False, nice=not log_y)
    base = alt.Chart(rows).encode(x=_x(x, log_x, x_title), color=_color(rows[color], color))
    arms = ", ".join(arm_order(rows[color].astype(str)))
    text = description or f"{title} against {x_title or axis_title(x)}: {arms}."
    layers = _mean_and_seeds(base, rows, alt.Y(f"{y}:Q", title=title, scale=scale), y, color)
    return alt.LayerChart(layer=layers, description=text, title=_heading(note))


def _mean_and_seeds(base: alt.Chart, rows: pd.DataFrame, vertical: alt.Y, y: str, color: str) -> list[alt.Chart]:
    """The mean over seeds as a line with the arm's dash, and every seed as a point with the arm's shape."""
    order, _, shapes, dashes = arm_scales(rows[color].astype(str))
    middle = vertical.copy()
    middle.shorthand = f"mean({y}):Q"
    mean = base.mark_line(strokeWidth=2).encode(
        y=middle,
        strokeDash=alt.StrokeDash(f"{color}:N", scale=alt.Scale(domain=order, range=dashes), title=None),
    )
    seeds = base.mark_point(size=32, opacity=0.75, strokeWidth=1.4, filled=False).encode(
        y=vertical,
        shape=alt.Shape(f"{color}:N", scale=alt.Scale(domain=order, range=shapes), title=None),
        tooltip=[alt.Tooltip(c, format=".4~g" if rows[c].dtype.kind == "f" else "") for c in rows.columns],
    )
    return [mean, seeds]


def bars(
    frame: pd.DataFrame,
    *,
    x: str = "parameters",
    y: str = "component",
    color: str | None = None,
    x_title: str | None = None,
    description: str | None = None,
    note: str | None = None,
) -> alt.Chart:
    """Counts per component as horizontal bars, in the frame's order; the description lists the numbers.

    >>> import pandas as pd
    >>> bars(pd.DataFrame({"component": ["attention", "mlp"], "parameters": [10, 20]})).description
    'trainable parameters (count): attention 10, mlp 20.'
    """
    require(frame, x, y, *([color] if color else []))
    rows = _checked(frame[list(dict.fromkeys([y, x, *([color] if color else [])]))])
    listed = ", ".join(f"{name} {value:,.4g}" for name, value in zip(rows[y], rows[x], strict=True))
    text = description or f"{x_title or axis_title(x)}: {listed}."
    order = list(dict.fromkeys(rows[y]))
    fill = _color(rows[color], color) if color else alt.value("#2a78d6")
    return alt.Chart(rows, title=_heading(note)).mark_bar(height=16, opacity=0.9).encode(
        x=alt.X(f"{x}:Q", title=x_title or axis_title(x), axis=alt.Axis(format="~s")),
        y=alt.Y(f"{y}:N", sort=order, title=None),
        color=fill,
        tooltip=list(rows.columns),
        **({"yOffset": alt.YOffset(f"{color}:N", sort=arm_order(rows[color].astype(str)))} if color else {}),
    ).properties(description=text, height=alt.Step(24))


def require(frame: pd.DataFrame, *columns: str) -> None:
    """Raise PlotError unless the frame has rows and all the columns; the message names those that it has."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise PlotError(f"the frame lacks {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise PlotError("the frame has no rows: run the experiment first (`lorakit run EXPERIMENT`)")


def _checked(rows: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        raise PlotError("no row has a finite value to draw")
    if len(rows) > MAX_ROWS:
        raise PlotError(f"{len(rows):,} rows; a chart holds {MAX_ROWS:,} at most: aggregate first")
    return rows


def _x(column: str, log: bool, title: str | None = None) -> alt.X:
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(zero=False, padding=12)
    axis = alt.Axis(format="~g", tickCount=6) if column == "learning_rate" else alt.Axis(format="~s", tickCount=6)
    return alt.X(f"{column}:Q", title=title or axis_title(column), scale=scale, axis=axis)


def _color(values: Sequence[str] | pd.Series, column: str) -> alt.Color:
    order, colors, _, _ = arm_scales(str(value) for value in values)
    return alt.Color(f"{column}:N", scale=alt.Scale(domain=order, range=colors), title=None)


def _heading(note: str | None) -> Any:
    return alt.TitleParams(note, fontStyle="italic", fontSize=12) if note else alt.Undefined


def _names(rows: pd.DataFrame) -> str:
    return ", ".join(arm_order(rows["arm"].astype(str)))
