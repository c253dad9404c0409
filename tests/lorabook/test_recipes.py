import math

import pandas as pd
import pytest

from lorabook.experiments import get
from lorabook.experiments.recipes import FACTORS, FORM_FACTORS, MANY_SYNCS, RECIPES, SYNCS
from lorabook.page.recipes import milestones, name_recipes


@pytest.mark.parametrize(("experiment", "recipes"), [
    ("grpo-factors", FACTORS), ("grpo-recipes", RECIPES), ("grpo-form-factors", FORM_FACTORS),
])
def test_every_run_has_the_one_recipe_that_it_follows(experiment, recipes):
    specs = get(experiment).specs("cpu", "record")
    named = name_recipes(pd.DataFrame({"id": [spec.id for spec in specs]}), specs, recipes)
    seeds = {spec.id: spec.seed for spec in specs}
    assert set(named["recipe"]) == set(recipes)
    assert all(sorted(rows["id"].map(seeds)) == sorted(set(seeds.values())) for _, rows in named.groupby("recipe"))


def test_short_runs_keep_the_names_of_their_recipes():
    specs = get("grpo-recipes").specs("cpu", "live")
    named = name_recipes(pd.DataFrame({"id": [spec.id for spec in specs]}), specs, RECIPES)
    assert len(named) == len(specs)
    osmosis = set(named.loc[named["recipe"] == "Osmosis, LoRA", "id"])
    assert osmosis == {spec.id for spec in specs if spec.group_size == 4}


def test_a_run_with_other_batches_is_another_recipe():
    specs = get("grpo-sync").specs("cpu", "record")
    frame = pd.DataFrame({"id": [spec.id for spec in specs]})
    plain, many = (set(name_recipes(frame, specs, recipes)["id"]) for recipes in (SYNCS, MANY_SYNCS))
    assert plain | many == set(frame["id"])
    assert many == {spec.id for spec in specs if spec.steps == 1000}
    assert not plain & many


def curve(key, form, accuracy):
    return pd.DataFrame({"id": key, "arm": "full", "seed": 0, "learning_rate": 1e-3, "step": [1, 2, 4],
                         "episodes": [8, 16, 32], "reward_format_line": form, "validation_accuracy": accuracy})


def test_milestones_are_the_first_points_that_reach_them():
    rows = milestones(pd.concat([curve("a", [1.0, 2.7, 2.6], [0.0, 0.49, 0.5]),
                                 curve("b", [0.0, 2.69, 1.0], [0.9, 0.1, 0.1])])).set_index("id")
    assert rows.loc["a", ["form_step", "form_episodes", "answer_step", "answer_episodes"]].tolist() == [2, 16, 4, 32]
    assert rows.loc["b", ["form_step", "answer_step"]].tolist() == [math.inf, 1]


def test_what_is_not_paid_for_has_no_date():
    rows = milestones(curve("a", [math.nan] * 3, [0.0, 0.0, 0.1]))
    assert math.isnan(rows["form_step"].iloc[0])
    assert rows["answer_step"].iloc[0] == math.inf
