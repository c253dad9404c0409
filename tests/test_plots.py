import math

import pandas as pd
import pytest

from lorakit.analysis import marks as marks_of
from lorakit.analysis import palette, plots
from lorakit.analysis.statistics import Interval

WHITE, DARK = "#ffffff", "#121212"


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


def embedded(chart):
    """The rows that the chart's lines carry with them."""
    drawn = chart.to_dict()
    name = next(part["data"]["name"] for part in [drawn, *drawn["layer"]] if part.get("data", {}).get("name"))
    return pd.DataFrame(drawn["datasets"][name])


def marks(chart):
    return [layer["mark"]["type"] for layer in chart.to_dict()["layer"]]


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [palette.rank_color(2**k) for k in range(10)] + list(palette.OTHERS))
def test_every_colour_can_be_seen_on_white_and_on_the_dark_page(color):
    assert contrast(color, WHITE) >= 3
    assert contrast(color, DARK) >= 3


def test_an_arm_has_one_colour_on_every_chart_and_another_shape_than_its_neighbours():
    alone = dict(zip(*palette.arm_scales(["rank 4"])[:2], strict=True))
    order, colors, shapes, dashes = palette.arm_scales(["rank 128", "rank 4", "full", "rank 1"])
    assert order == ["full", "rank 1", "rank 4", "rank 128"]
    assert alone["rank 4"] == colors[order.index("rank 4")]
    assert len(set(colors)) == len(set(shapes)) == len(set(map(tuple, dashes))) == 4
    assert (colors[0], dashes[0]) == (palette.INK, [1, 0])


def test_arms_of_one_rank_differ_in_colour():
    _, colors, _, _ = palette.arm_scales(["rank 8", "rank 8, attention", "rank 8, mlp"])
    assert len(set(colors)) == 3
    near = palette.arm_scales(["rank 16", "rank 18, attention"])[1]
    assert near[1] not in {palette.rank_color(18), near[0]}, "hues of nearly one rank look alike"


def test_loss_against_steps_draws_the_mean_of_each_arm_at_its_best_rate():
    rows = embedded(plots.loss_against_steps(sweep_frame()))
    last = rows[rows["step"] == 10].set_index("arm")
    assert last.loc["full", "test_loss"] == pytest.approx(2.005), "at 1e-3; other rates end at 2.5 and more"
    assert last.loc["rank 4", "test_loss"] == pytest.approx(2.005), "at 1e-2"
    assert set(rows["step"]) == {1, 10}


def test_every_chart_of_runs_shows_mean_and_interval_and_names_the_lines():
    frame = sweep_frame()
    for chart in (plots.loss_against_steps(frame), plots.u_curve(frame)):
        assert marks(chart)[:3] == ["area", "line", "point"]
        band, mean, points = chart.to_dict()["layer"][:3]
        assert {band["encoding"][end]["field"] for end in ("y", "y2")} == {"low", "high"}
        assert "strokeDash" in mean["encoding"]
        assert "shape" in points["encoding"]
        assert "text" in marks(chart), "names at the ends of lines"
        assert mean["encoding"]["color"]["legend"] is None


def test_a_band_is_the_t_interval_over_seeds_and_one_seed_has_none():
    frame = pd.DataFrame({"arm": "full", "seed": [0, 1, 0], "step": [1, 1, 2], "test_loss": [1.0, 3.0, 2.0]})
    rows = embedded(plots.lines(frame, "step", "test_loss"))
    first, second = (rows[rows["step"] == step].iloc[0] for step in (1, 2))
    assert (first["test_loss"], first["seeds"]) == (2, 2)
    assert first["high"] - 2 == pytest.approx(12.706, rel=1e-3)  # t at 97.5 % with one degree of freedom, times 1
    assert pd.isna(second["low"])


def test_ticks_are_where_the_data_are():
    axis = plots.loss_against_steps(sweep_frame()).to_dict()["layer"][1]["encoding"]["x"]["axis"]
    assert axis["values"] == [1, 10]


@pytest.mark.parametrize(("heights", "apart", "expected"), [
    ([0, 0, 0], 1, [0, 1, 2]), ([9, 9], 2, [7, 9]), ([1, 5, 5.5], 1, [1, 4.75, 5.75]), ([2.0], 1, [2])])
def test_names_of_lines_keep_apart_and_within_the_chart(heights, apart, expected):
    assert marks_of.spaced(heights, apart, 0, 9) == pytest.approx(expected)


