"""Charts: a tidy frame in, an `alt.Chart` out; no input, no output, no training. Captions are the caller's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from lorakit.analysis.curves import pointwise_minimum
from lorakit.analysis.dot_plots import counts as counts
from lorakit.analysis.dot_plots import dots as dots
from lorakit.analysis.marks import (
    HIGHER_IS_BETTER,
    PlotError,
    axis_format,
    checked,
    colors,
    domain_of,
    layered,
    mean_and_band,
    names_at_ends,
    over_seeds_at,
    require,
    rule_marks,
    x_axis,
)
from lorakit.analysis.palette import INK, arm_order, axis_title

CHOSEN_BY = "validation_loss"
CROSS = "M-0.7,-0.7L0.7,0.7M0.7,-0.7L-0.7,0.7"


def loss_against_steps(frame: pd.DataFrame, *, y: str = "test_loss", title: str | None = None,
                       note: str | None = None) -> alt.LayerChart:
    """Loss of each arm at its best learning rate for every training length: the mean over seeds, with its interval.

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
    text = f"{axis_title(y)} against {axis_title('step')}, best rate of each arm: {_names(best)}."
    return lines(best, "step", y, title=title, description=text, note=note)


def u_curve(
    frame: pd.DataFrame,
    *,
    y: str = "test_loss",
    ceiling: float | None = None,
    title: str | None = None,
    note: str | None = None,
) -> alt.LayerChart:
    """Final result against learning rate, per arm: the mean as a line, 95 % intervals as bands, best rates ringed.

    Runs that diverged, or whose loss ends above `ceiling`, are crosses on the edge, so that no failure goes unseen; at
    the rate of such a run the line has no point, since a mean of the others would flatter the arm.

    Args:
        frame: as of `loss_against_steps`, with `id` and `status`; the last step of each run is drawn.
        y: a loss, or a share or reward that is better when it is higher (its name ends in `accuracy` or `reward`).
        ceiling: the top of a chart of losses, in the unit of `y`; None takes the highest loss of the first curve
            points (the untrained model, or nearly) plus a tenth of the range.
    """
    require(frame, "id", "arm", "seed", "learning_rate", "step", "status", y, CHOSEN_BY)
    rows = frame.replace(math.inf, math.nan).sort_values("step")
    last = rows.groupby("id", as_index=False).tail(1).copy()
    finite = last.loc[last["status"] == "ok", y].dropna()
    if finite.empty:
        raise PlotError(f"no run has a finite {y}: nothing to draw a curve through")
    upwards = y.endswith(HIGHER_IS_BETTER)
    if ceiling is None:
        start = rows.groupby("id")[y].first().max()
        top = start if start > finite.min() and not upwards else finite.max()
        ceiling = top + 0.1 * (top - finite.min())
    lost = (last["status"] != "ok") | last[y].isna() | (last[y] > ceiling)
    whole = last[~lost.groupby([last["arm"], last["learning_rate"]]).transform("any")]
    means = whole.groupby(["arm", "learning_rate"])[CHOSEN_BY].mean().reset_index()
    best = means.loc[means.groupby("arm")[CHOSEN_BY].idxmin()].groupby("arm")["learning_rate"].first()
    drawn = over_seeds_at(whole, "learning_rate", y, "arm").assign(lost=0)
    drawn["best"] = drawn["learning_rate"] == drawn["arm"].map(best)
    floor = float(min(finite.min(), ceiling))
    domain = [floor - 0.05 * (ceiling - floor), ceiling]
    edge, inwards = (domain[0], 1) if upwards else (ceiling, -1)
    gone = last[lost].groupby(["arm", "learning_rate"]).size().rename("lost").reset_index()
    shift = {arm: 0.03 * i * inwards * (ceiling - floor) for i, arm in enumerate(arm_order(last["arm"]))}
    gone[y] = [edge + shift[arm] for arm in gone["arm"]]  # failures at one rate: side by side
    text = f"{axis_title(y)} against learning rate, best rate of each arm ringed: {_names(last)}."
    rows = pd.concat([drawn, gone], ignore_index=True) if len(gone) else drawn
    vertical = alt.Y(f"{y}:Q", title=axis_title(y), scale=alt.Scale(domain=domain, nice=False, zero=False))
    across, hues = x_axis("learning_rate", True, values=last["learning_rate"]), colors(rows["arm"], "arm")
    base = alt.Chart(checked(rows)).encode(x=across, color=hues)
    lines = base.transform_filter("datum.lost == 0")
    ring = lines.transform_filter("datum.best").mark_point(size=260, strokeWidth=2, filled=False).encode(y=vertical)
    cross = base.transform_filter("datum.lost > 0").mark_point(size=60, strokeWidth=2, shape=CROSS).encode(
        y=vertical, tooltip=["arm", "learning_rate", alt.Tooltip("lost:Q", title="runs diverged or beyond the chart")])
    named = names_at_ends(drawn if len(drawn) else gone, "learning_rate", y, "arm", vertical, across, hues, domain)
    return layered([*mean_and_band(lines, rows, vertical, y, "arm"), named, ring, cross], text, title, note)


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
    rules: Sequence[float] | Mapping[float, str] = (),
    margin: float | None = None,
    title: str | None = None,
    description: str | None = None,
    note: str | None = None,
) -> alt.LayerChart:
    """Any quantity against any other: the mean over seeds as a line with its name at the end, 95 % intervals as bands.

    Args:
        frame: one row per point, with the columns `x`, `y`, `color` and, where there are several, `seed`.
        log_x, log_y: logarithmic axes; values of 0 or less cannot be drawn on one and are refused. Means on a
            logarithmic `y` are geometric.
        rules: heights of dashed lines to compare with, with their names if wanted: `(0,)`, `{10: "ten times"}`.
        margin: the half width of a grey band around 0, within which a difference counts as none.
        title: what the chart shows, above it.
        note: a line beneath the title, such as "illustration: 3 seeds".

    Raises:
        PlotError: a missing column, no row, more than 5,000 rows, or a value ≤ 0 on a logarithmic axis.
    """
    require(frame, x, y, color)
    rows = checked(frame.replace([math.inf, -math.inf], math.nan).dropna(subset=[y]))
    for column, log in ((x, log_x), (y, log_y)):
        if log and (rows[column] <= 0).any():
            raise PlotError(f"{column} has values of 0 or less, which a logarithmic axis cannot show: drop those rows")
    label = y_title or axis_title(y)
    drawn, domain = over_seeds_at(rows, x, y, color, log_y), domain_of([*rows[y], *rules], log_y)
    written = alt.Axis(format=axis_format(rows[y], log_y, y)) if log_y else alt.Undefined
    vertical = alt.Y(f"{y}:Q", title=label, axis=written,
                     scale=alt.Scale(type="log" if log_y else "linear", domain=domain, zero=False, nice=False))
    across, hues = x_axis(x, log_x, x_title, rows[x]), colors(drawn[color], color)
    base = alt.Chart(drawn).encode(x=across, color=hues)
    text = description or f"{label} against {x_title or axis_title(x)}: {', '.join(arm_order(drawn[color]))}."
    named = names_at_ends(drawn, x, y, color, vertical, across, hues, domain, log_y)
    band = [alt.Chart().mark_rect(opacity=0.1, color=INK, clip=True).encode(y=alt.datum(-margin), y2=alt.datum(margin))
            ] if margin else []
    marks = [*mean_and_band(base, drawn, vertical, y, color), named, *rule_marks(rules), *band]
    return layered(marks, text, title, note)


