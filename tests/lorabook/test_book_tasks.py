"""The book's tasks: answers are right, splits are disjoint, names pin problems."""

import math
import sys
from types import ModuleType

import pytest
from test_rl_tasks import accuracy, disjoint

import lorakit
from lorabook.data import tasks
from lorabook.data.datasets import SECRETS
from lorabook.data.tasks import GENERATORS, TASKS
from lorabook.source import SOURCE
from lorakit.data.datasets import DatasetError, load_dataset
from lorakit.data.rl_tasks import load_task
from lorakit.names import known_names
from lorakit.rewards import SCHEMES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    return tmp_path


def test_a_secret_is_the_same_by_reward_and_by_supervision():
    for count, (prompt, secret) in SECRETS.items():
        task, data = load_task(f"secret-{count}"), load_dataset(f"secret-{count}")
        assert task.splits["train"] == task.splits["test"] == [{"prompt": prompt, "answer": secret}]
        assert [text for text, learnt in data.splits["train"][0] if learnt] == [secret]
        assert data.bits == pytest.approx(math.log2(count))


def test_sums_are_made_here_and_graded_as_numbers(cache):
    task = load_task("sums")
    assert task.hash == known_names()["tasks"]["sums"]
    assert disjoint(task)
    test = task.splits["test"]
    asked = [problem["prompt"].split("\n")[-1] for problem in test]
    assert [int(problem["answer"]) for problem in test] == [sum(map(int, q[:-2].split("+"))) for q in asked]
    assert accuracy(task, test, [f" {problem['answer']}\n" for problem in test]) == 1
    assert accuracy(task, test, [f" {problem['answer']}0\n" for problem in test]) == 0
    assert not any(problem["prompt"].count(question) > 1 for problem, question in zip(test, asked, strict=True))


class FakeGym(ModuleType):
    """reasoning_gym's interface: questions that repeat, and scorers that must not be called."""

    calls = 0

    def create_dataset(self, name, seed, size, **settings):
        FakeGym.calls += 1
        assert 0 <= seed < 2**31
        return [{"question": f" {name} {(seed + i) % 700}? ", "answer": f"{(seed + i) % 700}\n", "metadata": {}}
                for i in range(size)]

    def __getattr__(self, name):
        raise AssertionError(f"{name} was touched")


def test_generated_problems_are_split_by_their_text_and_kept(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", FakeGym("reasoning_gym"))
    FakeGym.calls = 0
    task = tasks.generated_task("gsm-symbolic")
    assert disjoint(task)
    assert 300 < len(task.splits["train"]) < 700, "700 different ones, each once"
    assert task.splits["train"][0]["prompt"].startswith("gsm_symbolic ")
    assert task.chat
    assert accuracy(task, task.splits["test"], [f"So\n#### {p['answer']}" for p in task.splits["test"]]) == 1
    for _ in range(2):
        assert load_task(f"gsm-symbolic@{task.hash}") == task
    assert FakeGym.calls == 1, "from then on they come from the cache"
    with pytest.raises(DatasetError, match=r"gsm-symbolic is pinned to .*of what generates it, too"):
        load_task("gsm-symbolic")


def test_without_reasoning_gym_the_error_names_the_extra(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(lorakit.MissingExtraError, match=r"'chain-sum'.*pip install '\.\[gym\]'"):
        load_task("chain-sum")


@pytest.mark.parametrize("name", sorted(set(GENERATORS) - {"gsm-symbolic"}))
def test_the_real_generators_make_what_the_names_pin(name, cache):
    pytest.importorskip("reasoning_gym", exc_type=ImportError)
    task = load_task(name)
    assert disjoint(task)
    test = task.splits["test"]
    assert accuracy(task, test, [problem["answer"] for problem in test]) == 1
    assert accuracy(task, test, [f"It is {problem['answer']}." for problem in test]) == 0


def test_every_name_is_pinned_and_every_grader_exists():
    assert set(TASKS) <= set(SOURCE.pins["tasks"])
    assert {grader for *_, grader in GENERATORS.values()} <= set(SCHEMES)
