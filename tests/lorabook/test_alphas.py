"""Best rates by rank and alpha: four rules of alpha, their extremes, and the power of alpha."""

import pandas as pd
import pytest

from lorabook.page import alphas
from lorakit.analysis.statistics import Optimum


def best(rate):
    """Two seeds, a hundredth of a decade on either side."""
    return Optimum(rate, rate / 1.5, rate * 1.5, rate, {0: rate * 1.02, 1: rate / 1.02}, None)


RATES = alphas.Rates({"full": best(1e-4), "rank 1": best(4e-4), "rank 1, alpha 2": best(1.6e-3),
                      "rank 1, alpha 8": best(8e-4), "rank 64": best(3e-4), "rank 64, alpha 128": best(1.5e-4)},
                     "2 seeds")


def test_a_rule_takes_the_setting_that_it_names_where_that_was_run():
    found = alphas.by_rank(RATES)
    assert found["rank 1"]["alpha = 2 r"].mean == pytest.approx(16, rel=0.01)
    assert found["rank 1"]["rsLoRA, 8 √r"].mean == pytest.approx(8, rel=0.01)
    assert found["rank 64"]["alpha = 32"].mean == pytest.approx(3, rel=0.01)
    assert "alpha = r" not in found["rank 1"], "not run"


def test_the_extremes_say_where_they_are():
    low, high = alphas.extremes(RATES)
    assert (low.where, high.where) == ("rank 64, alpha = 2 r", "rank 1, alpha = 2 r")
    assert high.ratio.mean == pytest.approx(16, rel=0.01)


def test_the_power_of_alpha_is_fitted_and_what_theory_asks_goes_through_the_least_alpha():
    assert alphas.power(RATES, 1).mean == pytest.approx(-0.5, abs=0.01)
    asked = alphas.expected(RATES, 1).set_index(["arm", "alpha"])["learning_rate"]
    assert asked["1 / alpha", 2] == asked["1 / √alpha", 2] == pytest.approx(1.6e-3)
    assert asked["1 / √alpha", 32] == pytest.approx(4e-4)
    assert asked["1 / alpha", 8] == pytest.approx(4e-4)


def test_ranks_stand_beside_each_other_each_with_what_theory_asks_of_it():
    drawn = alphas.beside_theory(RATES, (1, 64), "It falls", "206 steps").to_dict()
    assert [panel["title"]["text"] for panel in drawn["hconcat"]] == [["rank 1"], ["rank 64"]]
    rows = [row for one in drawn["datasets"].values() for row in one if row.get("arm") == "1 / alpha"]
    assert {row["alpha"] for row in rows} == {2, 8, 32, 128}
    assert "rank 64" in drawn["description"]


def test_twins_that_were_not_run_at_an_epsilon_are_a_dash():
    gaps = pd.DataFrame({"setting": ["p = 4", "p = 4", "p = 1"], "epsilon": [1e-30, 1e-8, 1e-8], "seed": 0,
                         "gap": [0.0, 3e-5, 1e-5]})
    assert alphas.twins_table(gaps).rows[0] == {"setting": "p = 1", "epsilon 1e-30": "–", "epsilon 1e-08": "1e-05"}
