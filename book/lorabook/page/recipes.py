"""Which recipe an RL run followed, and when it learnt the form of an answer and the answer itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from lorabook.claims.rl_tasks import FORM_PAID
from lorakit.grpo_spec import GRPOSpec

NOT_THE_RECIPE: dict[str, Any] = {"seed": 0, "steps": 2, "evaluations": 2, "evaluation_problems": 1}
LEARNT_FORM, LEARNT_ANSWER = 0.9, 0.5
MILESTONES = ("form", "answer")


def name_recipes(frame: pd.DataFrame, specs: Iterable[GRPOSpec], recipes: Mapping[str, GRPOSpec]) -> pd.DataFrame:
    """The rows of runs that follow one of the recipes, whatever their seed and length, with the column `recipe`.

    `arm` does not tell recipes apart that differ in more than the adapter, and nothing is parsed back from a name:
    a run is known by its spec.

    Args:
        frame: of `tidy` or `runs`, with the column `id`.
        specs: of the experiment that the runs belong to.
        recipes: name to spec, as `lorabook.experiments.recipes` lists them.
    """
    names = {replace(spec, **NOT_THE_RECIPE): name for name, spec in recipes.items()}
    found = {spec.id: names.get(replace(spec, **NOT_THE_RECIPE)) for spec in specs}
    return frame.assign(recipe=frame["id"].map(found)).dropna(subset="recipe").reset_index(drop=True)


def milestones(curves: pd.DataFrame) -> pd.DataFrame:
    """When each run first had learnt the form, and the answer: one row per run, +inf where it never did.

    The form: the first point of the curve since whose predecessor nine tenths of all episodes were paid for it; the
    answer: the first whose validation accuracy is a half. A run that is not paid for the form has no date for it (NaN).

    Args:
        curves: of `tidy`, RL runs, with `recipe` or any other columns that are the same in all rows of a run.

    Returns:
        The run's `id`, `arm`, `seed`, `learning_rate` and, if there is one, `recipe`, and `form_step`,
        `form_episodes`, `answer_step`, `answer_episodes`.
    """
    kept = [name for name in ("id", "recipe", "arm", "seed", "learning_rate") if name in curves.columns]
    rows = []
    for _, run in curves.sort_values("step").groupby("id", sort=False):
        row = run.iloc[0][kept].to_dict()
        paid = run.get("reward_format_line", pd.Series(math.nan, run.index))
        reached = {"form": paid >= LEARNT_FORM * FORM_PAID,
                   "answer": run["validation_accuracy"] >= LEARNT_ANSWER}
        for name in MILESTONES:
            first = run[reached[name]].head(1)
            unknown = name == "form" and paid.isna().all()
            for unit, column in (("step", "step"), ("episodes", "episodes")):
                at = float(first[column].iloc[0]) if len(first) else math.inf
                row[f"{name}_{unit}"] = math.nan if unknown else at
        rows.append(row)
    return pd.DataFrame(rows)
