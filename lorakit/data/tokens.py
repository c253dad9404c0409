"""Rows of text to arrays of tokens, and the order in which a run sees them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.data.chat import common_length, encode_conversation
from lorakit.data.data_files import DatasetError
from lorakit.data.datasets import TextData
from lorakit.data.rows import Row, Segments
from lorakit.data.splitting import DatasetWarning

IGNORE = -100


@dataclass(frozen=True)
class TokenSplit:
    """Sequences of one length, padded on the right.

    Args:
        input_ids: (sequences, max_length) token ids.
        labels: (sequences, max_length) ids where the loss counts, -100 elsewhere; not shifted.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def label_tokens(self) -> int:
        """Tokens that the loss counts (a label in first place predicts nothing and is not counted)."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    def to(self, device: torch.device) -> TokenSplit:
        """The same sequences on `device`."""
        return TokenSplit(self.input_ids.to(device), self.labels.to(device))

    def head(self, tokens: int) -> TokenSplit:
        """The first sequences that hold at least `tokens` tokens up to their last label, or all; padding cut off."""
        ends = ((self.labels != IGNORE) * torch.arange(1, self.labels.shape[1] + 1)).amax(1)
        count = min(len(self), int((ends.cumsum(0) < tokens).sum()) + 1)
        length = int(ends[:count].max())
        return TokenSplit(self.input_ids[:count, :length], self.labels[:count, :length])


def tokenize(data: TextData, tokenizer: Any, max_length: int) -> dict[str, TokenSplit]:
    """Token arrays of every split, as TRL's SFTTrainer makes them.

    Prompt and completion are tokenized together, and the completion begins where the prompt's own tokens end. The
    tokenizer's beginning stands once in front, and its end of text once behind a row whose last part is learnt, unless
    the dataset says how its rows end (`TextData.end`). A chat template sets both itself. A row that does not fit into
    `max_length` is an error, not a silent truncation; running text is cut into windows.

    Raises:
        DatasetError: rows are too long (how many, and what would hold them), one has no token to learn, a conversation
            finds no chat template, or the tokenizer has no end of text.
    """
    if data.end is None and tokenizer.eos_token_id is None and not (data.stream and len(data.splits) == 1):
        raise DatasetError(f"{data.name}: the model's tokenizer has no end-of-text token (eos_token), so that no row "
                           "can be closed: set tokenizer.eos_token and register the model again, or say how rows end "
                           "with register_dataset(…, end='\\n')")
    if data.stream:
        return {split: _windows(rows, tokenizer, max_length, f"{data.name} {split}") for split, rows in
                data.splits.items()}
    encoded = {split: _rows(rows, tokenizer, data.end is None, f"{data.name} {split}")
               for split, rows in data.splits.items()}
    if data.leave_out_long:
        encoded = _fitting(encoded, max_length, data.name)
    _refuse_long({split: [len(ids) for ids, _ in rows] for split, rows in encoded.items()}, max_length, data.name)
    named = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)  # no loss counts padding, and nothing attends to it
    pad = next(token for token in named if token is not None)
    return {split: _padded(rows, pad, max_length) for split, rows in encoded.items()}


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that go on: with what the tokenizer begins texts with, once, and without an end of its own."""
    if not texts:
        return []
    # windows are cut afterwards, so a document longer than the model's context is no mistake: verbose=False
    *encoded, probe = tokenizer([*texts, "a"], verbose=False)["input_ids"]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    for ids in encoded:
        if len(probe) > 1 and end is not None and probe[-1] == end:  # the tokenizer ends texts by itself
            ids.pop()
        while begin is not None and ids[:2] == [begin, begin]:  # the text has its own
            del ids[0]
    return encoded


