"""GSM8K's worked answers: read from a folder of the canonical files or from the hub, never shipped."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from pathlib import Path

import pytest

from lorabook.data import gsm8k
from lorakit.data.datasets import DatasetError, load_dataset
from lorakit.names import known_names

# hand-written, in the schema of GSM8K
ROWS = {"train": [{"question": f"Ann has {n} pens and buys {n + 1} more. How many are there?",
                   "answer": f"{n} + {n + 1} = <<{n}+{n + 1}={2 * n + 1}>>{2 * n + 1}\n#### {2 * n + 1}"}
                  for n in range(60)] + [{"question": "Long? " * 200, "answer": "#### 1"}],
        "test": [{"question": "Two cats have how many tails?", "answer": "One each: 2\n#### 2"}]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of small files that pass for the canonical ones; `test` is compressed."""
    texts = {part: "\n".join(map(json.dumps, rows)).encode() for part, rows in ROWS.items()}
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_bytes(texts["train"])
    (tmp_path / "gsm8k" / "test.jsonl.xz").write_bytes(lzma.compress(texts["test"]))
    monkeypatch.setattr(gsm8k, "CANONICAL", {part: hashlib.sha256(text).hexdigest() for part, text in texts.items()})
    monkeypatch.setenv("LORAKIT_DATA", str(tmp_path))
    return tmp_path


def test_the_answer_alone_is_learnt_and_the_longest_rows_are_left_out(folder):
    splits = gsm8k.worked_answers()
    assert splits["test"] == [[("Two cats have how many tails?\n", False), ("One each: 2\n#### 2", True)]]
    assert len(splits["train"]) + len(splits["validation"]) == 60
    assert splits["validation"]
    questions = {split: {row[0][0] for row in rows} for split, rows in splits.items()}
    assert not questions["train"] & questions["validation"]


def test_other_files_are_refused(folder):
    with (folder / "gsm8k" / "train.jsonl").open("a") as handle:
        handle.write("\n{}")
    with pytest.raises(DatasetError, match="not the canonical file"):
        gsm8k.worked_answers()


def test_a_folder_without_the_files_says_which_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=r"gsm8k/train\.jsonl\.xz"):
        gsm8k.worked_answers()


def test_without_a_folder_the_hub_is_asked_at_the_pinned_commit(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    wanted = gsm8k.worked_answers()
    asked = []

    def load_dataset(name, configuration, split, revision):
        asked.append((name, configuration, split, revision))
        return ROWS[split]

    monkeypatch.delenv("LORAKIT_DATA")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert gsm8k.worked_answers() == wanted
    assert [one[:3] for one in asked] == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    assert all(len(one[3]) == 40 for one in asked)


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.delenv("LORAKIT_DATA", raising=False)

    def load_dataset(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DatasetError, match="LORAKIT_DATA"):
        gsm8k.worked_answers()


def test_the_real_rows_are_the_pinned_ones(monkeypatch):
    beside = Path(__file__).parents[3] / "shared" / "data"
    monkeypatch.setenv("LORAKIT_DATA", os.environ.get("LORAKIT_DATA", str(beside)))
    if not (Path(os.environ["LORAKIT_DATA"]) / "gsm8k").exists():
        pytest.skip("the files of GSM8K are not here")
    assert load_dataset("gsm8k-answers").hash == known_names()["datasets"]["gsm8k-answers"]
