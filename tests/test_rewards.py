"""Graders pay for the right answer in the right form, for nothing else, and survive whatever a model writes."""

import importlib
import json
import math
import os
import queue
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import HOSTILE

import lorakit
from lorakit.rewards import (
    SCHEMES,
    RewardError,
    checked,
    load_rewards,
    register_reward,
    symbolic,
    symbolic_worker,
    total,
)
from lorakit.rewards.answers import boxes, number
from lorakit.rewards.symbolic import UngradableError, same_mathematics
from lorakit.sources import LORAKIT

FORMS = ("{}", "{}\n", "So it is\n#### {}", r"So it is \boxed{{{}}}", "…</think>{}")
watched: list[str] | None = None


def watch(event: str, arguments: tuple) -> None:
    if watched is not None and (event in ("open", "exec", "compile", "import") or event.split(".")[0] in (
            "os", "subprocess", "socket", "shutil", "ctypes")):
        watched.append(f"{event} {arguments!r:.100}")


sys.addaudithook(watch)


def paid(scheme: str, completion: str, answer: str = "1764") -> float | None:
    columns = {"prompts": ["?"], "completions": [completion], "answer": [answer]}
    return total([function(**columns) for function in load_rewards(scheme)])[0]


@pytest.mark.parametrize(("scheme", "completion", "answer", "reward"), [
    ("exact", " abc\n", "abc", 1), ("exact", "abcd", "abc", 0), ("exact", "Abc", "abc", 0), ("exact", "", "abc", 0),
    ("numeric", "1,764.0", "1764", 1), ("numeric", "$1764", "1764", 1), ("numeric", "1765", "1764", 0),
    ("numeric", "3528/2", "1764", 1), ("numeric", "abc", "abc", 1),
    ("marked", "42 · 42\n#### 1764\n", "1764", 1), ("marked", "####1764", "1764", 1), ("marked", "1764", "1764", 0),
    ("marked", "so #### 1764", "1764", 0), ("marked", "#### abc", "abc", 1),
    ("boxed", r"\boxed{1764}", "1764", 1), ("boxed", r"\boxed{1764} = \boxed{1764}", "1764", 1),
    ("boxed", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", 1), ("boxed", r"\boxed{\}}", r"\}", 1),
    ("format", "#### ?", "1764", 1), ("format", "1764", "1764", 0),
    ("reasoning", "42 · 42</think> 1764", "1764", 1), ("reasoning", "1764", "1764", 0),
    ("numeric", "1764.", "1764", 1),
])
def test_what_is_paid(scheme, completion, answer, reward):
    assert paid(scheme, completion, answer) == reward
    message = [{"role": "assistant", "content": completion}]
    assert total([f(prompts=["?"], completions=[message], answer=[answer]) for f in load_rewards(scheme)]) == [reward]


def test_the_specs_name_every_scheme_with_its_components():
    assert {name: len(functions) for name, functions in SCHEMES.items()} == LORAKIT.rewards


def test_the_corpus_is_large_and_has_no_honest_answer():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 100
    assert "1764" not in {text.strip(" \t\r\n") for text in HOSTILE}


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"math"}))
def test_hostile_completions_touch_nothing_and_earn_nothing(scheme, tmp_path):
    global watched
    canary = tmp_path / "canary"
    completions = [form.format(text.replace("{canary}", str(canary))) for text in HOSTILE for form in FORMS]
    functions = load_rewards(scheme)
    watched = events = []
    try:
        values = total([function(prompts=[""] * len(completions), completions=completions,
                                 answer=["1764"] * len(completions)) for function in functions])
    finally:
        watched = None
    assert events == []
    assert not canary.exists()
    earned = [text for text, value in zip(completions, values, strict=True) if value is None or value > 0]
    # The form alone is what `format` pays for; where the answer counts too, nothing here comes out above 0.
    assert scheme == "format" or not earned


def test_hostile_completions_meet_sympy_and_earn_nothing(tmp_path):
    canary = tmp_path / "canary"
    completions = [rf"\boxed{{{text}}}".replace("{canary}", str(canary)) for text in HOSTILE] + HOSTILE
    (math_reward,) = load_rewards("math")
    values = math_reward(prompts=[""] * len(completions), completions=completions, answer=["1764"] * len(completions))
    assert [text for text, value in zip(completions, values, strict=True) if value != 0] == []
    assert not canary.exists()


def test_any_string_gets_a_number():
    draw = random.Random(20261122)
    parts = [r"\boxed{", "}", "####", "</think>", "\n", " ", "1", "764", ".", ",", "/", "-", "e9", "$", "\\", "\x00",
             "é", "\ud800", "a", "^", "{", "!", "(", ")", "%"]
    completions = ["".join(draw.choices(parts, k=draw.randint(0, 40))) for _ in range(3000)]
    for scheme in set(SCHEMES) - {"math"}:
        for answer in ("1764", "abc", "", "\ud800"):
            for function in load_rewards(scheme):
                values = function(prompts=completions, completions=completions, answer=[answer] * len(completions))
                assert all(isinstance(value, float) for value in values)


