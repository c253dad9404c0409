"""One look for all charts: the colour, shape and dash of every arm, the axis titles, and the theme of every chart.

Text and axes use the page's own ink (`currentColor`), so one SVG reads in light and in dark mode; the ramp of the
ranks keeps a contrast of 3:1 or more against both backgrounds (WCAG 2.2, 1.4.11).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import cycle
from typing import Any

INK = "currentColor"
WIDTH, HEIGHT = 560, 340  # of a chart, in pixels
MAX_RANK = 512
NEAR = 1.5  # factor between two ranks below which their hues on the ramp look alike
RAMP = ("#2a78d6", "#7a63d8", "#b84fb4", "#d14a68", "#cd5a1c", "#a97400")
OTHERS = ("#00857c", "#8d6e2f", "#6f7780", "#b0538a", "#5b7f2b")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [7, 2], [4, 2], [2, 2], [8, 2, 2, 2], [6, 2, 1, 2, 1, 2], [1, 2], [10, 3])
TITLES = {
    "step": "training length (optimizer steps)",
    "tokens": "training length (tokens)",
    "train_loss": "training loss (nats per label token)",
    "validation_loss": "validation loss (nats per label token)",
    "test_loss": "test loss (nats per label token)",
    "test_error": "wrong answers on test problems (share)",
    "test_accuracy": "right answers on test problems (share)",
    "learning_rate": "learning rate (AdamW, constant)",
    "rank": "rank (columns of B)",
    "parameters": "trainable parameters (count)",
    "batch_size": "batch (sequences per step)",
}


def axis_title(column: str) -> str:
    """The "quantity (unit)" of a column of the tidy frame; an unknown column keeps its name.

    >>> axis_title("test_loss")
    'test loss (nats per label token)'
    >>> axis_title("hidden_size")
    'hidden size'
    """
    return TITLES.get(column, column.replace("_", " "))


def arm_rank(arm: str) -> int | None:
    """The rank in an arm's name, or None.

    >>> arm_rank("rank 16"), arm_rank("full")
    (16, None)
    """
    found = re.search(r"\brank (\d+)\b", arm)
    return int(found.group(1)) if found else None


def arm_order(arms: Iterable[str]) -> list[str]:
    """Full fine-tuning first, then ranks upwards, then the rest by name.

    >>> arm_order(["rank 16", "full", "rank 4", "base"])
    ['full', 'rank 4', 'rank 16', 'base']
    """
    return sorted(set(arms), key=lambda arm: (arm != "full", arm_rank(arm) is None, arm_rank(arm) or 0, arm))


def rank_color(rank: int) -> str:
    """The colour of a rank, the same on every page: log2(rank) on the ramp from rank 1 to rank 512.

    >>> rank_color(1), rank_color(512)
    ('#2a78d6', '#a97400')
    """
    place = min(math.log2(max(rank, 1)) / math.log2(MAX_RANK), 1.0) * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    return _mix(RAMP[low], RAMP[low + 1], place - low)


def _mix(first: str, second: str, share: float) -> str:
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def arm_scales(arms: Iterable[str]) -> tuple[list[str], list[str], list[str], list[list[int]]]:
    """The arms in order with their colours, point shapes and dashes: full fine-tuning is solid ink.

    Arms of one rank (with other targets, say), or of nearly one, share no hue: the second takes one outside the ramp.

    >>> arm_scales(["rank 1", "full"])
    (['full', 'rank 1'], ['currentColor', '#2a78d6'], ['circle', 'square'], [[1, 0], [7, 2]])
    """
    order = arm_order(arms)
    colors: list[str] = []
    spare, ramp = cycle(OTHERS), [0]
    for arm in order:
        rank = arm_rank(arm)
        if rank is None or max(rank, ramp[-1]) < NEAR * min(rank, ramp[-1]):
            colors.append(INK if arm == "full" else next(spare))
        else:
            ramp.append(rank)
            colors.append(rank_color(rank))
    shift = 0 if "full" in order else 1
    places = [i + shift for i in range(len(order))]
    return order, colors, [SHAPES[i % len(SHAPES)] for i in places], [DASHES[i % len(DASHES)] for i in places]


def theme() -> dict[str, Any]:
    """The Vega-Lite configuration of every chart: transparent, in the page's ink, thin grid."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "config": {
            "background": "transparent",
            "font": "Liberation Sans, Arial, sans-serif",
            "view": {"stroke": None},
            "axisY": {"labelLimit": 240},
            "axis": {**text, "domainColor": INK, "tickColor": INK, "gridColor": INK, "gridOpacity": 0.12},
            "legend": {**text, "symbolSize": 90, "symbolStrokeWidth": 2, "symbolFillColor": "transparent"},
            "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12},
            "title": {"color": INK, "subtitleColor": INK, "fontSize": 13, "anchor": "start", "fontWeight": "normal"},
            "text": {"color": INK, "fontSize": 12},
            "rule": {"color": INK},
        },
    }
