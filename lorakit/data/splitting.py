"""Rows divided into train, validation and test, and what is to be said about them: with numbers, before training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from lorakit.data.data_files import SPLITS, DatasetError
from lorakit.data.rows import Row

HELD_OUT = ("test", "validation")
DOMINANT = 0.2  # share of the rows above which one prompt dominates them


class DatasetWarning(UserWarning):
    """A dataset can be trained on, but its numbers may not mean what one expects."""


def prompt_and_answer(row: Row) -> tuple[str, str]:
    """What comes before the first learnt part, and the rest; text that is learnt as a whole is its own prompt."""
    if isinstance(row, dict):
        messages = row.get("messages", [])
        start = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), 0)
        prompt, answer = row.get("prompt", messages[:start]), row.get("completion", messages[start:])
        return json.dumps(prompt, ensure_ascii=False), json.dumps(answer, ensure_ascii=False)
    learnt = next((i for i, (_, learn) in enumerate(row) if learn), len(row))
    return ("".join(text for text, _ in row[:learnt]) if learnt else row[0][0],
            "".join(text for text, _ in row[learnt:]))


def divide(name: str, given: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The splits that are given, with those that lack taken from `train`: a tenth of its rows each.

    Rows of one prompt share a split, unless they are more than a fifth of all: then equal rows do. Which split, the
    hash of the prompt (or the row) decides. Rows keep their order.

    Raises:
        DatasetError: a split stays empty.
    """
    rows, wanted = given.get("train", []), [split for split in HELD_OUT if split not in given]
    pairs = [prompt_and_answer(row) for row in rows]
    often = {prompt for prompt, n in Counter(prompt for prompt, _ in pairs).items() if n > DOMINANT * len(rows)}
    units: dict[str, list[int]] = defaultdict(list)
    for number, (prompt, answer) in enumerate(pairs):
        key = json.dumps([prompt, answer]) if prompt in often else prompt
        units[hashlib.sha256(key.encode()).hexdigest()].append(number)
    quota = max(1, len(rows) // 10)
    taken: dict[str, list[int]] = {split: [] for split in wanted}
    left = []
    for _, unit in sorted(units.items()):
        fits = [split for split in wanted if len(taken[split]) + len(unit) <= quota]
        if fits:
            taken[fits[0]] += unit
        else:
            left.append(unit)
    for split in wanted:
        if not taken[split] and len(left) > 1:
            taken[split] = left.pop(left.index(min(left, key=len)))
    splits = dict(given) | {split: [rows[i] for i in sorted(chosen)] for split, chosen in taken.items()}
    splits["train"] = [rows[i] for i in sorted(i for unit in left for i in unit)]
    refuse_empty(splits, f"{name}: {sum(map(len, given.values()))} rows")
    return {split: splits[split] for split in SPLITS}


def refuse_empty(splits: Mapping[str, Sequence[object]], what: str) -> None:
    """Raise DatasetError where a split has nothing; `what` was divided."""
    if empty := [split for split in SPLITS if not splits[split]]:
        raise DatasetError(f"{what} leave {' and '.join(empty)} empty; give more (30 or more, with different prompts), "
                           "since a tenth each is kept for validation and test")


def remarks(splits: dict[str, list[Row]]) -> list[str]:
    """What a reader of losses should know: prompts that dominate, lie in several splits, or contradict themselves."""
    pairs = {split: [prompt_and_answer(row) for row in rows] for split, rows in splits.items()}
    said = []
    for split, of_split in pairs.items():
        prompt, count = Counter(prompt for prompt, _ in of_split).most_common(1)[0]
        if count > max(DOMINANT * len(of_split), 4):
            said.append(f"{count} of {len(of_split)} rows of {split} share the prompt {prompt!r:.80}, so its loss is "
                        "mostly theirs")
    trained = {prompt for prompt, _ in pairs["train"]}
    for split in HELD_OUT:
        again = sum(prompt in trained for prompt, _ in pairs[split])
        if again:
            said.append(f"{again} of {len(pairs[split])} rows of {split} have a prompt that is trained on")
    answers: dict[str, set[str]] = defaultdict(set)
    for of_split in pairs.values():
        for prompt, answer in of_split:
            answers[prompt].add(answer)
    several = [len(found) for found in answers.values() if len(found) > 1]
    if several:
        said.append(f"{len(several)} of {len(answers)} prompts have several different completions (up to "
                    f"{max(several)}), so the loss cannot fall to 0")
    return said
