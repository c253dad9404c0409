"""The calculator in the page answers as the library does: the same questions, in Python and in a real browser."""

import json
import random
import re
from dataclasses import asdict

import pytest
from test_browser import open_page

from lorabook.page.calculator import MODELS, CalculatorError, Question, advise, browser_data, script_address
from lorakit.theory.capacity import CapacityError
from lorakit.theory.configs import ConfigError
from lorakit.theory.hardware import GPUS

REFUSED = (CalculatorError, CapacityError, ConfigError)


def grid():
    """Questions over every model, card and task, and what is nonsense."""
    draw = random.Random(0)
    cards = list(GPUS)
    found = []
    for index, model in enumerate(MODELS * 11):
        task = ("sft", "rl")[index % 2]
        amount = round(10 ** draw.uniform(0.3, 9.5))
        found.append(Question(
            model=model, task=task, amount=amount, gpu=draw.choice(cards), length=draw.choice([64, 500, 1024, 4096]),
            batch=draw.choice([None, 1, 24, 48, 64]), rank=draw.choice([None, None, 1, 7, 64, 2000]),
            four_bit=index % 5 == 0))
    for index in range(60):
        found.append(Question(model=None, width=64 * draw.randint(1, 130), layers=draw.randint(1, 90),
                              vocabulary=draw.randint(100, 200_000), amount=round(10 ** draw.uniform(2, 8)),
                              task=("sft", "rl")[index % 2], gpu=draw.choice(cards), rank=draw.choice([None, 4, 300])))
    nonsense = [{"amount": 0}, {"amount": -3}, {"amount": 10**13}, {"length": 1}, {"batch": 0}, {"rank": 0},
                {"rank": 70_000}, {"rank": 2561}, {"amount": 10**12}, {"four_bit": True, "model": "qwen3-30b-a3b"},
                {"model": None, "width": 100, "layers": 2, "vocabulary": 1000},
                {"model": None, "width": 128, "layers": 0, "vocabulary": 1000}]
    return found + [Question(**changed) for changed in nonsense]


def answer(question):
    """The library's, or the words of its refusal."""
    try:
        return asdict(advise(question))
    except REFUSED as error:
        return {"refused": str(error)}


def in_the_browser(questions, folder):
    """The page's answers, computed by Chromium."""
    runner = """
        const ask = (question) => {
          try { return lorakitCalculator.advise(question, data); }
          catch (error) {
            if (!(error instanceof lorakitCalculator.Refusal)) throw error;
            return { refused: error.message };
          }
        };
        document.getElementById("out").textContent = JSON.stringify(questions.map(ask));"""
    page = folder / "grid.html"
    page.write_text(
        f'<pre id="out"></pre><script>{script_address().read_text(encoding="utf-8")}</script><script>'
        f"const data = {json.dumps(browser_data())}; const questions = {json.dumps([asdict(q) for q in questions])};"
        f"{runner}</script>", encoding="utf-8")
    dom, asked = open_page(page, folder)
    assert asked == []
    return json.loads(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1).replace("&amp;", "&"))


def test_page_and_library_agree_on_a_grid_of_questions(tmp_path):
    questions = grid()
    assert len(questions) >= 500
    expected = [answer(question) for question in questions]
    refused = ["refused" in one for one in expected]
    assert 12 <= sum(refused) < 250, "most questions have an answer"
    for question, mine, page in zip(questions, expected, in_the_browser(questions, tmp_path), strict=True):
        assert ("refused" in mine) == ("refused" in page), (question, mine, page)
        if "refused" not in mine:
            assert flat(page) == pytest.approx(flat(mine), rel=1e-9), question


def flat(answer, name=""):
    """Nested numbers by path; None and words as 0 or their own."""
    if isinstance(answer, dict):
        return {key: value for part, one in answer.items() for key, value in flat(one, f"{name}.{part}").items()}
    if isinstance(answer, list | tuple):
        return flat(dict(enumerate(answer)), name)
    return {f"{name}: {answer}": 1.0} if answer is None or isinstance(answer, str) else {name: float(answer)}


def test_limits_are_said_in_the_same_words(tmp_path):
    questions = [Question(amount=0), Question(length=1), Question(rank=70_000), Question(rank=3000)]
    for question, page in zip(questions, in_the_browser(questions, tmp_path), strict=True):
        assert page["refused"] == answer(question)["refused"]
