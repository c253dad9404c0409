"""Datasets and tasks of the skills that `tiny` has practised: what can be tried without data of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lorakit.data.datasets import TextData
from lorakit.data.rl_tasks import Problem, Task
from lorakit.data.skills import HELD_OUT_WORDING, NEW_SKILLS, SKILLS, Question, Skill, draw_question, generator

COUNTS = {"train": 2048, "validation": 256, "test": 256}
DRAWS = 4  # times as many draws as problems are wanted: small skills have fewer different ones


def _questions(skills: tuple[Skill, ...], wording: int, split: str, count: int, seed: object) -> list[Question]:
    rng = generator("questions", seed, split, [skill.name for skill in skills])
    return [draw_question(rng.choice(skills), wording, split, rng) for _ in range(count)]


def _skill_data(name: str, skills: tuple[Skill, ...]) -> TextData:
    counts = {"train": 6000, "validation": 600, "test": 600}
    return TextData(name, {
        split: [[(q.prompt, False), (q.completion, True)] for q in _questions(skills, HELD_OUT_WORDING, split, n, name)]
        for split, n in counts.items()
    }, end="\n")  # as the bases were pre-trained


def reworded_skills() -> TextData:
    """Skills that the embedded models have practised, in the one wording they have never seen."""
    return _skill_data("reworded-skills", SKILLS)


def new_skills() -> TextData:
    """Skills that the embedded models have never seen: the labelled control, outside post-training."""
    return _skill_data("new-skills", NEW_SKILLS)


def skill_task(skill: Skill, wording: int = 0, counts: Mapping[str, int] = COUNTS) -> Task:
    """One skill that the embedded models have practised, in one wording; `shifted` holds another.

    The split is a property of the argument, not of the wording; pre-training never saw the arguments of the test split.

    Args:
        wording: 0, which the base has met (the unseen wording is `shifted`), or `HELD_OUT_WORDING`, which it has not
            (then the first is): the base misses even the form of an answer, and the task is called `…-reworded`.
        counts: problems of each split; more of them begin with the same ones.
    """
    def draw(split: str, wording: int, count: int) -> list[Problem]:
        rng, drawn = generator("rl task", skill.name, split, wording), dict[str, Problem]()
        for _ in range(DRAWS * count):
            question = draw_question(skill, wording, split, rng)
            drawn[question.prompt] = {"prompt": question.prompt, "answer": question.completion.rstrip("\n")}
            if len(drawn) == count:
                break
        return list(drawn.values())

    splits = {split: draw(split, wording, count) for split, count in counts.items()}
    splits["shifted"] = draw("test", 0 if wording else HELD_OUT_WORDING, counts["test"])
    return Task(skill.name.replace(" ", "-") + ("-reworded" if wording else ""), splits, stop="\n")


DATASETS: dict[str, Callable[[], TextData]] = {"reworded-skills": reworded_skills, "new-skills": new_skills}
TASKS: dict[str, Callable[[], Task]] = {
    **{skill.name.replace(" ", "-"): partial(skill_task, skill) for skill in SKILLS},
    **{f"{skill.name.replace(' ', '-')}-reworded": partial(skill_task, skill, HELD_OUT_WORDING) for skill in SKILLS},
}
