"""The calculator in the page answers as the library does: the same questions, in Python and in a real browser."""

import ast
import html
import json
import random
import re
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from test_browser import open_page

import lorakit as lk
from lorabook.page.calculator import MODELS, CalculatorError, Question, advise
from lorabook.page.calculator_form import CARD, FIRST, HEADLINE, LINES, Support, fragment, page_data, shown
from lorabook.page.code_tabs import HUB_IDS, TABS, filled, template, values
from lorakit.theory.capacity import CapacityError
from lorakit.theory.configs import ConfigError, known_config
from lorakit.theory.hardware import GPUS

STATIC = Path(__file__).parents[2] / "book" / "_static"
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
    """The page's answers with their texts, computed by Chromium."""
    runner = """
        const ask = (question) => {
          try {
            const answer = lorakitCalculator.advise(question, data);
            return { answer, shown: lorakitAnswer.shown(question, answer, data),
                     code: lorakitAnswer.codeValues(question, answer, data) };
          } catch (error) {
            if (!(error instanceof lorakitCalculator.Refusal)) throw error;
            return { answer: { refused: error.message } };
          }
        };
        document.getElementById("out").textContent = JSON.stringify(questions.map(ask));"""
    page = folder / "grid.html"
    data = page_data()
    page.write_text(
        f'<pre id="out"></pre><script>{script("calculator")}{script("calculator-page")}</script><script>'
        f"const data = {json.dumps(data)}; const questions = {json.dumps([asdict(q) for q in questions])};"
        f"{runner}</script>", encoding="utf-8")
    dom, asked = open_page(page, folder)
    assert asked == []
    return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1)))


def script(name):
    return (STATIC / f"{name}.js").read_text(encoding="utf-8")


def test_page_and_library_agree_on_a_grid_of_questions(tmp_path):
    questions = grid()
    assert len(questions) >= 500
    expected = [answer(question) for question in questions]
    refused = ["refused" in one for one in expected]
    assert 12 <= sum(refused) < 250, "most questions have an answer"
    for question, mine, found in zip(questions, expected, in_the_browser(questions, tmp_path), strict=True):
        page = found["answer"]
        assert ("refused" in mine) == ("refused" in page), (question, mine, page)
        if "refused" not in mine:
            assert flat(page) == pytest.approx(flat(mine), rel=1e-9), question
            advice = advise(question)
            assert found["shown"] == shown(question, advice), question
            assert {k: str(v) for k, v in found["code"].items()} == values(question, advice), question


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
        assert page["answer"]["refused"] == answer(question)["refused"]


@pytest.fixture(scope="module")
def whole():
    """The calculator's HTML with nothing but words to rest on, its scripts inside."""
    nothing = Support("a test", "low: no run", ("02-rank", "Rank"), "Because it is.")
    text = fragment({task: dict.fromkeys(LINES, nothing) for task in ("sft", "rl")})
    for name in ("calculator", "calculator-page"):
        text = text.replace(f'<script src="../_static/{name}.js"></script>', f"<script>{script(name)}</script>")
    return text


def after(whole, folder, *changes):
    """Headline, notes and first tab after a reader changed fields of the form, one dict for each change."""
    page = folder / "page.html"
    page.write_text(f"""{whole}<pre id="out"></pre><script>
        const form = document.querySelector(".lk-form");
        const text = (name) => document.querySelector(`.lk-${{name}}`).textContent;
        const found = {json.dumps(changes)}.map((changed) => {{
          form.reset();
          for (const [name, value] of Object.entries({{ model: "qwen3-4b", ...changed }})) {{
            form.elements.namedItem(name).value = value;
            form.elements.namedItem(name).dispatchEvent(new Event("input", {{ bubbles: true }}));
          }}
          return {{ headline: text("headline"), notes: text("notes"), code: text("code") }};
        }});
        document.getElementById("out").textContent = JSON.stringify(found);
        </script>""", encoding="utf-8")
    dom, asked = open_page(page, folder)
    assert asked == []
    return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1)))


