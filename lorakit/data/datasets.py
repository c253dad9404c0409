"""Datasets by name: what a spec's `dataset` means, as text, with train, validation and test disjoint by construction.

What a row is, `lorakit.data.rows` says; `lorakit.data.tokens` turns rows into arrays.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from typing import Any

from lorakit import sources
from lorakit.data.data_files import DatasetError
from lorakit.data.pinned import keep_pinned, load_pinned
from lorakit.data.rows import Row, rows_of
from lorakit.data.splitting import DatasetWarning, divide, remarks
from lorakit.names import check_new_name


@dataclass(frozen=True)
class TextData:
    """A dataset as text.

    Args:
        name: without its hash.
        splits: rows of `train`, `validation` and `test`.
        stream: True if the rows of a split are one running text to be cut into windows of `max_length` tokens;
            False if each row is one sequence, which must fit into `max_length`.
        bits: information in the learnt part where it is known exactly, else None.
        end: text that closes each row, as its last learnt part has it; None: the tokenizer's end-of-text token closes
            it. A row whose last part is not learnt stays open.
        leave_out_long: rows that do not fit into `max_length` are left out, with a warning of how many; else they are
            an error.
    """

    name: str
    splits: dict[str, list[Row]]
    stream: bool = False
    bits: float | None = None
    end: str | None = None
    leave_out_long: bool = False

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all rows of all splits; of your own data also of how rows end."""
        covered = [self.stream, self.splits, *([] if self.name in sources.pins("datasets") else [self.end])]
        text = json.dumps(covered, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_dataset(name: str) -> TextData:
    """The dataset that a spec names, checked against the hash in the name.

    Raises:
        UnknownNameError: neither shipped nor registered on this machine.
        DatasetError: the rows are not those that the name pins.
    """
    return load_pinned("datasets", name, _read)


def _read(name: str, kept: Any) -> TextData:
    """Of JSON, in which the segments of a row of text are lists."""
    return TextData(name, {split: [row if isinstance(row, dict) else [(text, learn) for text, learn in row]
                                   for row in rows] for split, rows in kept["splits"].items()}, end=kept["end"])


def register_dataset(name: str, data: Any, *, end: str | None = None) -> str:
    """Fingerprint your own data and keep a copy, so that specs can name it and workers can load it.

    Each row has `prompt` and `completion` (text, or lists of messages), `messages`, `conversations` (ShareGPT),
    `instruction` with `output` (Alpaca), or `text`. The loss counts the completion, what the assistant says in
    messages, or all of `text`. Conversations take the model's chat template.

    Args:
        name: a short name: letters, digits, `.`, `_` and `-`.
        data: a `datasets.Dataset` or `DatasetDict`, a DataFrame, an iterable of mappings, or a path: JSONL, a JSON
            array, CSV, TSV, parquet, each also compressed, or a folder of such files. Splits that it names are kept; of
            the others a tenth of the rows becomes validation and a tenth test, by a hash, so that equal prompts share
            a split (one that has more than a fifth of all rows is divided).
        end: how rows of text end: None, with the end-of-text token of whatever tokenizer reads them; or with this text,
            which is added where it lacks, and no token (`""` adds nothing).

    Returns:
        `name@hash`, to be used as `SFTSpec(dataset=…)`.

    Raises:
        DatasetError: a file that cannot be read, no rows, a row without anything to learn, or a split that stays empty.

    Warns:
        DatasetWarning: prompts that dominate a split, lie in several, or have different completions; with numbers.
    """
    check_new_name(name, sources.pins("datasets"))
    splits = divide(name, rows_of(data))
    if end is not None:
        splits = {split: [_closed(row, end) for row in rows] for split, rows in splits.items()}
    if said := remarks(splits):
        warnings.warn(f"{name}: {'; '.join(said)}", DatasetWarning, stacklevel=2)
    registered = TextData(name, splits, end=end)
    keep_pinned("datasets", registered.hash, {"splits": splits, "end": end})
    return f"{name}@{registered.hash}"


def _closed(row: Row, end: str) -> Row:
    if isinstance(row, dict):
        raise DatasetError(f"end={end!r} is for rows of text: what closes a message is said by the chat template")
    *before, (text, learn) = row
    return [*before, (text if text.endswith(end) else text + end, learn)]
