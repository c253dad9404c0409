"""The interactive chart: its answer is the calculator's, and a browser can draw it without any server."""

import math

import pytest

from lorabook.page.capacity_chart import AMOUNTS, adapter_weights, rank_needed
from lorabook.page.rendering import mimebundle, theme
from lorakit.theory.capacity import recommend_rank


def test_weights_are_those_of_the_calculator():
    rows = adapter_weights().set_index(["model", "rank"])["weights"]
    assert rows["llama-3.1-8b", 1] == 2_621_440
    assert rows["tiny", 512] == rows["tiny", 128] == 128 * 4352, "beyond it nothing is held"
    assert recommend_rank("smollm2-135m", bits=2.0 * rows["smollm2-135m", 16]).rank == 16


@pytest.mark.parametrize("model", ["smollm2-135m", "qwen3-4b", "qwen3-30b-a3b"])
def test_the_arithmetic_of_the_answer_is_the_calculators(model):
    rows = adapter_weights([model])
    unit = int(rows.loc[rows["rank"] == 1, "weights"].item())
    for amount in AMOUNTS:
        floor = math.ceil(amount / (unit * 2))
        if floor <= rows.loc[rows["whole"], "rank"].max():
            assert floor == recommend_rank(model, tokens=int(amount)).rank


def test_the_chart_prints_the_answer_and_draws_without_a_server():
    pytest.importorskip("vl_convert")
    chart = rank_needed(adapter_weights(["tiny", "qwen3-4b"]), model="qwen3-4b", description="bits held by rank")
    spec = chart.to_dict()
    knobs = [p["name"] for p in spec["params"] if "bind" in p]
    assert knobs == ["model", "amount", "unit", "unit_bits", "weight_bits"]
    svg = mimebundle(spec | {"config": theme()["config"]})["image/svg+xml"]
    assert "You need rank 5" in svg
    assert "take 20 to 40" in svg
    rounded_up = rank_needed(adapter_weights(["gemma-3-12b"]), model="gemma-3-12b", description="2.44 units").to_dict()
    assert "You need rank 3" in mimebundle(rounded_up | {"config": theme()["config"]})["image/svg+xml"]
    small = rank_needed(adapter_weights(["tiny"]), model="tiny", description="bits held by rank").to_dict()
    assert "You need more than rank 128" in mimebundle(small | {"config": theme()["config"]})["image/svg+xml"]
