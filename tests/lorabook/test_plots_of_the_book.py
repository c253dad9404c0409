"""What the book makes of `plots`."""

import math
import warnings

import altair as alt
import pandas as pd
import pytest

from lorabook.page import rendering
from lorakit.analysis import plots


def sweep_frame(*, diverged=("full", 1e-1)):
    """Two arms, three rates, two seeds, three steps; the loss is known in closed form."""
    rows = []
    for arm, rank, best in (("full", math.nan, 1e-3), ("rank 4", 4.0, 1e-2)):
        for rate in (1e-4, 1e-3, 1e-2, 1e-1):
            for seed in (0, 1):
                for step in (0, 1, 10):
                    loss = 3.0 - 0.1 * step / (1 + abs(math.log10(rate / best))) + 0.01 * seed
                    lost = (arm, rate) == diverged and step == 10
                    values = dict.fromkeys(("train_loss", "validation_loss", "test_loss"), math.inf if lost else loss)
                    rows.append({"id": f"{arm} {rate} {seed}", "model": "m", "dataset": "d", "batch_size": 4,
                                 "method": "full" if arm == "full" else "lora", "rank": rank, "arm": arm,
                                 "learning_rate": rate, "seed": seed, "step": step, "tokens": step * 256.0, **values,
                                 "status": "diverged" if (arm, rate) == diverged else "ok"})
    return pd.DataFrame(rows)


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
