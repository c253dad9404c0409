"""The papers' datasets, read from rows of the same columns as the hub's (written for these tests, not copied)."""

import json
from pathlib import Path

import pytest

import lorakit
from lorabook.data import hub
from lorabook.data.hub import SOURCES, load_conversations, load_problems
from lorakit.data.datasets import DatasetError, load_dataset
from lorakit.data.rl_tasks import load_task
from lorakit.names import UnknownNameError, known_names
from lorakit.rewards import load_rewards

ROWS = Path(__file__).parent / "hub_rows"
FILES = {"openai/gsm8k": "gsm8k", "EleutherAI/hendrycks_math": "hendrycks_math", "zwhe99/DeepMath-103K": "deepmath",
         "BytedTsinghua-SIA/DAPO-Math-17k": "dapo", "allenai/tulu-3-sft-mixture": "tulu3",
         "open-thoughts/OpenThoughts3-1.2M": "openthoughts3"}


def rows_of(name):
    return [json.loads(line) for line in (ROWS / f"{FILES[name]}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def asked(monkeypatch):
    """Stands in for the hub: each configuration holds the shipped rows, and its test split the first of them."""
    import datasets

    asked = []

    def load(name, configuration, *, split, revision):
        asked.append((name, configuration, split, revision))
        rows = rows_of(name)
        key = next((key for key in ("question", "problem") if key in rows[0]), None)
        if key and configuration:
            rows = [row | {key: f"{row[key]} ({configuration})"} for row in rows]
            rows = rows[:1] if split == "test" else [*rows, *(row | {key: f"{row[key]} {n}"} for row in rows
                                                             for n in range(40))]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@pytest.mark.parametrize("name", FILES)
def test_every_source_is_asked_for_at_its_pinned_commit(asked, name):
    source = SOURCES[name]
    assert len(source.commit) == 40
    assert int(source.commit, 16)
    load = load_problems if source.grader else load_conversations
    data = load(name, source.commit)
    assert {revision for *_, revision in asked} == {source.commit}
    assert {configuration for _, configuration, *_ in asked} == set(source.configurations)
    texts = {split: {json.dumps(row) for row in rows} for split, rows in data.splits.items()}
    assert all(texts.values())
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


def test_the_names_of_problems_are_pinned_for_specs(asked):
    hubs = {name: commit for name, commit in known_names()["tasks"].items() if "/" in name}
    assert hubs == {name: source.commit for name, source in SOURCES.items() if source.grader}
    spec = lorakit.GRPOSpec(learning_rate=1e-5, model="m@1", task="openai/gsm8k")
    assert spec.task == "openai/gsm8k@" + SOURCES["openai/gsm8k"].commit
    assert load_task(spec.task).grader == "marked"
    name = "allenai/tulu-3-sft-mixture@" + SOURCES["allenai/tulu-3-sft-mixture"].commit
    assert load_dataset(lorakit.SFTSpec(learning_rate=1e-5, model="m@1", dataset=name).dataset).splits["train"]


def test_gsm8k(asked):
    task = load_problems("openai/gsm8k", "c" * 40)
    (first,) = task.splits["test"]
    assert first["prompt"].startswith("Ana bakes 3 trays")
    assert first["prompt"].endswith("like this: #### 7")
    assert first["answer"] == "34"
    problems = task.splits["train"] + task.splits["validation"]
    assert {problem["answer"] for problem in problems} == {"34", "1000"}, "the third row has no answer"
    assert first["prompt"] not in {problem["prompt"] for problem in problems}, "a test problem is not trained on"
    (reward,) = load_rewards(task.grader)
    shown = [row["answer"] for row in rows_of("openai/gsm8k")]
    assert reward(prompts=[""] * 3, completions=shown, answer=["34", "1000", "5"]) == [1.0, 1.0, 0.0]


def test_math_reads_seven_subjects_and_the_last_box(asked):
    task = load_problems("EleutherAI/hendrycks_math", "c" * 40)
    assert len({configuration for _, configuration, *_ in asked}) == 7
    assert len(task.splits["test"]) == 7
    answers = {problem["answer"] for problem in task.splits["train"]}
    assert answers == {"4", r"\frac{1}{2}"}
    assert task.splits["train"][0]["prompt"].endswith(r"\boxed{}.")


def test_dapo_loses_its_own_instructions_and_its_repetitions(asked):
    task = load_problems("BytedTsinghua-SIA/DAPO-Math-17k", "c" * 40)
    problems = [problem for split in task.splits.values() for problem in split]
    assert len(problems) == 60, "two of the 62 rows come twice"
    (two,) = [problem for problem in problems if problem["prompt"].startswith("What is $2^2$")]
    assert two == {"prompt": "What is $2^2$?\n\nGive an integer." + hub.BOXED, "answer": "4"}


def test_deepmath_and_its_answers(asked):
    task = load_problems("zwhe99/DeepMath-103K", "c" * 40)
    assert {problem["answer"] for split in task.splits.values() for problem in split} == {str(n) for n in range(2, 62)}


def test_tulu_counts_what_the_assistant_says(asked):
    (row,) = [row for split in load_conversations("allenai/tulu-3-sft-mixture", "c" * 40).splits.values()
              for row in split if ("7.\n", True) in row]
    assert "".join(text for text, _ in row) == (
        "<|system|>\nBe brief.\n<|user|>\nSay 7.\n<|assistant|>\n7.\n<|user|>\nAgain.\n<|assistant|>\n7!")
    assert [text for text, learn in row if learn] == ["7.\n", "7!"]


def test_openthoughts_takes_rows_over_the_whole_dataset(asked, monkeypatch):
    whole = load_conversations("open-thoughts/OpenThoughts3-1.2M", "c" * 40)
    assert sum(map(len, whole.splits.values())) == 60
    monkeypatch.setitem(SOURCES, "open-thoughts/OpenThoughts3-1.2M",
                        hub.Source("c" * 40, SOURCES["open-thoughts/OpenThoughts3-1.2M"].read, rows=20))
    some = [load_conversations("open-thoughts/OpenThoughts3-1.2M", "c" * 40) for _ in range(2)]
    assert some[0].hash == some[1].hash != whole.hash
    prompts = [row[0][0] for split in some[0].splits.values() for row in split]
    numbers = [int(text.split("What is ")[1].split()[0]) for text in prompts]
    assert len(numbers) == 20
    assert min(numbers) < 20 < 40 < max(numbers), "not the first rows, which come from one source"
    assert ("<think>\n7 and one.\n</think>\n\n8", True) in [row[-1] for s in whole.splits.values() for row in s]


def test_a_dataset_without_answers_says_so(monkeypatch):
    import datasets

    for rows, words in (([{"question": "?", "answer": "none"}], r"none of 1 problems has an answer.*known.*e53f0488"),
                        ([{"question": "?"}], r"lacks the column.*KeyError: 'answer'.*columns are question"),
                        ([{"question": "?", "answer": None}], "lacks the column or form")):
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, rows=rows, **__: datasets.Dataset.from_list(rows))
        with pytest.raises(DatasetError, match=words.replace("known.*", "lorakit knows.*")):
            load_problems("openai/gsm8k", "c" * 40)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    import datasets

    def load(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DatasetError, match=r"cannot load openai/gsm8k at cccc.*no route.*HF_HUB_OFFLINE"):
        load_problems("openai/gsm8k", "c" * 40)


def test_a_folder_does_not_take_the_place_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="a folder 'openai/gsm8k' lies here"):
        load_problems("openai/gsm8k", "c" * 40)


@pytest.mark.parametrize(("load", "name", "words"), [
    (load_task, "org/other", "no hub dataset.*known: openai/gsm8k"),
    (load_task, "allenai/tulu-3-sft-mixture", "no hub dataset"),
    (load_dataset, "openai/gsm8k", "no hub dataset.*known: allenai/tulu-3"),
])
def test_an_unknown_dataset_lists_the_known_ones(load, name, words):
    with pytest.raises(UnknownNameError, match=words):
        load(f"{name}@{'c' * 40}")
