"""The interactive chart of capacity: the rank that a run needs, printed large, and what each rank holds."""

from __future__ import annotations

import json
from collections.abc import Iterable

import altair as alt
import pandas as pd

from lorakit.analysis.palette import INK
from lorakit.theory.capacity import ADVISED, BITS_PER_PARAMETER
from lorakit.theory.shapes import ModelShape

SHOWN = ("tiny", "smollm2-135m", "llama-3.2-1b", "qwen3-4b", "llama-3.1-8b", "qwen3-8b", "gemma-3-12b", "qwen3-30b-a3b")
LEAST = 1e3  # bits, where the axis begins
RANKS = tuple(2**power for power in range(10))
AMOUNTS = {1e4: "10 thousand", 1e5: "100 thousand", 1e6: "1 million", 5e6: "5 million", 2e7: "20 million",
           1e8: "100 million", 1e9: "a billion"}
BITS_EACH, BITS_A_WEIGHT = (0.1, 0.5, 1, 2, 4), (0.5, 1, BITS_PER_PARAMETER)


def adapter_weights(models: Iterable[str] = SHOWN) -> pd.DataFrame:
    """Useful weights (those beyond a matrix's rank hold nothing) of an adapter on all linear layers, by model and rank.

    >>> rows = adapter_weights(["tiny"])
    >>> rows.loc[rows["rank"] == 1, "weights"].item()
    4352
    """
    rows = []
    for name in models:
        matrices = ModelShape.of(name).adapted("all-linear")
        for rank in RANKS:
            useful = sum(m.useful_parameters(rank) for m in matrices)
            rows.append({"model": name, "rank": rank, "weights": useful,
                         "whole": rank <= min(min(m.d_in, m.d_out) for m in matrices)})
    return pd.DataFrame(rows)


def rank_needed(rows: pd.DataFrame, *, model: str, description: str) -> alt.LayerChart | alt.FacetChart:
    """The rank in large letters, above bars of what each rank holds; menus choose everything, in the browser alone.

    The floor is the bits needed over the bits of a unit of rank, rounded up: exact up to the smallest side of a
    matrix, beyond which the title says that the rank is above it.

    Args:
        rows: of `adapter_weights`.
        model: shown first.
    """
    units = json.dumps(rows[rows["rank"] == 1].set_index("model")["weights"].to_dict())
    most = json.dumps(rows[rows["whole"]].groupby("model")["rank"].max().to_dict())
    params = [
        alt.param("model", value=model, bind=alt.binding_select(options=sorted(set(rows["model"])), name="model ")),
        alt.param("amount", value=2e7, bind=alt.binding_select(
            options=list(AMOUNTS), labels=list(AMOUNTS.values()), name="your run has ")),
        alt.param("unit", value="label tokens",
                  bind=alt.binding_radio(options=["label tokens", "episodes"], name=" ")),
        alt.param("unit_bits", value=1, bind=alt.binding_select(options=list(BITS_EACH), name="bits each ")),
        alt.param("weight_bits", value=BITS_PER_PARAMETER,
                  bind=alt.binding_select(options=list(BITS_A_WEIGHT), name="bits a weight holds ")),
        alt.param("needed", expr="amount * unit_bits"),
        alt.param("floor", expr=f"ceil(needed / ({units}[model] * weight_bits))"),
        alt.param("most", expr=f"{most}[model]"),
    ]
    low, high = ADVISED
    answer = "floor > most ? 'You need more than rank ' + most : 'You need rank ' + floor"
    advice = (f"floor > most ? 'adapt more, or train all weights' : 'as a floor; take ' + min({low} * floor, most) + "
              f"' to ' + min({high} * floor, most) + ', four to eight times it'")
    base = alt.Chart(rows).transform_filter("datum.model == model").transform_calculate(
        held="datum.weights * weight_bits",
        enough="datum.weights * weight_bits >= needed ? 'holds them' : 'too small'")
    scale = alt.Scale(type="log", domain=[LEAST, 1e11])
    place = alt.Y("rank:O", title="rank")
    bars = base.mark_bar(clip=True, height={"band": 0.7}).encode(
        y=place, x=alt.X("held:Q", title="bits that an adapter holds (log scale)", scale=scale,
                         axis=alt.Axis(format="~s", tickCount=6)),
        x2=alt.datum(LEAST), color=alt.Color("enough:N", title=None, scale=alt.Scale(
            domain=["holds them", "too small"], range=["#2a78d6", "#cd5a1c"]), legend=alt.Legend(orient="bottom")))
    line = alt.Chart(rows.head(1)).transform_calculate(needed="needed").mark_rule(
        strokeDash=[5, 3], strokeWidth=2, color=INK).encode(x=alt.X("needed:Q", scale=scale))
    title = alt.TitleParams(alt.ExprRef(answer), fontSize=26, fontWeight="bold", anchor="start", offset=32)
    words = alt.Chart(rows.head(1)).mark_text(text=alt.ExprRef(advice), align="left", fontSize=14, color=INK).encode(
        x=alt.value(0), y=alt.value(-18))
    return alt.layer(bars, line, words, title=title).add_params(*params).properties(height=240, description=description)
