"""Which recipe an RL run followed, and when it learnt the form of an answer and the answer itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lorabook.claims.rl_tasks import FORM_PAID
from lorabook.experiments.results import Results
from lorakit.grpo_spec import GRPOSpec

NOT_THE_RECIPE: dict[str, Any] = {"seed": 0, "steps": 2, "evaluations": 2, "evaluation_problems": 1}
LEARNT_FORM, LEARNT_ANSWER = 0.9, 0.5
MILESTONES = ("form", "answer")


class Recipes(Results):
    """The runs of an experiment that follow one of some recipes, whatever their seed and length; an arm is a recipe.

    A run is known by its spec, and nothing is parsed back from a name.

    Args:
        ran: the experiment's records.
        recipes: name to spec, as `lorabook.experiments.recipes` lists them.
    """

    def __init__(self, ran: Results, recipes: Mapping[str, GRPOSpec]) -> None:
        names = {replace(spec, **NOT_THE_RECIPE): name for name, spec in recipes.items()}
        found = {spec.id: names.get(replace(spec, **NOT_THE_RECIPE)) for spec in ran.specs}
        self.names = {key: name for key, name in found.items() if name is not None}
        super().__init__(ran.name, ran.profile, ran.size, [spec for spec in ran.specs if spec.id in self.names],
                         [record for record in ran if record.id in self.names])

    def _whole(self, frame: pd.DataFrame, rows: Sequence[int]) -> pd.DataFrame:
        whole = super()._whole(frame, rows)
        return whole.assign(arm=whole["id"].map(self.names))


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


def learnt(curves: pd.DataFrame, what: str) -> dict[str, tuple[int, int]]:
    """How many runs of each arm learnt the `form` or the `answer`, of how many: what `plots.counts` draws."""
    steps = milestones(curves).groupby("arm", sort=False)[f"{what}_step"]
    return {str(arm): (int((found < math.inf).sum()), len(found)) for arm, found in steps}