def test_no_text_takes_more_than_linear_time():
    """Quadratic in 100,000 characters would be hours for what is done here in a second, in a process of its own."""
    code = """
from lorakit.rewards import SCHEMES, load_rewards
for text in (r"\\boxed{" * 14_000, "#" * 99_999, "1" * 99_999, "</think>" * 12_000, "{" * 99_999, "1," * 49_999):
    for scheme in set(SCHEMES) - {"math"}:
        for function in load_rewards(scheme):
            function(prompts=[""] * 100, completions=[text + str(i) for i in range(100)], answer=["1764"] * 100)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_boxes_are_looked_for_in_a_text_of_bounded_length():
    assert boxes("x" * 200_000 + r"\boxed{1}") == []


def test_numbers_have_bounds():
    assert number("1e99") == 10**99
    for text in ("1e100", "9" * 65, "1__0", "0x10", "1/0", "1,76,4", ".", "5..", "-.", "--5", "-$-5", "1e", "e5", "$",
                 "%", "", "4 2", "1{,}0000", "17\u200b64", "１７"):
        assert number(text) is None


@pytest.mark.parametrize(("given", "answer", "same"), [
    (r"\frac{1}{2}", "0.5", True), (r"\frac12", "0.5", True), ("4+1", "5", True), (r"5\sqrt{2}", r"\sqrt{50}", True),
    ("x^2+2x+1", "(x+1)^2", True), ("2,1", r"\{1,2\}", True), (r"5\text{ cm}", "5", True), ("[1,2]", "(1,2)", False),
    (r"\pi", "3", False), ("x+1", "x+2", False), (r"\frac{", "5", None), ("9^{9^{9}}", "5", None), ("open", "5", None),
    ("five", "5", None), ("5", "5", True), ("6", "5", False), (r"\text{Monday}", r"\text{Monday}", True),
])
def test_mathematical_equality(given, answer, same):
    assert same_mathematics(given, answer) is same


def test_an_answer_that_cannot_be_read_leaves_the_completion_without_a_reward():
    assert paid("math", r"\boxed{5}", "prove that it is so") is None
    assert paid("math", r"\boxed{prove that it is so}", "prove that it is so") == 1
    with pytest.raises(UngradableError):
        same_mathematics("x", r"\frac{")


def test_a_pair_that_takes_too_long_is_given_up_and_the_next_one_is_graded():
    assert same_mathematics(r"\binom{99999999}{44444444}", "5") is None  # exact, it has 30 million digits
    assert symbolic._process._child is None
    assert same_mathematics("10-5", "5") is True


def test_a_pair_whose_process_dies_is_graded_by_another_one():
    assert same_mathematics("2+3", "5") is True
    for kill in ("before", "as it is asked"):
        symbolic._process._child.kill()
        if kill == "before":
            symbolic._process._child.wait()
        assert same_mathematics("3+2" if kill == "before" else "6-1", "5") is True


def test_no_verdict_of_a_process_that_died_twice_is_kept(monkeypatch):
    with monkeypatch.context() as patched:
        def start():
            dead = subprocess.Popen([sys.executable, "-c", ""], text=True, stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE)
            dead.wait()
            symbolic._process._child, symbolic._process._replies = dead, queue.Queue()
            symbolic._process._replies.put(None)
            symbolic._process._owner = os.getpid()
            return dead

        symbolic._process._stop()
        patched.setattr(symbolic._process, "_start", start)
        assert same_mathematics("y+21", "21+y") is None
    symbolic._process._stop()
    assert same_mathematics("y+21", "21+y") is True


def test_after_an_interrupt_every_verdict_is_of_its_own_question(monkeypatch):
    assert same_mathematics("1+x", "x+1") is True
    replies = symbolic._process._replies

    class Interrupted:  # as a notebook's Stop, while the reply is on its way
        def get(self, timeout):
            raise KeyboardInterrupt

    symbolic._process._replies = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        same_mathematics("x+3", "x+4")
    assert symbolic._process._replies is not replies
    asked = [("x+7", "7+x"), ("x+9", "y+9"), ("y+8", "8+y"), ("2x", "x")]
    assert [same_mathematics(*pair) for pair in asked] == [True, False, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_the_worker_has_little_memory_and_evaluates_starts_and_writes_nothing(tmp_path):
    canary = tmp_path / "canary"
    attempts = [
        "eval('1+1')", "exec('x=1')", "compile('1', 'x', 'eval')", f"open({str(canary)!r}, 'w')", "open('/etc/passwd')",
        f"os.open({str(canary)!r}, os.O_CREAT)", f"os.mkdir({str(canary)!r})", f"os.system('touch {canary}')",
        f"subprocess.run(['touch', {str(canary)!r}])", "socket.socket()", "bytearray(2**30)",
        "len(open(os.__file__).read())"]
    folder = str(Path(symbolic_worker.__file__).parent)
    code = (f"import sys, json, os, subprocess, socket\nsys.path.insert(0, {folder!r})\n"
            "import symbolic_worker\nsymbolic_worker.limit_memory()\n"
            f"tries = [compile(text, sys.prefix, 'eval') for text in {attempts!r}]\n"
            "sys.addaudithook(symbolic_worker.refuse)\nout = []\n"
            "for attempt in tries:\n    try:\n        eval(attempt)\n        out.append('done')\n"
            "    except (PermissionError, MemoryError) as error:\n        out.append(type(error).__name__)\n"
            "print(json.dumps(out))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["PermissionError"] * 10 + ["MemoryError", "done"]
    assert not canary.exists()


def test_without_sympy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lorakit.MissingExtraError, match=r"pip install '\.\[train\]'.*'boxed' or 'marked'"):
        load_rewards("math")


def test_without_answers_the_error_says_so():
    for name in set(SCHEMES) - {"format"}:
        with pytest.raises(RewardError, match=r"compares with a column 'answer' of text.*columns are question"):
            load_rewards(name)[-1](prompts=["?"], completions=["5"], question=["?"])
    with pytest.raises(RewardError, match="column 'answer' of text"):
        load_rewards("exact")[0](prompts=["?"], completions=["5"], answer=[5])


@pytest.mark.parametrize(("returned", "words"), [
    ([1.0, math.nan], r"reward own returned nan for the completion 'second'.*finite number, or None"),
    ([1.0, math.inf], "returned inf"), ([1.0, "2"], "returned '2'"), ([1.0], "returned 1 values for 2 completions"),
    (None, "reward own raised TypeError"), ([1.0, [2.0]], "returned \\[2.0\\]"), ([1.0, 10**400], "returned 1000"),
    ([1.0, 10**5000], "returned <a whole number of thousands of digits>"), ([1.0, 1j], "returned 1j"),
])
def test_a_reward_that_is_no_number_names_its_completion(returned, words):
    def own(prompts, completions, **columns):
        return returned

    with pytest.raises(RewardError, match=words):
        checked(own)(prompts=["", ""], completions=["first", "second"])


def test_a_reward_that_raises_is_named_and_its_error_kept():
    def own(prompts, completions, **columns):
        raise ZeroDivisionError("no length")

    with pytest.raises(RewardError, match="reward own raised ZeroDivisionError: no length") as caught:
        checked(own)(prompts=[""], completions=[""])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_none_and_numpy_numbers_pass():
    import numpy as np

    values = checked(lambda prompts, completions, **columns: np.array([1, 0]))(prompts=["", ""], completions=["", ""])
    assert values == [1.0, 0.0]
    assert checked(lambda prompts, completions: [None])(prompts=[""], completions=[""]) == [None]
    assert total([[None, 1.0], [None, None]]) == [None, 1.0]


def test_your_own_reward_is_named_by_its_file(tmp_path, monkeypatch):
    path = tmp_path / "brief_reward.py"
    path.write_text("def brief(prompts, completions, **columns):\n    return [-len(text) for text in completions]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = register_reward(importlib.import_module("brief_reward").brief)
    assert name.startswith("brief_reward:brief@")
    (brief,) = load_rewards(name)
    assert brief(prompts=["", ""], completions=["a", "abc"]) == [-1.0, -3.0]
    spec = lorakit.GRPOSpec(learning_rate=1e-3, model="m@1", task="t@1", reward=name)
    assert lorakit.GRPOSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    path.write_text("def brief(prompts, completions, **columns):\n    return [0.0 for text in completions]\n")
    with pytest.raises(RewardError, match=r"its file now hashes to .*register it again"):
        load_rewards(name)
    monkeypatch.delitem(sys.modules, "brief_reward")
    path.unlink()
    with pytest.raises(RewardError, match="cannot be imported here"):
        load_rewards(name)


@pytest.mark.parametrize("module", ["planted", "planted_package.planted"])
def test_a_file_of_another_hash_is_not_executed(module, tmp_path, monkeypatch):
    file = tmp_path / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(exist_ok=True)
    touch = f"import pathlib; pathlib.Path({str(tmp_path / 'canary')!r}).touch()\n"
    if "." in module:
        (file.parent / "__init__.py").write_text(touch)
    file.write_text(f"{touch}def f(**columns): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(RewardError, match=rf"{module}:f is pinned to 0{{16}}, but its file now hashes to"):
        load_rewards(f"{module}:f@{'0' * 16}")
    assert not (tmp_path / "canary").exists()


def test_an_asynchronous_reward_is_refused_in_words(tmp_path, monkeypatch):
    (tmp_path / "judges.py").write_text("async def judge(prompts, completions, **columns):\n    return [1.0]\n"
                                        "def hidden(prompts, completions, **columns):\n"
                                        "    return judge(prompts, completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    judges = importlib.import_module("judges")
    with pytest.raises(RewardError, match=r"reward judge is async, and async rewards are not supported.*asyncio\.run"):
        register_reward(judges.judge)
    (hidden,) = load_rewards(register_reward(judges.hidden))
    with pytest.raises(RewardError, match="reward hidden is async"):
        hidden(prompts=[""], completions=[""])


def test_an_unknown_reward_lists_the_known_ones():
    with pytest.raises(RewardError, match=r"unknown reward 'exakt'; known: exact, numeric.*register_reward"):
        load_rewards("exakt")