def bars(
    frame: pd.DataFrame,
    *,
    x: str = "parameters",
    color: str | None = None,
    x_title: str | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Quantities per component as horizontal bars with their numbers, in the frame's order: thousands as 1k.

    >>> import pandas as pd
    >>> bars(pd.DataFrame({"component": ["attention", "mlp"], "parameters": [10, 20]})).description
    'trainable parameters (count): attention 10, mlp 20.'
    """
    columns = ["component", x, *([color] if color else [])]
    require(frame, *columns)
    rows = checked(frame[list(dict.fromkeys(columns))])
    listed = ", ".join(f"{name} {value:,.4g}" for name, value in zip(rows["component"], rows[x], strict=True))
    text = f"{x_title or axis_title(x)}: {listed}."
    order = list(dict.fromkeys(rows["component"]))
    fill = colors(rows[color], color, legend=True) if color else alt.value("#2a78d6")
    prefixed = rows[x].abs().max() >= 1000
    base = alt.Chart(rows).encode(
        x=alt.X(f"{x}:Q", title=x_title or axis_title(x),
                axis=alt.Axis(format="~s" if prefixed else "~g", tickCount=6)),
        y=alt.Y("component:N", sort=order, title=None),
        color=fill,
        tooltip=list(rows.columns))
    if color:
        base = base.encode(yOffset=alt.YOffset(f"{color}:N", sort=arm_order(rows[color].astype(str))))
    numbers = base.mark_text(align="left", dx=4).encode(text=alt.Text(f"{x}:Q", format=".3~s" if prefixed else ".3~r"))
    return layered([base.mark_bar(height=16, opacity=0.9), numbers], text, title, None).properties(height=alt.Step(24))


def _names(rows: pd.DataFrame) -> str:
    return ", ".join(arm_order(rows["arm"].astype(str)))
