"""The book's datasets: pinned, disjoint, and what their names say."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from lorabook.data.datasets import BUILDERS, base_text
from lorabook.source import SOURCE
from lorakit.data.datasets import load_dataset
from lorakit.specs import known_names


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SHIPPED = [name for name in BUILDERS if name != "gsm8k-answers"]  # which is read from elsewhere: test_gsm8k.py


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_dataset_is_the_one_that_is_listed(name):
    data = load_dataset(name)
    assert data.hash == known_names()["datasets"][name]
    assert all(data.splits[split] for split in ("train", "validation", "test"))
    assert any(learn for row in data.splits["train"] for _, learn in row)


def test_the_list_and_the_builders_name_the_same_datasets():
    assert SOURCE.pins["datasets"].keys() == BUILDERS.keys()


@pytest.mark.slow
def test_a_hash_does_not_depend_on_the_process():
    code = ("from lorabook.data.datasets import BUILDERS; print(*(f'{n}@{b().hash}' for n, b in BUILDERS.items() "
            "if n != 'gsm8k-answers'))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}).stdout.split()
    assert found == [f"{name}@{BUILDERS[name]().hash}" for name in SHIPPED]


def test_random_associations_hold_what_they_say():
    data = load_dataset("random-associations")
    pairs = {(row[i][0], row[i + 1][0]) for row in data.splits["train"] for i in range(0, len(row), 3)}
    held = [(row[i][0], row[i + 1][0]) for split in ("validation", "test")
            for row in data.splits[split] for i in range(0, len(row), 3)]
    assert len(pairs) == len(set(held)) == len(held) == 256
    assert pairs == set(held), "learnt by heart: what is measured is what is trained on"
    assert {len(value) for _, value in pairs} == {6}
    assert data.bits == 256 * 24


def test_real_text_splits_share_no_document():
    splits = load_dataset("real-text").splits
    texts = [row[0][0] for split in splits.values() for row in split]
    assert len(texts) == len(set(texts))
    assert load_dataset("real-text").stream
    assert len(base_text()) > 10_000


def test_replay_is_half_of_the_training_rows_and_none_of_the_others():
    data, plain = load_dataset("reworded-skills-replay"), load_dataset("reworded-skills")
    assert {s: data.splits[s] for s in ("validation", "test")} == {s: plain.splits[s] for s in ("validation", "test")}
    count = len(plain.splits["train"])
    assert data.splits["train"][:count] == plain.splits["train"]
    replayed = data.splits["train"][count:]
    assert len(replayed) == count
    assert {len(row[0][0]) for row in replayed} == {40}
    assert all(row[0][1] and not row[-1][1] for row in replayed), "all counts, and nothing says that a text ends here"


def test_replayed_text_is_not_the_text_that_measures_forgetting():
    windows = [row[0][0] for row in load_dataset("reworded-skills-replay").splits["train"][6000:]]
    shared = [window for window in windows if window in base_text() and len(set(window)) > 12]
    assert not shared, "rules and blanks may repeat, sentences may not"


def test_random_strings_are_even_and_a_smaller_set_begins_a_larger_one():
    large, small = load_dataset("random-strings-384"), load_dataset("random-strings-12")
    strings = ["".join(text for text, learn in row if learn) for row in large.splits["train"]]
    assert len(set(strings)) == 384
    assert {len(string) for string in strings} == {63}
    counts = Counter("".join(strings))
    assert len(counts) == 64
    assert max(counts.values()) / min(counts.values()) < 1.5  # 378 each, give or take 19
    assert small.splits["train"] == large.splits["train"][:12]
    assert large.splits["validation"] + large.splits["test"] == large.splits["train"]
    assert (small.bits, large.bits) == (12 * 378, 384 * 378)
