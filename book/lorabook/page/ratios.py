"""Best rate of LoRA over full fine-tuning's, on every scale that this book or a public run measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd

from lorabook.experiments.results import recorded
from lorabook.page.public import RL_QUOTED, SFT_QUOTED
from lorabook.page.rendering import on_paper, theme
from lorakit.analysis.palette import INK
from lorakit.analysis.statistics import Interval
from lorakit.analysis.sweep import Sweep
from lorakit.records import Record

SUPERVISED, REWARD = "supervised", "by reward (RL)"
THE_ARTICLES = 10.0
COLOURS = {SUPERVISED: "#2a78d6", REWARD: "#cd5a1c"}
WIDE = 4.0  # a ratio whose interval's ends lie so many times apart is drawn and not quoted
SEEDS = range(5)
STATIC = Path(__file__).resolve().parents[2] / "_static"


@dataclass(frozen=True)
class Ratio:
    """One scale that was measured.

    Args:
        base: the model.
        setting: length or task, and rank, in a few words.
        kind: `SUPERVISED` or `REWARD`.
        span: the ratio, with an interval over seeds where there are several.
        ours: False for figures that others published.
    """

    base: str
    setting: str
    kind: str
    span: Interval
    ours: bool = True


def ratios() -> list[Ratio]:
    """Every one of them, small to large within a kind; one arm a scale, of rank 8 to 32 where there is one."""
    smollm2 = [r for seed in SEEDS for r in recorded(f"learning-rate-smollm2-{seed}")]
    others = "rank 16, others' run"
    return [
        Ratio("tiny", "32 wide, rank 4", SUPERVISED, ladder(32)),
        Ratio("tiny", "64 wide, rank 4", SUPERVISED, ladder(64)),
        Ratio("tiny", "128 wide, rank 16", SUPERVISED, over_full(recorded("learning-rate-fresh"), 16)),
        Ratio("tiny", "256 wide, rank 4", SUPERVISED, ladder(256)),
        Ratio("SmolLM2-135M", "100 steps, rank 16", SUPERVISED, over_full(smollm2, 16)),
        Ratio("SmolLM2-135M", "1,000 steps, rank 16", SUPERVISED, over_full(on_gpu(), 16)),
        Ratio("Qwen3-4B", others, SUPERVISED, one_run(SFT_QUOTED["rank 16"]["ratio"]), False),
        Ratio("tiny", "copying, rank 8", REWARD, over_full(recorded("grpo"), 8)),
        Ratio("tiny", "a new form, rank 32", REWARD, over_full(recorded("grpo-form"), 32)),
        Ratio("Qwen3-1.7B", others, REWARD, one_run(RL_QUOTED["rank 16"]["ratio"]), False),
    ]


def on_gpu() -> list[Record]:
    """SmolLM2-135M for 1,000 steps on one H200: full fine-tuning and rank 16, which have all seeds."""
    found = [r for seed in SEEDS for r in recorded(f"smollm2-rank-{seed}", "gpu")]
    return [r for r in found if (r.spec["lora"]["rank"] == 16 if r.spec["lora"] else "full_targets" not in r.spec)]


def over_full(records: Iterable[Record], rank: int) -> Interval:
    """The ratio of one rank, over the window that every rule takes."""
    return Sweep(records, strict=True).ratio()[f"rank {rank}"]


def ladder(width: int) -> Interval:
    """The same on one base of the width ladder."""
    name = "learning-rate-width-256" if width == 256 else "learning-rate-width"
    return over_full([r for r in recorded(name) if f"-w{width}-" in r.spec["model"]], 4)


def one_run(ratio: float) -> Interval:
    """A figure without an interval."""
    return Interval(ratio, ratio, ratio, 1)


def chart(found: list[Ratio], title: str, description: str) -> alt.LayerChart:
    """A dot and an interval a scale, on a log axis, with the article's ten as a line."""
    rows = pd.DataFrame([{"scale": f"{one.base}|{one.setting}", "training": one.kind,
                          "ratio": one.span.mean, "low": one.span.low,
                          "high": one.span.high, "text": f"{one.span.mean:.1f}",
                          "whose": "measured here" if one.ours else "others'"} for one in found])
    axis = alt.Axis(values=[0.5, 1, 2, 3, 5, 10, 20], format="~g")
    base = alt.Chart(rows).encode(
        y=alt.Y("scale:N", sort=list(rows["scale"]), title=None, axis=alt.Axis(
            labelExpr="split(datum.label, '|')", labelLineHeight=13, ticks=False, domain=False)),
        color=alt.Color("training:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
                        legend=alt.Legend(orient="bottom", columns=1, symbolType="circle")))
    across = alt.Scale(type="log", domain=[0.5, 24], nice=False)
    dots = base.mark_point(size=90, filled=True, opacity=1).encode(
        x=alt.X("ratio:Q", scale=across, axis=axis, title="best rate of LoRA over full fine-tuning's (log scale)"),
        shape=alt.Shape("whose:N", title=None, scale=alt.Scale(domain=["measured here", "others'"],
                                                               range=["circle", "diamond"]),
                        legend=alt.Legend(orient="bottom", columns=1)),
        tooltip=["scale", "training", alt.Tooltip("ratio:Q", format=".1f"), alt.Tooltip("low:Q", format=".1f"),
                 alt.Tooltip("high:Q", format=".1f"), "whose"])
    spans = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=across, title=None), x2="high:Q")
    words = base.mark_text(dy=-10, fontSize=12).encode(x="ratio:Q", text="text:N", color=alt.value(INK))
    ten = alt.Chart(pd.DataFrame({"ratio": [THE_ARTICLES], "label": ["the article: ten times"]}))
    line = ten.mark_rule(strokeDash=[5, 3], color=INK).encode(x=alt.X("ratio:Q", scale=across))
    label = ten.mark_text(align="right", dx=-5, dy=-6, color=INK).encode(x="ratio:Q", y=alt.value(0), text="label:N")
    return alt.LayerChart(layer=[line, spans, dots, words, label], description=description,
                          title=alt.TitleParams(title, fontSize=15, fontWeight="bold", anchor="start", offset=14)
                          ).properties(height=alt.Step(38), width=460)


