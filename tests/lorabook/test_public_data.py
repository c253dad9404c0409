"""The figures of the page on others' runs: recomputed where the tables are at hand, by known answers everywhere."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lorabook.page import public

ROOT = Path(__file__).parents[2]
FOLDER = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not FOLDER.exists(), reason="the public tables are not here: the figures are kept as they were")
def test_the_kept_figures_are_what_the_tables_give():
    computed = json.loads(json.dumps(public.figures(FOLDER)))
    kept = public.kept(ROOT / "book" / "results")
    assert kept["sources"] == public.SOURCES

    def same(one, other):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for name in one:
                same(one[name], other[name])
        else:
            assert one == pytest.approx(other, rel=1e-6)

    same(computed, kept["figures"])


def parabola(center, rates, bend=0.01, least=0.5):
    return [least + bend * (math.log(rate) - math.log(center)) ** 2 for rate in rates]


def sweep_of(centers, rates=(4e-5, 1e-4, 3e-4, 1e-3)):
    """Runs of models whose losses are parabolas with known vertices: {(model, rank): best rate}."""
    return pd.DataFrame([{"model": model, "rank": rank, "lr": rate, "test_nll": loss}
                         for (model, rank), center in centers.items()
                         for rate, loss in zip(rates, parabola(center, rates), strict=True)])


def test_the_vertex_is_found_and_an_edge_is_marked():
    best = public.best_rates(sweep_of({("a", 4): 2e-4, ("a", 64): 3.1e-4, ("b", 4): 5e-3}))
    assert best["rate"].tolist()[:2] == pytest.approx([2e-4, 3.1e-4])
    assert best["inside"].tolist() == [True, True, False]


def test_ratios_are_geometric_means_over_models_inside_their_grids():
    centers = {("a", 4): 1e-4, ("a", 64): 1.5e-4, ("b", 4): 1.2e-4, ("b", 64): 2.4e-4, ("c", 4): 1e-4, ("c", 64): 9e-3}
    span, largest = public.rate_ratio(public.best_rates(sweep_of(centers)), 64, 4)
    assert span.n == 2
    assert span.mean == pytest.approx(math.sqrt(1.5 * 2))
    assert largest == pytest.approx(2)


def test_a_band_ends_where_the_loss_leaves_one_per_cent():
    rates = np.geomspace(1e-5, 1e-2, 301)
    best = public.best_rates(sweep_of({("a", 1): 3e-4}, tuple(rates)))
    half = math.sqrt(0.005 / 0.01)  # 1 % of 0.5 nats over a bend of 0.01
    assert best["band"][0] == pytest.approx(math.exp(2 * half), rel=0.02)


def test_the_cost_of_one_rate_is_nothing_where_ranks_agree():
    agree = sweep_of({("a", 4): 3e-4, ("a", 16): 3e-4})
    part = sweep_of({("a", 4): 1e-4, ("a", 16): 1e-3})
    assert public.cost_of_one_rate(agree, public.best_rates(agree))["largest"] == pytest.approx(0, abs=1e-9)
    assert public.cost_of_one_rate(part, public.best_rates(part))["largest"] > 1


def test_a_table_that_is_another_is_refused(tmp_path):
    name = "peers_tinker_sft_sweep.csv"
    with pytest.raises(public.PublicDataError, match=r"does not exist: make it from .*sft_sweep\.md"):
        public.read(tmp_path, name)
    (tmp_path / name).write_text("model,lr\n")
    with pytest.raises(public.PublicDataError, match="computed from e31e52814dbd"):
        public.read(tmp_path, name)


def test_pace_is_that_of_runs_that_end_well():
    rows = pd.DataFrame([(0, 0.5, 0.8, 0.90), (0, 0.7, 0.8, 0.60), (1, 0.3, 0.7, 0.89), (1, 0.4, 0.6, 0.87)],
                        columns=["rank", "e10", "e20", "last3"])
    found = public.pace(rows)
    assert found["full"] == {"good": 1, "end": 0.9, "early": 0.5, "later": 0.8}, "what ends low is not fast"
    assert found["rank 1"] == {"good": 2, "end": 0.89, "early": 0.4, "later": 0.7}
