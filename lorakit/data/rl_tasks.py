"""Tasks with verifiable answers, by name: problems for RL, with train, validation and test disjoint by construction.

A problem is a mapping with `prompt` and `answer`; further columns reach the reward function. Which split a problem
belongs to is decided by a hash of it, so that no drawing of problems, and no second wording, moves it to another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit import sources
from lorakit.data.data_files import SPLITS, DatasetError
from lorakit.data.pinned import keep_pinned, load_pinned
from lorakit.data.rows import refuse_half_characters
from lorakit.data.splitting import refuse_empty
from lorakit.names import check_new_name
from lorakit.rewards import scheme

Problem = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Problems and how their answers are graded.

    Args:
        name: without its hash.
        splits: problems of `train`, `validation` and `test`; `shifted`, where it exists, is out of distribution.
        grader: the reward scheme that says which answers are right (accuracy), whatever a run is paid for.
        stop: text that ends a completion, or None for the model's own end of text.
        chat: put prompts into the tokenizer's chat template, if it has one.
    """

    name: str
    splits: dict[str, list[Problem]]
    grader: str = "exact"
    stop: str | None = None
    chat: bool = False

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 over all problems and settings."""
        text = json.dumps([self.splits, self.grader, self.stop, self.chat], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def columns(self, problems: Sequence[Problem]) -> dict[str, list[Any]]:
        """Every column but the prompt, as reward functions take them."""
        names = [name for name in problems[0] if name != "prompt"] if problems else []
        return {name: [problem[name] for problem in problems] for name in names}


def split_of_prompt(prompt: str) -> str:
    """A tenth of all prompts is `test`, a tenth `validation`, the rest `train`, by a hash of the prompt alone.

    >>> split_of_prompt("What is 6 times 7?") == split_of_prompt("What is 6 times 7?")
    True
    """
    return {0: "test", 1: "validation"}.get(hashlib.sha256(prompt.encode()).digest()[0] % 10, "train")


def split_problems(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Problems by the hash of their prompts; a prompt that comes again is left out."""
    splits: dict[str, list[Problem]] = {split: [] for split in SPLITS}
    for prompt, problem in {problem["prompt"]: problem for problem in problems}.items():
        splits[split_of_prompt(prompt)].append(problem)
    return splits


def load_task(name: str) -> Task:
    """The task that a spec names, checked against the hash in the name.

    Raises:
        UnknownNameError: neither known nor registered on this machine.
        DatasetError: the problems are not those that the name pins.
        MissingExtraError: the package that generates it is not installed.

    >>> load_task("copy").splits["test"][0]["prompt"].startswith("copy ")
    True
    """
    return load_pinned("tasks", name, lambda short, kept: Task(short, **kept))


def register_task(name: str, problems: Iterable[Mapping[str, Any]], *, grader: str = "exact", stop: str | None = None,
                  chat: bool = False) -> str:
    """Fingerprint your own problems and keep a copy, so that specs can name them and workers can load them.

    Args:
        name: a short name: letters, digits, `.`, `_` and `-`.
        problems: mappings with `prompt` and, for a built-in grader, `answer`, both text; other columns (JSON) reach
            the reward function. A tenth becomes validation and a tenth test, by a hash of the prompt.
        grader: a reward scheme that pays a right answer 1, or what `register_reward` returned, which
            pays from 0 to 1: decides which answers are right.
        stop: text that ends a completion, such as a line's end.
        chat: put prompts into the model's chat template.

    Returns:
        `name@hash`, to be used as `GRPOSpec(task=…)`.

    Raises:
        DatasetError: a problem without prompt or answer, right answers that the grader cannot read, columns that
            differ, or a split that stays empty.
        RewardError: the grader pays less than 0 or more than 1, or is one of your own and fails.
    """
    check_new_name(name, sources.pins("tasks"))
    needed = ("prompt", "answer") if scheme(grader) else ("prompt",)
    rows = [dict(problem) for problem in problems]
    for number, row in enumerate(rows, start=1):
        for column in needed:
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise DatasetError(f"{name}: problem {number} has no {column} (text); its columns are "
                                   f"{', '.join(row) or 'none'}. A task needs 'prompt' and, to grade by {grader!r}, "
                                   "'answer'; with a reward function of your own as grader, 'prompt' is enough")
        refuse_half_characters(row, f"{name}: problem {number}")
        if row.keys() != rows[0].keys():
            raise DatasetError(f"{name}: problem {number} has columns {', '.join(row)}, the first has "
                               f"{', '.join(rows[0])}; give every problem the same columns")
    _check_grader(name, rows, grader, stop)
    task = Task(name, split_problems(rows), grader, stop, chat)
    refuse_empty(task.splits, f"{name}: {len(rows)} problems")
    keep(task)
    return f"{name}@{task.hash}"


def _check_grader(name: str, rows: Sequence[Problem], grader: str, stop: str | None) -> None:
    """Refuse what the grader could never pay, and a grader from which no accuracy comes."""
    from lorakit.rewards.gradable import FORMS, try_grader, ungradable

    if grader not in FORMS:
        try_grader(grader, {column: [row[column] for row in rows] for column in (rows[0] if rows else {})
                            if column != "prompt"}, [row["prompt"] for row in rows])
        return
    unread = ungradable(grader, [row["answer"] for row in rows], stop)
    if unread:
        shown = ", ".join(f"{place + 1} ({rows[place]['answer']!r:.80})" for place in unread[:5])
        raise DatasetError(f"{name}: {len(unread)} of {len(rows)} right answers can never be paid by the grader "
                           f"{grader!r}{f' with stop={stop!r}' if stop is not None else ''}: problem {shown}"
                           f"{', …' if len(unread) > 5 else ''}. Give the final answer alone (a number, an expression, "
                           "a word), leave these problems out, or take grader='exact' or a reward function of your own")


def keep(task: Task) -> None:
    """Put a task into the cache, from which it is loaded by its hash from now on."""
    keep_pinned("tasks", task.hash, {"splits": task.splits, "grader": task.grader, "stop": task.stop,
                                     "chat": task.chat})


def encode_prompts(task: Task, split: str, tokenizer: Any, context: int, max_completion_length: int) -> list[list[int]]:
    """Token ids of a split's prompts, as the tokenizer begins texts, or as its chat template renders them.

    Args:
        context: tokens that the model can attend to; a prompt and its completion must fit.

    Raises:
        DatasetError: a prompt that leaves less than `max_completion_length` tokens; none is cut.
    """
    texts = [problem["prompt"] for problem in task.splits[split]]
    if task.chat and getattr(tokenizer, "chat_template", None):
        encoded = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=True, return_dict=True,
                                                 add_generation_prompt=True)["input_ids"] for text in texts]
    else:
        from lorakit.data.tokens import encode  # and torch with it

        encoded = encode(tokenizer, texts)
    for number, ids in enumerate(encoded, start=1):
        if len(ids) + max_completion_length > context:
            raise DatasetError(f"{task.name} {split}, prompt {number} has {len(ids)} tokens, its completion may have "
                               f"{max_completion_length}, but the context is {context}: lower max_completion_length, "
                               "shorten the prompt, or take a model with a longer context (prompts are never cut)")
    return encoded