def described(found: list[Ratio]) -> str:
    """The chart in words, for those who do not see it."""
    parts = [f"{one.base}, {one.setting}, {one.kind}: {one.span.mean:.1f}" for one in found]
    return "Best rate of LoRA over full fine-tuning's, against the article's ten. " + "; ".join(parts) + "."


def of(found: list[Ratio], base: str, setting: str) -> Interval:
    """The span of one scale.

    Args:
        base: its model.
        setting: how its words begin.
    """
    (one,) = (each for each in found if each.base == base and each.setting.startswith(setting))
    return one.span


def settled(found: list[Ratio], kind: str, base: str | None = None) -> list[float]:
    """What sentences quote of a kind: ratios whose interval spans less than `WIDE`, and single runs without one."""
    return [one.span.mean for one in found
            if one.kind == kind and base in (None, one.base) and one.span.high < WIDE * one.span.low]


def in_readme(found: list[Ratio]) -> bool:
    """Whether the picture beside README shows these numbers; `python -m lorabook.page.ratios` draws it anew."""
    drawn = (STATIC / "ratio.svg").read_text(encoding="utf-8")
    return all(f">{one.span.mean:.1f}<" in drawn for one in found)


def write_pictures(folder: Path) -> None:
    """The chart as `ratio.svg` (README) and `ratio.png` (previews of the landing page)."""
    import vl_convert

    found = ratios()
    spec = chart(found, "Best learning rate of LoRA over full fine-tuning's", described(found)).to_dict()
    drawn = on_paper(spec | {"config": theme()["config"]})
    (folder / "ratio.svg").write_text(vl_convert.vegalite_to_svg(drawn), encoding="utf-8")
    (folder / "ratio.png").write_bytes(vl_convert.vegalite_to_png(drawn, scale=2))


if __name__ == "__main__":
    write_pictures(STATIC)
