"""Rewards of notebooks and scripts: their source travels, pinned by its hash; what cannot travel is refused."""

from __future__ import annotations

import functools
import json
import linecache
import subprocess
import sys

import pytest

import lorakit as lk
from lorakit import rewards
from lorakit.rewards import RewardError, load_rewards, register_reward


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


CELL = '''
import re
from math import sqrt as root
LONGEST = 4
SHOUT = re.compile("[a-z]+!", re.I)
PAYS = {"x": (1.0, -2.5)}

def half(value):
    """Beside the reward."""
    return value / 2 if value < LONGEST else half(value - 1)

def shouted(prompts, completions, scale: float = PAYS["x"][0], **columns) -> list[float | None]:
    def one(text):
        return scale * root(half(len(text))) * bool(SHOUT.search(text)) + re.compile("q").groups
    return [one(text) for text in completions]
'''


def cell(source: str, name: str = "<cell>") -> dict:
    """The names of a notebook after a cell, which Jupyter runs so that its source is found."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    names = {"__name__": "__main__"}
    exec(compile(source, name, "exec", dont_inherit=True), names)  # noqa: S102 - it is our own text
    return names


def test_a_function_of_a_notebook_is_kept_with_what_it_uses_and_pays_the_same():
    shouted = cell(CELL)["shouted"]
    name = register_reward(shouted)
    assert name.startswith("__main__:shouted@")
    texts = ["o!", "oh", "a long one!", ""]
    (loaded,) = load_rewards(name)
    assert loaded(prompts=texts, completions=texts) == shouted(texts, texts)
    assert len(set(shouted(texts, texts))) == 3
    spec = lk.GRPOSpec(learning_rate=1e-3, model="m@1", task="t@1", reward=name)
    assert lk.GRPOSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_pin_is_of_the_source_and_of_the_constants():
    name = register_reward(cell(CELL)["shouted"])
    assert register_reward(cell(CELL.replace("Beside", "Near"))["shouted"]) == name, "a docstring pays nothing"
    for before, after in (("LONGEST = 4", "LONGEST = 5"), ("value / 2", "value / 3"), ("1.0, -2.5", "2.0, -2.5")):
        assert register_reward(cell(CELL.replace(before, after))["shouted"]) != name


def test_a_function_made_by_another_keeps_what_it_closes_over():
    source = ("def made(scale, words):\n    def reward(prompts, completions, **columns):\n"
              "        return [scale * (text in words) for text in completions]\n    return reward\n")
    reward = cell(source)["made"](2.5, ["a", "b"])
    name = register_reward(reward)
    assert load_rewards(name)[0](prompts=[""] * 2, completions=["a", "c"]) == [2.5, 0.0]
    assert register_reward(cell(source)["made"](2, ["a", "b"])) != name
    with pytest.raises(RewardError, match=r"reward uses scale, a object, which no other process can be given"):
        register_reward(cell(source)["made"](object(), ["a"]))


REFUSED = {
    "judge = object()\ndef pay(prompts, completions):\n    return judge": "uses judge, a object",
    "def pay(prompts, completions):\n    return later(completions)": "uses later, which is not defined",
    "class Judge: ...\ndef pay(prompts, completions):\n    return Judge()": "uses Judge, a type",
    "pay = lambda prompts, completions: [0.0]": "is a lambda.*write it as a `def`",
    "import functools\n@functools.lru_cache\ndef pay(prompts, completions):\n    return [0.0]": "is no plain function",
    "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(**k):\n        return f(**k)\n    return g\n"
    "@twice\ndef pay(**columns):\n    return [0.0]": "pay is decorated",
    "def twice(f):\n    def pay(**k):\n        return f(**k)\n    return pay\n"
    "@twice\ndef pay(**columns):\n    return [0.0]":
        "uses f, a function",
}


@pytest.mark.parametrize("source", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_travel_is_refused_in_words(source, cache):
    with pytest.raises(RewardError, match=REFUSED[source]) as error:
        register_reward(cell(source)["pay"])
    assert "my_rewards.py" in str(error.value) or "write a `def`" in str(error.value)
    assert not list(cache.rglob("*.py"))


def test_a_source_that_is_not_what_runs_is_refused():
    source = "def pay(prompts, completions):\n    return [1.0 for _ in completions]\n"
    pay = cell(source)["pay"]
    linecache.cache["<cell>"] = (0, None, source.replace("1.0", "2.0").splitlines(True), "<cell>")
    with pytest.raises(RewardError, match=r"source of pay is not what runs.*define it again"):
        register_reward(pay)
    del linecache.cache["<cell>"]
    with pytest.raises(RewardError, match="source of pay is not to be had"):
        register_reward(pay)
    with pytest.raises(RewardError, match="is no plain function"):
        register_reward(functools.partial(pay, prompts=[]))


def test_one_of_a_files_own_rewards_is_still_named_by_its_file(monkeypatch):
    assert register_reward(rewards.text_of).startswith("lorakit.rewards:text_of@")


def test_a_kept_reward_that_is_gone_or_changed_is_refused_and_not_executed(cache, tmp_path):
    name = register_reward(cell(CELL)["shouted"])
    (file,) = cache.rglob("*.py")
    file.write_text(f"{file.read_text()}\nopen({str(tmp_path / 'canary')!r}, 'w')\n")
    with pytest.raises(RewardError, match=r"its file now hashes to .*register it again"):
        load_rewards(name)
    assert not (tmp_path / "canary").exists()
    file.unlink()
    with pytest.raises(RewardError, match=r"this machine does not keep it.*register_reward again"):
        load_rewards(name)


SCRIPT = """
import sys
import lorakit as lk

LETTERS = "aeiou"

def vowels(prompts, completions, **columns):
    return [sum(c in LETTERS for c in text) / 6 for text in completions]

reward = lk.register_reward(vowels)
task = lk.register_task("words", [{"prompt": f"{a}{b} "} for a in "bcdfghlmnprst" for b in "aeiou"], grader=reward)
spec = lk.GRPOSpec(model="tiny-w32-s0", task=task, reward=reward, learning_rate=1e-3, steps=2, prompts_per_step=2,
                   group_size=4, max_completion_length=6, evaluations=2, evaluation_problems=4)
(record,) = lk.run([spec], sys.argv[1], device="cpu", processes=1)
print(record.status, record.spec["reward"], record.metrics["reward"] > 0)
"""


@pytest.mark.slow
def test_a_scripts_own_reward_reaches_the_worker_process(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(tmp_path / "train.py"), str(tmp_path / "runs")], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok __main__:vowels@")
    assert done.stdout.endswith("True\n")
