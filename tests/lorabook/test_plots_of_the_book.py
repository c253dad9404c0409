"""What the book makes of `plots`."""

import math
import re
import warnings
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from test_plots import DARK, WHITE, contrast, sweep_frame

from lorabook.page import rendering
from lorakit.analysis import palette, plots
from lorakit.analysis.dot_plots import WORD_COLORS

CSS = Path(__file__).parents[2] / "book" / "_static" / "book.css"


@pytest.fixture
def book_rendering():
    theme, renderer, form = alt.theme.active, alt.renderers.active, warnings.formatwarning
    rendering.setup()
    yield
    alt.theme.enable(theme)
    alt.renderers.enable(renderer)
    warnings.formatwarning = form


def test_a_warning_on_a_page_names_no_folder_of_the_machine(book_rendering):
    said = warnings.formatwarning("the best rate is the highest", UserWarning, "/a/folder/lorakit/rates.py", 7)
    assert said == "UserWarning: the best rate is the highest\n"


def test_a_chart_leaves_its_cell_in_three_forms(book_rendering):
    pytest.importorskip("vl_convert", reason="needs the book's packages")
    forms = plots.u_curve(sweep_frame(), note="illustration: 2 seeds")._repr_mimebundle_()
    assert set(forms) == {"text/html", "image/svg+xml", "image/png", "text/plain"}
    assert forms["text/html"].count("<img alt=") == 1
    assert "currentColor" in forms["text/html"]
    assert "currentColor" not in forms["image/svg+xml"], "a picture has no page whose ink it could take"


@pytest.mark.parametrize(("page", "rule"), [(WHITE, r"^"), (DARK, r'^html\[data-theme="dark"\] ')])
def test_words_in_charts_can_be_read_on_either_page(page, rule):
    found = re.search(rule + r"\.lorakit-chart svg\.marks \.mark-text[^{]*\{ filter: brightness\(([\d.]+)\)",
                      CSS.read_text(encoding="utf-8"), re.M)
    for color in {*palette.RAMP, *palette.OTHERS, *WORD_COLORS.values()}:
        shown = "#" + "".join(f"{min(255, round(float(found[1]) * int(color[i:i + 2], 16))):02x}" for i in (1, 3, 5))
        assert contrast(shown, page) >= 4.5, color


def test_a_cell_ends_in_words_and_not_in_what_python_calls_them(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr(rendering, "_notebook_shell", lambda: shell)
    rendering.setup()
    values = "told", 1 / 3, [("a", 0.5), ("b", 2)], {"rank 1": (True, 12345), "engine": {"packed"}}, pd.Series({"a": 1})
    said = [shell.display_formatter.format(value)[0]["text/plain"] for value in values]
    assert said[:4] == ["told", "0.3333", "a, 0.5\nb, 2", "rank 1: True, 12,345\nengine: packed"]
    assert said[4].startswith("a    1"), "other objects show themselves"


def test_a_chart_without_description_is_refused(book_rendering):
    with pytest.raises(rendering.RenderingError, match="no description"):
        rendering.mimebundle({"mark": "bar"})


def test_a_description_cannot_break_out_of_the_page():
    page = rendering.chart_html({"description": '"><script>'}, "cG5n")
    assert page.count("<script") == 1
    assert "&quot;&gt;&lt;script&gt;" in page


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_value_that_is_none_or_not_finite_is_not_glued(value):
    with pytest.raises(rendering.RenderingError, match="cannot state it"):
        rendering.glue("name", value, ".2f")


def test_glue_returns_the_words_of_the_page():
    assert rendering.glue("share", 0.256, ".1%") == "25.6%"
    assert rendering.glue("verdict", "does not hold") == "does not hold"
