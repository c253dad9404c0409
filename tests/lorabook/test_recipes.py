import math
from dataclasses import replace

import pandas as pd
import pytest

from lorabook.experiments import get
from lorabook.experiments.recipes import FACTORS, FORM_FACTORS, MANY_SYNCS, RECIPES, SYNCS
from lorabook.experiments.results import Results
from lorabook.page.recipes import Recipes, learnt, milestones
from lorakit.records import Record


def followed(experiment, recipes, size="record"):
    """The specs of an experiment, and by id which recipe each follows."""
    specs = get(experiment).specs("cpu", size)
    return specs, Recipes(Results(experiment, "cpu", size, specs, []), recipes).names


@pytest.mark.parametrize(("experiment", "recipes"), [
    ("grpo-factors", FACTORS), ("grpo-recipes", RECIPES), ("grpo-form-factors", FORM_FACTORS),
])
def test_every_run_has_the_one_recipe_that_it_follows(experiment, recipes):
    specs, names = followed(experiment, recipes)
    seeds = {spec.id: spec.seed for spec in specs}
    assert set(names.values()) == set(recipes)
    assert all(sorted(seeds[key] for key, name in names.items() if name == recipe) == sorted(set(seeds.values()))
               for recipe in recipes)


def test_short_runs_keep_the_names_of_their_recipes():
    specs, names = followed("grpo-recipes", RECIPES, "live")
    assert len(names) == len(specs)
    osmosis = {key for key, name in names.items() if name == "Osmosis, LoRA"}
    assert osmosis == {spec.id for spec in specs if spec.group_size == 4}


def test_a_run_with_other_batches_is_another_recipe():
    specs, plain = followed("grpo-sync", SYNCS)
    _, many = followed("grpo-sync", MANY_SYNCS)
    assert plain.keys() | many.keys() == {spec.id for spec in specs}
    assert many.keys() == {spec.id for spec in specs if spec.steps == 1000}
    assert not plain.keys() & many.keys()


def test_the_arms_of_a_sweep_by_recipe_are_its_recipes():
    specs = [replace(FACTORS[name], seed=seed, steps=4) for name in ("rank 1", "alpha = 2 r") for seed in range(2)]
    right = {"base_test_accuracy": 0.1, "base_test_loss": 0.9}
    records = []
    for spec in specs:
        accuracy = [0.5 + spec.lora.rank / 100]
        curve = {"step": [4], "tokens": [8], "validation_accuracy": accuracy, "test_accuracy": accuracy}
        records.append(Record.from_run(spec, "ok", right, curve, {}))
    sweep = Recipes(Results("grpo-factors", "cpu", "record", specs, records), FACTORS)
    assert sweep.arms == ["rank 1", "alpha = 2 r"]
    assert sweep.compare("rank 1")["alpha = 2 r"].mean == pytest.approx(31)


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


def test_learnt_counts_runs_by_arm():
    curves = pd.concat([curve("a", [1.0, 2.7, 2.6], [0.0, 0.49, 0.5]), curve("b", [0.0, 2.69, 1.0], [0.0, 0.1, 0.1])])
    assert learnt(curves, "form") == {"full": (1, 2)}
    assert learnt(curves, "answer") == {"full": (1, 2)}
    assert learnt(curve("a", [math.nan] * 3, [0.6, 0.0, 0.1]), "form") == {"full": (0, 1)}
