"""GSM8K's worked answers as supervised data: the question is given, the solution with its final answer is learnt.

Not shipped: read from `$LORAKIT_DATA/gsm8k` (the canonical files, plain or `.xz`), else from the hub at a pinned
commit.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorakit.data.data_files import SPLITS, DatasetError
from lorakit.data.rl_tasks import split_of_prompt
from lorakit.data.rows import Row

NAME, COMMIT = "openai/gsm8k", "e53f048856ff4f594e959d75785d2c2d37b678ee"
CANONICAL = {  # SHA-256 of the unpacked files of openai/grade-school-math at commit 3101c7d
    "train": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "test": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
}
LONGEST = 700  # characters of question and answer together: 82 % of the rows, at most 366 of SmolLM2's tokens


def worked_answers() -> dict[str, list[Row]]:
    """Rows by split: the question and a line break, then the solution, which alone is learnt; the longest are left out.

    A tenth of the training problems, by a hash of the question, is `validation`; `test` is the official test split.

    Raises:
        DatasetError: the files in `$LORAKIT_DATA` are not the canonical ones, or the hub cannot be reached.
    """
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for part in CANONICAL:
        for row in _rows(part):
            question, answer = row["question"], row["answer"]
            held_out = "validation" if split_of_prompt(question) == "validation" else "train"
            if len(question) + len(answer) <= LONGEST:
                splits["test" if part == "test" else held_out].append([(question + "\n", False), (answer, True)])
    return splits


def _rows(part: str) -> Iterator[Mapping[str, Any]]:
    folder = os.environ.get("LORAKIT_DATA")
    if not folder:
        yield from _from_hub(part)
        return
    found = [path for path in (Path(folder) / "gsm8k" / f"{part}.jsonl{end}" for end in ("", ".xz")) if path.exists()]
    if not found:
        raise DatasetError(f"LORAKIT_DATA={folder} holds neither gsm8k/{part}.jsonl nor gsm8k/{part}.jsonl.xz: put "
                           "openai/grade-school-math's file there, or unset LORAKIT_DATA to load it from the hub")
    content = found[0].read_bytes()
    content = lzma.decompress(content) if found[0].suffix == ".xz" else content
    if hashlib.sha256(content).hexdigest() != CANONICAL[part]:
        raise DatasetError(f"LORAKIT_DATA: {found[0].name} is not the canonical file (SHA-256 {CANONICAL[part][:12]}…)"
                           ": take it from openai/grade-school-math, grade_school_math/data, at commit 3101c7d")
    yield from map(json.loads, content.decode("utf-8").splitlines())


def _from_hub(part: str) -> Any:
    try:
        import datasets

        return datasets.load_dataset(NAME, "main", split=part, revision=COMMIT)
    except Exception as error:
        raise DatasetError(f"{NAME} could not be loaded from the hub ({type(error).__name__}: {error}): check the "
                           "network, or set LORAKIT_DATA to a folder that holds gsm8k/train.jsonl and gsm8k/test.jsonl"
                           ) from error
