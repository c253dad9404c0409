"""Rows of text to arrays of tokens, and the order in which a run sees them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.train.tasks import DatasetError, Row, TextData

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
    """Token arrays of every split.

    A row that does not fit into `max_length` is an error, not a silent truncation; running text is cut into windows.
    The end-of-text token closes a row whose last learnt text does not end in a newline.

    Raises:
        DatasetError: a row is too long, or has no token to learn.
    """
    make = _windows if data.stream else _sequences
    return {split: make(rows, tokenizer, max_length, f"{data.name} {split}") for split, rows in data.splits.items()}


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    # windows are cut afterwards, so a document longer than the model's context is no mistake: verbose=False
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _sequences(rows: list[Row], tokenizer: Any, max_length: int, where: str) -> TokenSplit:
    input_ids = torch.full((len(rows), max_length), tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full((len(rows), max_length), IGNORE, dtype=torch.long)
    parts = iter(_encode(tokenizer, [text for row in rows for text, _ in row]))
    for number, row in enumerate(rows):
        ids: list[int] = []
        learn: list[bool] = []
        for _, counts in row:
            part = next(parts)
            ids += part
            learn += [counts] * len(part)
        if row[-1][1] and not row[-1][0].endswith("\n") and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
            learn.append(True)
        if len(ids) > max_length:
            raise DatasetError(f"{where}, row {number + 1} has {len(ids)} tokens, max_length is {max_length}: raise "
                               "max_length, or shorten the row (rows are never cut silently)")
        if not any(learn[1:]):
            raise DatasetError(f"{where}, row {number + 1} has no token to learn: {row!r:.120}")
        input_ids[number, : len(ids)] = torch.tensor(ids)
        labels[number, : len(ids)] = torch.where(torch.tensor(learn), torch.tensor(ids), IGNORE)
    return TokenSplit(input_ids, labels)


def _windows(rows: list[Row], tokenizer: Any, max_length: int, where: str) -> TokenSplit:
    stream: list[int] = []
    for part in _encode(tokenizer, ["".join(text for text, _ in row) for row in rows]):
        stream += [*part, tokenizer.eos_token_id]
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