def _closed(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole texts, each with one end-of-text token, which may stand in the text already."""
    end, mark = tokenizer.eos_token_id, tokenizer.eos_token
    encoded = encode(tokenizer, [text if text.endswith(mark) else text + mark for text in texts])
    for i, ids in enumerate(encoded):
        if ids[-1:] != [end]:  # this tokenizer does not read the token's own text as the token
            encoded[i] = ids = [*encode(tokenizer, [texts[i]])[0], end]
        while ids[-2:] == [end, end]:
            ids.pop()
    return encoded


def _rows(rows: Sequence[Row], tokenizer: Any, end: bool, where: str) -> list[tuple[list[int], list[bool]]]:
    """Token ids of each row, and for each token whether the loss counts it."""
    parts = [[] if isinstance(row, dict) else _merged(row) for row in rows]
    texts = ["".join(text for text, _ in part) for part in parts]
    close = [end and not isinstance(row, dict) and row[-1][1] for row in rows]
    open_ids = iter(encode(tokenizer, [text for text, closes in zip(texts, close, strict=True) if not closes]))
    closed_ids = iter(_closed(tokenizer, [text for text, closes in zip(texts, close, strict=True) if closes]))
    ends = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    starts = iter(encode(tokenizer, [prefix for part in parts for prefix in _prefixes(part)]))
    made, silent = [], 0
    for number, (row, part, closes) in enumerate(zip(rows, parts, close, strict=True), start=1):
        ids = next(closed_ids if closes else open_ids)
        learn = [False] * len(ids)
        if isinstance(row, dict):
            ids, learn = encode_conversation(row, tokenizer, f"{where}, row {number}")
            silent += ends.isdisjoint(token for token, counts in zip(ids, learn, strict=True) if counts)
        for i, (_, counts) in enumerate(part):
            start = common_length(next(starts), ids) if i else 0
            learn[start:] = [counts] * (len(ids) - start)
        if not any(learn[1:]):
            raise DatasetError(f"{where}, row {number} has no token to learn: {row!r:.120}")
        made.append((ids, learn))
    if silent:
        warnings.warn(f"{where}: the chat template ends the answers of {silent} of {len(rows)} rows with no special "
                      "token, so that nothing teaches the model to stop: let it write eos_token after them",
                      DatasetWarning, stacklevel=2)
    return made


def _merged(row: Segments) -> Segments:
    merged: Segments = []
    for text, learn in row:
        if merged and merged[-1][1] == learn:
            merged[-1] = (merged[-1][0] + text, learn)
        else:
            merged.append((text, learn))
    return merged


def _prefixes(part: Segments) -> list[str]:
    """The text before each segment but the first."""
    return ["".join(text for text, _ in part[:i]) for i in range(1, len(part))]


def _fitting(encoded: dict[str, list[Any]], max_length: int, name: str) -> dict[str, list[Any]]:
    """The rows that fit; all of a split of which none does, which is then refused in words."""
    fitting = {split: [row for row in rows if len(row[0]) <= max_length] or rows for split, rows in encoded.items()}
    rows, left = (sum(map(len, splits.values())) for splits in (encoded, fitting))
    if left < rows:
        warnings.warn(f"{name}: {rows - left:,} of {rows:,} rows have more tokens than max_length={max_length}, and "
                      "are left out", DatasetWarning, stacklevel=2)
    return fitting


def _refuse_long(lengths: dict[str, list[int]], max_length: int, name: str) -> None:
    every = sorted((length for of_split in lengths.values() for length in of_split), reverse=True)
    too_long = sum(length > max_length for length in every)
    if too_long:
        split, first = next((split, i) for split, of_split in lengths.items() for i, length in enumerate(of_split)
                            if length > max_length)
        raise DatasetError(
            f"{name}: {too_long:,} of {len(every):,} rows have more tokens than max_length={max_length} (the first is "
            f"{split} row {first + 1} with {lengths[split][first]}, the longest has {every[0]}): max_length={every[0]} "
            f"holds all, {every[len(every) // 100]} holds 99 %; raise it, or shorten or drop these rows (rows are "
            "never cut silently)")


def _padded(rows: list[tuple[list[int], list[bool]]], pad: int, max_length: int) -> TokenSplit:
    input_ids = torch.full((len(rows), max_length), pad, dtype=torch.long)
    labels = torch.full((len(rows), max_length), IGNORE, dtype=torch.long)
    for number, (ids, learn) in enumerate(rows):
        input_ids[number, : len(ids)] = torch.tensor(ids)
        labels[number, : len(ids)] = torch.where(torch.tensor(learn), torch.tensor(ids), IGNORE)
    return TokenSplit(input_ids, labels)


def _windows(rows: Sequence[Row], tokenizer: Any, max_length: int, where: str) -> TokenSplit:
    texts = ["".join(text for text, _ in row) for row in rows if not isinstance(row, dict)]
    encoded = (encode if tokenizer.eos_token_id is None else _closed)(tokenizer, texts)
    stream = [token for ids in encoded for token in ids]
    count = len(stream) // max_length
    if count == 0:
        raise DatasetError(f"{where} has {len(stream)} tokens, fewer than max_length={max_length}: lower max_length")
    ids = torch.tensor(stream[: count * max_length]).view(count, max_length)
    return TokenSplit(ids, ids.clone())


def order(seed: int, sequences: int, count: int) -> torch.Tensor:
    """Indices (count,) of the sequences that a run with this seed sees: one shuffled epoch after another.

    >>> sorted(order(0, 4, 4).tolist())
    [0, 1, 2, 3]
    """
    epochs = []
    for epoch in range(-(-count // sequences)):
        digest = hashlib.sha256(f"data order {seed} {epoch}".encode()).digest()
        shuffle = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        epochs.append(torch.randperm(sequences, generator=shuffle))
    return torch.cat(epochs)[:count]