def test_names_of_lines_that_end_beside_each_other_keep_apart_and_others_stay():
    frame = pd.DataFrame([{"arm": arm, "seed": 0, "step": step, "test_loss": 1.0 + (step == 1)}
                          for arm, end in (("full", 30), ("rank 1", 100), ("rank 16", 10_000)) for step in (1, end)])
    rows = next(rows for rows in plots.lines(frame, "step", "test_loss").to_dict()["datasets"].values()
                if "name_height" in rows[0])
    heights = {row["arm"]: row["name_height"] for row in rows}
    assert abs(heights["full"] - heights["rank 1"]) > 0.04
    assert heights["rank 16"] == pytest.approx(1, abs=0.01)


def test_a_title_stands_above_its_note_and_breaks_for_a_narrow_page():
    title = plots.lines(pd.DataFrame({"arm": ["full"], "step": [1], "test_loss": [1.0]}), "step", "test_loss",
                        title="a finding of more than the sixty-six characters that one line holds", note="3 seeds")
    heading = title.to_dict()["title"]
    assert len(heading["text"]) == 2
    assert heading["subtitle"] == ["3 seeds"]


SPANS = {"rank 1": Interval(12.0, 9.0, 15.0, 5), "rank 8": Interval(1.0, -math.inf, math.inf, 1)}


def test_dots_show_means_intervals_margin_and_rules():
    drawn = plots.dots(SPANS, x_title="difference (%)", margin=5, title="Finding", note="5 seeds").to_dict()
    assert [layer["mark"]["type"] for layer in drawn["layer"]] == ["rect", "rule", "rule", "text", "point"]
    assert drawn["description"] == "difference (%): rank 1 12 (9 to 15), rank 8 1 (1 seed, no interval)."
    rows = next(rows for rows in drawn["datasets"].values() if len(rows) > 1)
    assert rows[1]["low"] is None, "one seed has no bar"
    low, high = drawn["layer"][-1]["encoding"]["x"]["scale"]["domain"]
    assert low < -5 < 15 < high


def test_dots_in_panels_share_one_scale():
    drawn = plots.dots({"text": SPANS, "skills": {"rank 1": Interval(-20, -21, -19, 3)}}, x_title="%").to_dict()
    scales = [panel["layer"][-1]["encoding"]["x"]["scale"]["domain"] for panel in drawn["vconcat"]]
    assert scales[0] == scales[1]
    assert scales[0][0] < -21
    assert [panel["title"]["text"] for panel in drawn["vconcat"]] == ["text", "skills"]


def test_dots_refuse_what_a_logarithm_lacks():
    with pytest.raises(plots.PlotError, match="0 or less"):
        plots.dots({"rank 1": Interval(1, -1, 3, 5)}, x_title="ratio", log_x=True)


def test_counts_draw_a_circle_a_run_and_write_the_sum():
    drawn = plots.counts({"full": (6, 10), "rank 8": (0, 3)}, title="Full finds it more often").to_dict()
    circles, words = (drawn["datasets"][layer["data"]["name"]] for layer in drawn["layer"])
    assert sum(row["ended"] == "succeeded" for row in circles) == 6
    assert len(circles) == 13
    assert [row["text"] for row in words] == ["6 of 10", "0 of 3"]


@pytest.mark.parametrize("found", [{}, {"full": (3, 2)}, {"full": (0, 0)}, {"full": (1, 61)}])
def test_counts_refuse_what_is_no_count(found):
    with pytest.raises(plots.PlotError):
        plots.counts(found)


def test_every_chart_takes_a_title():
    frame, parts = sweep_frame(), pd.DataFrame({"component": ["mlp"], "parameters": [20]})
    for chart in (plots.loss_against_steps(frame, title="T"), plots.u_curve(frame, title="T"),
                  plots.bars(parts, title="T"), plots.dots(SPANS, x_title="%", title="T")):
        assert chart.to_dict()["title"]["text"] == ["T"]


def test_lines_are_compared_with_named_rules_and_a_margin():
    frame = pd.DataFrame({"arm": ["full"] * 2, "step": [1, 2], "gap": [1.0, 8.0]})
    chart = plots.lines(frame, "step", "gap", rules={0: "the same"}, margin=5)
    assert marks(chart)[-3:] == ["rule", "text", "rect"]


