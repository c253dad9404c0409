"""Tasks: answers are right, splits are disjoint, names pin problems, and what cannot be trained on says why."""

import importlib
import json

import pytest

import lorakit
from lorakit.bases.models import byte_tokenizer
from lorakit.data.datasets import DatasetError
from lorakit.data.rl_tasks import Task, encode_prompts, load_task, register_task
from lorakit.data.skill_data import TASKS
from lorakit.data.skills import SKILLS, split_of
from lorakit.names import UnknownNameError, known_names
from lorakit.rewards import RewardError, load_rewards, register_reward
from lorakit.sources import LORAKIT

SKILL_TASKS = sorted(TASKS)
PROBLEMS = [{"prompt": f"Which word follows {n}?", "answer": f"word {n + 1}"} for n in range(60)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    return tmp_path


def accuracy(task, problems, completions):
    (grader,) = load_rewards(task.grader)
    return sum(grader(prompts=[""] * len(problems), completions=completions, **task.columns(problems))) / len(problems)


def disjoint(task):
    seen = [prompt for split in task.splits.values() for prompt in {problem["prompt"] for problem in split}]
    return len(seen) == len(set(seen)) == sum(map(len, task.splits.values()))


@pytest.mark.parametrize("name", SKILL_TASKS)
def test_a_skill_as_a_task(name, cache):
    task = load_task(name)
    assert task.hash == known_names()["tasks"][name]
    assert disjoint(task)
    assert set(task.splits) == {"train", "validation", "test", "shifted"}
    assert min(map(len, task.splits.values())) >= 80
    test = task.splits["test"]
    assert accuracy(task, test, [problem["answer"] + "\n" for problem in test]) == 1
    assert accuracy(task, test, [problem["answer"] + "x\n" for problem in test]) == 0
    assert task.stop == "\n"


def test_no_argument_of_test_is_trained_on_in_any_wording():
    task = load_task("copy")
    (skill,) = [skill for skill in SKILLS if skill.name == "copy"]
    arguments = {split: {problem["answer"] for problem in problems} for split, problems in task.splits.items()}
    assert not arguments["train"] & (arguments["test"] | arguments["shifted"] | arguments["validation"])
    assert {split_of(skill.name, argument) for argument in arguments["test"] | arguments["shifted"]} == {"test"}
    assert task.splits["shifted"][0]["prompt"].startswith("say it again, ")


def test_a_reworded_task_trains_on_the_wording_that_the_base_has_not_met():
    task, plain = load_task("copy-reworded"), load_task("copy")
    assert all(problem["prompt"].startswith("say it again, ") for problem in task.splits["train"])
    assert all(problem["prompt"].startswith("copy ") for problem in task.splits["shifted"])
    learnt = {problem["answer"] for problem in task.splits["train"]}
    assert not learnt & {problem["answer"] for name in ("validation", "test") for problem in plain.splits[name]}


def test_one_task_at_least_is_not_mathematics():
    assert load_task("double-letters").splits["test"][0]["answer"].isalpha()


def test_every_name_resolves_and_every_grader_exists():
    assert LORAKIT.pins["tasks"].keys() == TASKS.keys()
    with pytest.raises(UnknownNameError, match=r"did you mean 'copy'\?.*register_task"):
        load_task("coppy")


def test_your_own_problems(cache):
    name = register_task("mine", PROBLEMS, stop="\n")
    assert register_task("mine", reversed(PROBLEMS), stop="\n") != name, "the order of problems is part of a run"
    task = load_task(name)
    assert (task.name, task.grader, task.stop, task.chat) == ("mine", "exact", "\n", False)
    assert disjoint(task)
    assert sum(map(len, task.splits.values())) == 60
    spec = lorakit.GRPOSpec(learning_rate=1e-3, model="m@1", task=name)
    assert load_task(spec.task) == task
    assert task.columns(task.splits["test"])["answer"] == [problem["answer"] for problem in task.splits["test"]]


def test_further_columns_reach_the_reward(cache, tmp_path, monkeypatch):
    (tmp_path / "limit_rewards.py").write_text("def short(prompts, completions, limit, **columns):\n"
                                               "    return [float(len(c) <= n) for c, n in zip(completions, limit)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    short = importlib.import_module("limit_rewards").short
    rows = [{"prompt": f"{n}?", "limit": n} for n in range(60)]
    with pytest.raises(RewardError, match="my_rewards:short cannot be imported here"):
        register_task("limits", rows, grader="my_rewards:short@0123456789abcdef")
    task = load_task(register_task("limits", rows, grader=register_reward(short)))
    assert set(task.columns(task.splits["train"])) == {"limit"}


@pytest.mark.parametrize(("problems", "words"), [
    ([*PROBLEMS, {"prompt": "?"}], "mine: problem 61 has no answer .*columns are prompt.*'prompt' is enough"),
    ([{"prompt": "?", "answer": 5}], "problem 1 has no answer"),
    ([{"prompt": "?", "answer": " "}], "problem 1 has no answer"),
    ([{"prompt": "", "answer": "5"}], "problem 1 has no prompt"),
    ([{"question": "?", "answer": "5"}], "problem 1 has no prompt .*columns are question, answer"),
    ([*PROBLEMS, {"prompt": "?", "answer": "5", "hint": "x"}], "problem 61 has columns prompt, answer, hint"),
    ([{"prompt": "half \ud83d", "answer": "5"}], "mine: problem 1 holds half a character"),
    ([], "mine: 0 problems leave train and validation and test empty"),
    (PROBLEMS[:1] * 60, "mine: 60 problems leave .* empty; give more"),
])
def test_problems_that_cannot_be_trained_on_are_named(cache, problems, words):
    with pytest.raises(DatasetError, match=words):
        register_task("mine", problems)


@pytest.mark.parametrize("name", ["", "a@b", "a/b", "copy", "<b>", "a\nb", "..", "a" * 65])
def test_a_name_that_would_not_resolve_is_refused(name):
    with pytest.raises(ValueError, match="give a short name"):
        register_task(name, PROBLEMS)


def test_problems_that_are_not_here_or_not_the_same(cache):
    with pytest.raises(UnknownNameError, match=r"register_task\('mine'"):
        load_task("mine@0123456789ab")
    name = register_task("mine", PROBLEMS)
    path = next(cache.rglob("*.json"))
    path.write_text(path.read_text(encoding="utf-8").replace("word 7", "word 8"), encoding="utf-8")
    with pytest.raises(DatasetError, match="is pinned to"):
        load_task(name)
    path.write_text('{"splits": 3', encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be read from the cache"):
        load_task(name)
    with pytest.raises(UnknownNameError, match="in hex digits alone"):
        load_task(f"mine@../tasks/{path.stem}")
    with pytest.raises(DatasetError, match="copy is pinned to 000000000000"):
        load_task("copy@000000000000")


def test_the_hash_covers_problems_and_settings():
    splits = {"train": PROBLEMS[:1], "validation": [], "test": []}
    tasks = [Task("a", splits), Task("a", splits, "boxed"), Task("a", splits, stop="\n"), Task("a", splits, chat=True),
             Task("a", splits | {"train": PROBLEMS[1:2]})]
    assert len({task.hash for task in tasks}) == len(tasks)
    assert Task("b", json.loads(json.dumps(splits))).hash == tasks[0].hash


def test_prompts_that_leave_no_room_are_refused():
    problems = [{"prompt": "abc\n", "answer": "5"}, {"prompt": "abcdef\n", "answer": "5"}]
    task, tokenizer = Task("a", {"train": problems}), byte_tokenizer()
    assert encode_prompts(task, "train", tokenizer, context=12, max_completion_length=5)[0] == [97, 98, 99, 10]
    with pytest.raises(DatasetError, match=r"a train, prompt 2 has 7 tokens.*have 6.*context is 12.*never cut"):
        encode_prompts(task, "train", tokenizer, context=12, max_completion_length=6)


def test_chat_prompts_take_the_models_template():
    tokenizer = byte_tokenizer()
    task = Task("a", {"train": [{"prompt": "6 · 7?", "answer": "42"}]}, chat=True)
    plain = encode_prompts(task, "train", tokenizer, 100, 10)
    assert tokenizer.decode(plain[0]) == "6 · 7?", "a model without a template meets the prompt as it is"
    tokenizer.chat_template = ("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
                               "{% if add_generation_prompt %}[assistant] {% endif %}")
    assert tokenizer.decode(encode_prompts(task, "train", tokenizer, 100, 10)[0]) == "[user] 6 · 7?\n[assistant] "
