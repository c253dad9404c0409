"""A table of right and wrong answers by kind: no wrong one is paid, and 98 of 100 right ones are.

Two thirds of each kind were looked at while the graders were written; every third answer was not, until they were done.
"""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from lorakit.data.datasets import DatasetError
from lorakit.data.rl_tasks import register_task
from lorakit.rewards import RewardError, load_rewards, register_reward
from lorakit.rewards.gradable import FORMS
from lorakit.rewards.symbolic import is_gradable, same_mathematics

TABLE = Path(__file__).parent / "data" / "graded_answers.tsv"


def graded_answers() -> list[tuple[str, bool, str, str, str]]:
    """Rows of (kind, whether it is right, scheme, right answer, completion)."""
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            line = re.sub(r"<U\+([0-9A-F]{4})>", lambda found: chr(int(found[1], 16)), line)
            kind, right, scheme, answer, completion = line.split("\t")
            if scheme in ("math", "boxed") and kind != "boxes" and "box{" not in completion:
                completion = rf"\boxed{{{completion}}}"
            rows.append((kind, right == "1", scheme, answer, completion))
    return rows


def test_no_wrong_answer_is_paid_and_98_of_100_right_ones_are():
    rows = graded_answers()
    unpaid, paid, right = [], [], defaultdict(int)
    for kind, is_right, scheme, answer, completion in rows:
        (value,) = load_rewards(scheme)[0](prompts=[""], completions=[completion], answer=[answer])
        right[kind] += is_right
        if is_right and value != 1.0:
            unpaid.append((kind, answer, completion))
        if not is_right and value:
            paid.append((kind, answer, completion))
    assert len(right) >= 15
    assert sum(right.values()) >= 300
    assert len(rows) - sum(right.values()) >= 300
    assert paid == []
    assert len(unpaid) <= 0.02 * sum(right.values()), unpaid


def test_every_right_answer_of_the_table_can_be_graded_but_for_two():
    answers = {answer for _, _, scheme, answer, _ in graded_answers() if scheme == "math"}
    assert {answer for answer in answers if not is_gradable(answer)} == {r"f'(x)", r"1,2,3,\ldots", r"\overline{x}"}


@pytest.mark.parametrize(("answer", "gradable"), [
    ("7", True), (r"\boxed{7}", True), (r"$\frac12$", True), ("x^2-y^2", True), (r"30 \text{ m/s}", True),
    ("Evelyn", True), (r"\text{(A)}", True), ("prove that it is so", False), (r"\frac{", False), ("7?", False),
    (r"\int_0^1 x dx", False), ("x" * 301, False), ("so 7 it is", False), (r"\phantom{7}", False),
])
def test_what_can_be_graded_as_mathematics(answer, gradable):
    assert is_gradable(answer) is gradable
    assert same_mathematics(answer, answer) is True


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))


def problems(*answers: str, count: int = 60) -> list[dict[str, str]]:
    return [{"prompt": f"question {n}?", "answer": answers[n] if n < len(answers) else str(n)} for n in range(count)]


@pytest.mark.parametrize(("grader", "answer", "stop"), [
    ("math", "prove that it is so", None), ("math", r"\int_0^1 x dx", None), ("marked", "so\n#### 7", None),
    ("marked", "#7", None), ("boxed", "}{", None), ("exact", "one\ntwo", "\n"), ("reasoning", "a</think>b", None),
])
def test_right_answers_that_no_completion_could_earn_are_refused_with_their_rows(cache, grader, answer, stop):
    with pytest.raises(DatasetError, match=rf"(?s)own: 2 of 60 right answers can never be paid by the grader '{grader}'"
                                           r".*: problem 1 \(.*\), 2 \(.*\)\. Give the final answer alone"):
        register_task("own", problems(answer, answer), grader=grader, stop=stop)
    register_task("own", problems("7", "8"), grader=grader, stop=stop)


def test_every_scheme_has_a_form_of_its_right_answer():
    from lorakit.sources import LORAKIT

    assert FORMS.keys() == LORAKIT.rewards.keys()


def test_a_grader_of_ones_own_that_leaves_0_to_1_is_refused_when_registered(cache, tmp_path, monkeypatch):
    (tmp_path / "own_graders.py").write_text(
        "def double(prompts, completions, **columns):\n    return [2.0 * (c == a) for c, a in zip(completions, "
        "columns['answer'])]\n"
        "def penalty(prompts, completions, **columns):\n    return [float(c == a) - 1 for c, a in zip(completions, "
        "columns['answer'])]\n"
        "def share(prompts, completions, **columns):\n    return [0.5 for _ in completions]\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_graders

    for function, words in ((own_graders.double, "paid 2 for '0'"), (own_graders.penalty, "paid -1 for '1'")):
        with pytest.raises(RewardError, match=words):
            register_task("own", problems(), grader=register_reward(function))
    assert register_task("own", problems(), grader=register_reward(own_graders.share)).startswith("own@")
