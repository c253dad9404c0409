"""Tasks for a base without a chat template: right answers, no problem in two splits, none that the prompt shows."""

import re

import pytest

from lorabook.data.shown_tasks import ONES, TENS, in_words
from lorakit.data.rl_tasks import load_task
from lorakit.names import known_names
from lorakit.rewards import load_rewards

VALUES = {**{word: n for n, word in enumerate(ONES) if word}, **{word: 10 * n for n, word in enumerate(TENS) if word}}


def read(words):
    """The number that English words name, by adding up: another way than the task makes them."""
    total = 0
    for word in re.split("[ -]", words):
        if word == "thousand":
            total *= 1000
        elif word == "hundred":
            total = total // 1000 * 1000 + total % 1000 * 100
        else:
            total += VALUES[word]
    return total


def test_words_read_back_as_their_numbers():
    assert all(read(in_words(n)) == n for n in range(1, 10_000))
    assert len({in_words(n) for n in range(1, 10_000)}) == 9_999


@pytest.mark.parametrize("name", ["ordered-sums", "number-words"])
def test_problems_are_right_apart_and_enough(name):
    task = load_task(name)
    assert task.hash == known_names()["tasks"][name]
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 2048, "validation": 512, "test": 1024}
    prompts = [row["prompt"] for rows in task.splits.values() for row in rows]
    assert len(set(prompts)) == len(prompts)
    for rows in task.splits.values():
        for row in rows:
            *shown, question = row["prompt"].splitlines()
            assert len(shown) == 2
            assert all(not line.startswith(question) for line in shown)
            text = question.removesuffix(" =")
            right = sum(map(int, text.split(" + "))) if name == "ordered-sums" else read(text)
            assert row["answer"] == str(right)


@pytest.mark.parametrize("name", ["ordered-sums", "number-words"])
def test_an_answer_with_its_blank_and_line_break_is_right_and_another_is_not(name):
    task = load_task(name)
    (grade,) = load_rewards(task.grader)
    answer = task.splits["test"][0]["answer"]
    given = [f" {answer}\n", f" {int(answer) + 1}\n", answer, "\n"]
    assert grade([""] * 4, given, answer=[answer] * 4) == [1.0, 0.0, 1.0, 0.0]
