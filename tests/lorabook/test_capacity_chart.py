"""The interactive chart: its numbers, and a specification that a browser can draw without any server."""

import pytest

from lorabook.page.capacity_chart import RANKS, adapter_weights, held_against_needed
from lorabook.page.rendering import mimebundle, theme
from lorakit.theory.capacity import recommend_rank


def test_weights_are_those_of_the_calculator():
    rows = adapter_weights().set_index(["model", "targets", "rank"])["weights"]
    assert rows["llama-3.1-8b", "all-linear", 1] == 2_621_440
    assert rows["tiny", "all-linear", 512] == rows["tiny", "all-linear", 128] == 128 * 4352, "beyond it nothing is held"
    held = 2 * rows["smollm2-135m", "mlp", 16]
    assert recommend_rank("smollm2-135m", bits=float(held), targets="mlp").bits_held == held


def test_the_chart_has_knobs_and_draws_without_a_server():
    pytest.importorskip("vl_convert")
    chart = held_against_needed(adapter_weights(["tiny", "llama-3.1-8b"]), model="tiny", bits_per_weight=2,
                                description="bits held against bits needed")
    spec = chart.to_dict()
    assert [p["name"] for p in spec["params"]] == ["model", "targets", "rank", "weight_bits", "unit", "power",
                                                   "unit_bits"]
    assert all("bind" in p for p in spec["params"])
    assert spec["params"][2]["bind"]["options"] == list(RANKS)
    spec |= {"config": theme()["config"]}
    svg = mimebundle(spec)["image/svg+xml"]
    assert "tiny, all-linear, rank 1, against 10M label tokens of 1.0 bits" in svg
    assert "8.7k" in svg, "4,352 weights at 2 bits"