def test_u_curve_rings_the_best_rate_and_keeps_the_diverged_runs_at_the_top():
    chart = plots.u_curve(sweep_frame())
    rows = embedded(chart)
    lost = rows[rows["lost"] > 0]
    assert lost["lost"].tolist() == [2], "both seeds"
    assert set(zip(lost["arm"], lost["learning_rate"], strict=True)) == {("full", 0.1)}
    top = chart.to_dict()["layer"][0]["encoding"]["y"]["scale"]["domain"][1]
    assert (lost["test_loss"] == top).all()
    assert set(rows.loc[rows["best"] == True, "learning_rate"]) == {1e-3, 1e-2}  # noqa: E712
    assert chart.to_dict()["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"


def test_a_u_curve_of_accuracies_has_its_peak_ringed_and_failures_at_the_bottom():
    frame = sweep_frame().assign(test_accuracy=lambda rows: 1 - rows["test_loss"] / 4)
    chart = plots.u_curve(frame, y="test_accuracy")
    rows, (bottom, top) = embedded(chart), chart.to_dict()["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert set(rows.loc[rows["best"] == True, "learning_rate"]) == {1e-3, 1e-2}  # noqa: E712
    assert (rows.loc[rows["lost"] > 0, "test_accuracy"] == bottom).all()
    assert top > rows["test_accuracy"].max()


def test_u_curve_puts_runs_above_the_ceiling_with_the_diverged():
    rows = embedded(plots.u_curve(sweep_frame(diverged=()), ceiling=2.6))
    assert (rows["lost"] > 0).any()
    assert (rows["lost"] == 0).any()
    assert rows["test_loss"].max() <= 2.6


def test_axes_say_quantity_and_unit():
    layer = plots.u_curve(sweep_frame()).to_dict()["layer"][1]["encoding"]
    assert layer["y"]["title"] == "test loss (nats per label token)"
    assert layer["x"]["title"] == "learning rate (AdamW, constant)"


@pytest.mark.parametrize("draw", [plots.loss_against_steps, plots.u_curve])
def test_a_missing_column_is_named_with_those_that_exist(draw):
    with pytest.raises(plots.PlotError, match=r"the frame lacks .*test_loss.*; it has .*train_loss"):
        draw(sweep_frame().drop(columns="test_loss"))


def test_an_empty_frame_says_so():
    with pytest.raises(plots.PlotError, match="no finished run"):
        plots.u_curve(sweep_frame().iloc[:0])


def test_too_many_rows_are_refused():
    frame = pd.DataFrame({"arm": "full", "step": range(1, 5002), "test_loss": 1.0})
    with pytest.raises(plots.PlotError, match=r"5,001 rows; a chart holds 5,000"):
        plots.lines(frame, "step", "test_loss")


def test_a_logarithmic_axis_refuses_zero():
    frame = pd.DataFrame({"arm": ["full"], "step": [0], "test_loss": [1.0]})
    with pytest.raises(plots.PlotError, match="step has values of 0 or less"):
        plots.lines(frame, "step", "test_loss")


def test_bars_describe_their_numbers():
    chart = plots.bars(pd.DataFrame({"component": ["attention", "mlp"], "parameters": [10, 20]}))
    assert chart.to_dict()["description"] == "trainable parameters (count): attention 10, mlp 20."


def test_a_rate_at_which_one_seed_is_lost_has_a_cross_and_no_mean_of_the_others():
    frame = sweep_frame(diverged=())
    one = (frame["arm"] == "full") & (frame["learning_rate"] == 1e-3) & (frame["seed"] == 0) & (frame["step"] == 10)
    frame.loc[one, ["test_loss", "validation_loss"]] = 50.0
    rows = embedded(plots.u_curve(frame, ceiling=4.0))
    there = rows[(rows["arm"] == "full") & (rows["learning_rate"] == 1e-3)]
    assert there["lost"].tolist() == [1]
    assert len(rows[(rows["arm"] == "full") & (rows["lost"] == 0)]) == 3, "the other rates keep their points"


def test_a_u_curve_without_one_whole_rate_shows_its_crosses():
    frame = sweep_frame(diverged=())
    frame.loc[(frame["seed"] == 0) & (frame["step"] == 10), ["test_loss", "validation_loss"]] = 50.0
    rows = embedded(plots.u_curve(frame, ceiling=4.0))
    assert (rows["lost"] == 1).all()


def test_a_u_curve_of_runs_that_all_finished_has_no_cross():
    rows = embedded(plots.u_curve(sweep_frame(diverged=None), ceiling=4.0))
    assert (rows["lost"] == 0).all()
