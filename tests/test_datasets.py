"""Datasets: disjoint splits, exact answers, pinned hashes, and messages that say which row and what to do."""

import json

import datasets
import pytest

from lorakit.data.datasets import DatasetError, load_dataset, register_dataset
from lorakit.data.skill_data import DATASETS
from lorakit.data.skills import NEW_SKILLS, SKILLS, draw_question, generator, split_of
from lorakit.data.splitting import DatasetWarning
from lorakit.sources import LORAKIT
from lorakit.specs import SFTSpec, UnknownNameError

ROWS = [{"prompt": f"question {i}: ", "completion": f"answer {i}\n"} for i in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prompts(rows):
    return {"".join(text for text, learn in row if not learn) for row in rows}


def test_every_shipped_dataset_is_the_one_that_is_listed():
    assert LORAKIT.pins["datasets"].keys() == DATASETS.keys()
    for name, pin in LORAKIT.pins["datasets"].items():
        data = load_dataset(name)
        assert data.hash == pin
        assert all(data.splits[split] for split in ("train", "validation", "test"))


@pytest.mark.parametrize("name", ["reworded-skills", "new-skills"])
def test_no_question_of_one_split_is_in_another(name):
    splits = load_dataset(name).splits
    train, validation, test = (prompts(splits[split]) for split in ("train", "validation", "test"))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert min(map(len, (train, validation, test))) > 100


def test_an_argument_belongs_to_one_split_whatever_the_wording():
    for skill in (*SKILLS, *NEW_SKILLS):
        for split in ("train", "validation", "test"):
            rng = generator("test", skill.name, split)
            question = draw_question(skill, 2, split, rng)
            before, after = skill.wordings[2].split("{}")
            argument = question.prompt.removeprefix(before).removesuffix(after)
            assert split_of(skill.name, argument) == split
            assert question.completion == skill.answer(argument) + "\n"
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        draw_question(SKILLS[0], 0, "valid", generator(0))


@pytest.mark.parametrize(("name", "argument", "answer"), [
    ("reverse", "abc", "cba"), ("sort letters", "cab", "abc"), ("upper case", "abc", "ABC"),
    ("last letter", "abc", "c"), ("double letters", "ab", "aabb"), ("copy", "word", "word"),
    ("add", "12 30", "42"), ("difference", "3 10", "7"),
    ("maximum", "3 99 12", "99"), ("sort numbers", "30 4 12", "4 12 30"), ("next letters", "xyz", "yza"),
    ("swap ends", "abcd", "dbca"), ("interleave", "abc xyz", "axbycz"), ("remainder", "20", "6"),
])
def test_answers(name, argument, answer):
    assert next(s for s in (*SKILLS, *NEW_SKILLS) if s.name == name).answer(argument) == answer


def test_registered_data_come_back_split_and_pinned(cache):
    name = register_dataset("mine", ROWS)
    data = load_dataset(name)
    assert name == f"mine@{data.hash}"
    assert sum(len(rows) for rows in data.splits.values()) == len(ROWS)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 48, "validation": 6, "test": 6}
    kept = [row for rows in data.splits.values() for row in rows]
    assert [("question 0: ", False), ("answer 0\n", True)] in kept
    assert SFTSpec(model="m@1", dataset=name, learning_rate=1e-3).dataset == name
    assert register_dataset("mine", ROWS) == name
    assert register_dataset("mine", ROWS[:-1]) != name
    assert register_dataset("mine", datasets.Dataset.from_list(ROWS)) == name
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".json"], "no half-written file stays"


def test_equal_prompts_share_a_split():
    twice = [{"prompt": row["prompt"], "completion": f"{i}\n"} for i in range(3) for row in ROWS]
    with pytest.warns(DatasetWarning, match="60 of 60 prompts have several different completions \\(up to 3\\)"):
        splits = load_dataset(register_dataset("mine", twice)).splits
    kept = [prompts(rows) for rows in splits.values()]
    assert sum(map(len, kept)) == len(set.union(*kept)) == len(ROWS)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 144, "validation": 18, "test": 18}


def test_how_rows_end_is_part_of_a_registered_dataset(cache):
    plain = [row | {"completion": row["completion"].rstrip()} for row in ROWS]
    token, line = register_dataset("mine", ROWS), register_dataset("mine", ROWS, end="\n")
    assert token != line == register_dataset("mine", plain, end="\n"), "what lacks is added, once"
    assert (load_dataset(token).end, load_dataset(line).end) == (None, "\n")
    assert {row[-1][0][-1] for rows in load_dataset(line).splits.values() for row in rows} == {"\n"}
    assert load_dataset(register_dataset("mine", plain, end="")).splits["train"][0][-1][0].startswith("answer")
    with pytest.raises(DatasetError, match="end='!' is for rows of text"):
        register_dataset("mine", [{"instruction": f"{i}?", "output": "yes"} for i in range(60)], end="!")


def test_conversations_come_back_as_they_were(cache):
    rows = [{"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "yes"}],
             "tools": [{"b": 1, "a": 2}]} for i in range(60)]
    name = register_dataset("mine", rows)
    assert all(row in rows for split in load_dataset(name).splits.values() for row in split)
    assert list(load_dataset(name).splits["train"][0]["tools"][0]) == ["b", "a"], "a template may print them in order"


def test_skills_end_with_their_line_break():
    assert {name: load_dataset(name).end for name in ("reworded-skills", "new-skills")} == {
        "reworded-skills": "\n", "new-skills": "\n"}


def test_jsonl_files(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS) + "\n", encoding="utf-8")
    assert register_dataset("mine", path) == register_dataset("mine", str(path)) == register_dataset("mine", ROWS)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DatasetError, match="mine: 0 rows leave train and validation and test empty; give more"):
        register_dataset("mine", path)


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a", "completion": ""}, "row 61 has an empty completion"),
    ({"prompt": "a"}, "row 61 has no completion: columns are prompt"),
    ({"prompt": "a", "completion": 3}, "row 61 has no completion: columns are prompt, completion"),
    ({"text": ""}, "row 61 has no completion"),
    ({}, "columns are none"),
    (["a", "b"], "row 61 is list, not a mapping"),
])
def test_a_row_without_anything_to_learn_is_named(row, message):
    with pytest.raises(DatasetError, match=message):
        register_dataset("mine", [*ROWS, row])


@pytest.mark.parametrize("name", ["", "a@b", "a/b", "reworded-skills", "<b>", "a\nb"])
def test_a_name_that_would_not_resolve_is_refused(name):
    with pytest.raises(ValueError, match="give a short name"):
        register_dataset(name, ROWS)


def test_data_that_are_not_here_or_not_the_same(cache):
    with pytest.raises(UnknownNameError, match=r"call lorakit\.register_dataset\('mine'"):
        load_dataset("mine@0123456789ab")
    with pytest.raises(UnknownNameError, match="did you mean 'reworded-skills'"):
        load_dataset("reworded-skill")
    with pytest.raises(DatasetError, match=r"new-skills is pinned to 000000000000.*now hashes to"):
        load_dataset("new-skills@000000000000")
    name = register_dataset("mine", ROWS)
    path = next(cache.rglob("*.json"))
    path.write_text(path.read_text(encoding="utf-8").replace("answer 7", "answer 8"), encoding="utf-8")
    with pytest.raises(DatasetError, match="is pinned to"):
        load_dataset(name)
    for damaged in ("{", "[]", '{"splits": 3, "end": null}'):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(DatasetError, match=r"cannot be read from the cache .*register_dataset\('mine'"):
            load_dataset(name)


