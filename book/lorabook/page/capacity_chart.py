"""The interactive chart of capacity: bits that an adapter holds against bits that a run brings, with knobs to turn."""

from __future__ import annotations

from collections.abc import Iterable

import altair as alt
import pandas as pd

from lorakit.analysis.palette import INK
from lorakit.theory.shapes import TARGETS, ModelShape

SHOWN = ("tiny", "smollm2-135m", "llama-3.2-1b", "qwen3-4b", "llama-3.1-8b", "qwen3-8b", "gemma-3-12b", "qwen3-30b-a3b")
LEAST = 100  # bits, where the axis begins
RANKS = tuple(2**power for power in range(10))
EVERYTHING = tuple(name for name in TARGETS if "head" not in name)


def adapter_weights(models: Iterable[str] = SHOWN, targets: Iterable[str] = EVERYTHING) -> pd.DataFrame:
    """Useful adapter weights (those beyond a matrix's rank hold nothing) of each model, target group and rank.

    >>> rows = adapter_weights(["tiny"], ["all-linear"])
    >>> rows.loc[rows["rank"] == 1, "weights"].item()
    4352
    """
    rows = []
    for name in models:
        shape = ModelShape.of(name)
        for group in targets:
            for rank in RANKS:
                useful = sum(m.lora_parameters(rank) - m.wasted_parameters(rank) for m in shape.adapted(group))
                rows.append({"model": name, "targets": group, "rank": rank, "weights": useful})
    return pd.DataFrame(rows)


def held_against_needed(rows: pd.DataFrame, *, model: str, bits_per_weight: float,
                        description: str) -> alt.LayerChart | alt.FacetChart:
    """Two bars on a log axis, bits held and bits needed; menus and sliders choose everything, in the browser alone.

    Args:
        rows: of `adapter_weights`.
        model: shown first.
        bits_per_weight: where its slider starts.
    """
    params = [
        alt.param("model", value=model, bind=alt.binding_select(options=sorted(set(rows["model"])), name="model ")),
        alt.param("targets", value=EVERYTHING[0], bind=alt.binding_select(options=list(EVERYTHING), name="targets ")),
        alt.param("rank", value=1, bind=alt.binding_select(options=list(RANKS), name="rank ")),
        alt.param("weight_bits", value=bits_per_weight,
                  bind=alt.binding_range(min=0.1, max=4, step=0.1, name="bits a weight holds ")),
        alt.param("unit", value="label tokens",
                  bind=alt.binding_radio(options=["label tokens", "episodes"], name="the run brings ")),
        alt.param("power", value=7, bind=alt.binding_range(min=2, max=10, step=0.1, name="how many (power of ten) ")),
        alt.param("unit_bits", value=1, bind=alt.binding_range(min=0.1, max=8, step=0.1, name="bits each ")),
    ]
    base = alt.Chart(rows).transform_filter(
        "datum.model == model && datum.targets == targets && datum.rank == rank"
    ).transform_calculate(
        held="datum.weights * weight_bits", needed="pow(10, power) * unit_bits",
    ).transform_fold(["held", "needed"], as_=["what", "bits"]).encode(
        y=alt.Y("what:N", sort=["held", "needed"], title=None, scale=alt.Scale(padding=0.35)),
        x=alt.X("bits:Q", title="bits (log scale)", stack=None, axis=alt.Axis(format="~s", tickCount=6),
                scale=alt.Scale(type="log", domain=[LEAST, 1e13])),
    )
    bars = base.mark_bar(clip=True).encode(x2=alt.datum(LEAST), color=alt.Color(
        "what:N", legend=None, scale=alt.Scale(domain=["held", "needed"], range=["#2a78d6", "#cd5a1c"])))
    words = base.mark_text(align="left", dx=6, color=INK).encode(text=alt.Text("bits:Q", format=".3~s"))
    heading = ("model + ', ' + targets + ', rank ' + rank + ', against ' + format(pow(10, power), '.2~s') + ' ' + unit "
               "+ ' of ' + format(unit_bits, '.1f') + ' bits'")
    return alt.layer(bars, words, title=alt.TitleParams(alt.ExprRef(heading))).add_params(*params).properties(
        height=120, description=description)