def test_the_page_answers_a_reader_and_refuses_nonsense_in_words(whole, tmp_path):
    first, rl, small, none, empty, high, wide = after(
        whole, tmp_path, {}, {"task": "rl", "amount": "10000"}, {"model": "llama-3.1-70b"}, {"amount": "0"},
        {"amount": ""}, {"rank": "5000"}, {"rank": "2000"})
    question = Question()
    assert first["headline"] == HEADLINE.format(**shown(question, advise(question)))
    assert all(word in first["code"] for word in ("r=32", "SFTTrainer"))
    assert "Rank 8, alpha 32" in rl["headline"]
    assert "GRPOTrainer" in rl["code"]
    assert "too small" in small["notes"]
    assert none["notes"].startswith("No answer. label tokens or episodes: 0; allowed")
    assert empty["notes"].startswith("No answer. label tokens or episodes: nothing")
    assert "above 2,560" in high["notes"]
    assert "adds nothing" in wide["notes"]


@pytest.mark.parametrize("task", ["sft", "rl"])
def test_an_address_opens_either_answer_and_both_stand_first_with_their_reasons(whole, tmp_path, task):
    page = tmp_path / "page.html"
    page.write_text(whole, encoding="utf-8")
    dom, _ = open_page(page, tmp_path, anchor=task)
    values = shown(FIRST[task], advise(FIRST[task]))
    assert f'lk-headline">{HEADLINE.format(**values)}<' in dom
    first = dom[dom.index("lk-two"):dom.index("lk-calculator")]
    assert CARD.format(**values) in first
    assert f'href="#{task}"' in first
    assert first.count("Because it is.") == 4


def test_without_script_there_is_an_answer_and_a_table(whole):
    still = re.sub(r"<script.*?</script>", "", whole, flags=re.S)
    assert '<form class="lk-form" hidden>' in still
    table = re.search(r"<noscript>(.*?)</noscript>", still, re.S).group(1)
    assert table.count("<tr>") > 5
    assert "qwen3-4b" in table
    assert HEADLINE.format(**shown(Question(), advise(Question()))) in still
    assert not re.search(r"X[a-z_]+X", re.sub(r"<template.*?</template>", "", still, flags=re.S)), "a value is missing"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sft", "rl"])
@pytest.mark.parametrize("file", TABS.values())
def test_code_says_what_the_answer_says(task, file):
    question = Question(task=task, amount=200_000)
    advice = advise(question)
    text = filled(template(task, file), values(question, advice))
    assert not re.search(r"X\w+X", text)
    assert max(map(len, text.splitlines())) <= 88, "a longer line scrolls"
    if file.endswith(".yml"):
        found = yaml.safe_load(text) or {}
        wanted = {"lora_alpha": 32, "gradient_accumulation_steps": advice.batch // advice.lora.micro_batch}
        assert {name: found[name] for name in wanted if found} == (wanted if found else {})
        assert not found or float(found["learning_rate"]) == pytest.approx(advice.rate, rel=0.06)
    elif file.endswith(".py"):
        assert_arguments_exist(ast.parse(text), task)
    else:
        flags = set(re.findall(r"--(\w+)", text)) - {"use_peft"}
        assert flags <= trl_fields(task), flags - trl_fields(task)


def trl_fields(task):
    """What TRL's command line and classes take."""
    trl = pytest.importorskip("trl")
    script = import_module(f"trl.scripts.{task if task == 'sft' else 'grpo'}")
    classes = [trl.ModelConfig, trl.ScriptArguments, trl.SFTConfig if task == "sft" else trl.GRPOConfig]
    classes += [script.GRPOScriptArguments] if task == "rl" else []
    return {field.name for one in classes for field in fields(one)}


def assert_arguments_exist(tree, task):
    """Every keyword of a call to PEFT, TRL or lorakit is one of its parameters."""
    peft = pytest.importorskip("peft")
    known = {"LoraConfig": {f.name for f in fields(peft.LoraConfig)},
             "SFTConfig": trl_fields(task), "GRPOConfig": trl_fields(task),
             "SFTSpec": {f.name for f in fields(lk.SFTSpec)}, "GRPOSpec": {f.name for f in fields(lk.GRPOSpec)},
             "LoRASpec": {f.name for f in fields(lk.LoRASpec)},
             "SFTTrainer": {"args", "train_dataset", "peft_config", "processing_class"},
             "GRPOTrainer": {"args", "train_dataset", "peft_config", "processing_class", "reward_funcs"}}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        if name in known:
            assert {word.arg for word in call.keywords} <= known[name], name
        if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", None) == "lk":
            assert hasattr(lk, call.func.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lorakit."):
            assert all(hasattr(import_module(node.module), one.name) for one in node.names)


def test_hub_names_are_those_of_the_shapes():
    assert set(HUB_IDS) == set(MODELS)
    assert {name: known_config(hub) for name, hub in HUB_IDS.items()} == {name: known_config(name) for name in MODELS}
