"""Where a completion ends: at one of some tokens, or where its text comes to hold a stop of several tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch


class Stops(list[int]):
    """The tokens that each end a completion, as a list, and beside them a text that does.

    Args:
        tokens: each of which ends a completion.
        text: ends one as well, however its characters fall into tokens; needs the tokenizer.
        tokenizer: decodes the last tokens of a completion to look for the text.

    >>> Stops([2, 3]).length([5, 3]), Stops([2, 3]).length([5, 4])
    (2, None)
    """

    def __init__(self, tokens: Sequence[int], text: str | None = None, tokenizer: Any = None) -> None:
        super().__init__(tokens)
        self.text, self.tokenizer = text, tokenizer
        self.window = len(text.encode()) + 4 if text else 0  # a token is a byte or more; an accent may be cut in front

    def reached(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Which of N completions their last token ends, (N,) bool; `tokens` holds one (N,) for each place so far."""
        ended = torch.isin(tokens[-1], torch.tensor(self, device=tokens[-1].device))
        if self.text:
            last = torch.stack(list(tokens[-self.window :]), 1).tolist()
            ended |= torch.tensor([self._holds(row) for row in last], device=ended.device)
        return ended

    def length(self, completion: Sequence[int]) -> int | None:
        """Tokens up to and including the end, or None for a completion without one."""
        ends = [place for place, token in enumerate(completion, start=1) if token in self][:1]
        if self.text and self._holds(completion):
            counts = range(1, len(completion) + 1)
            ends.append(counts[bisect_left(counts, True, key=lambda count: self._holds(completion[:count]))])
        return min(ends, default=None)

    def _holds(self, tokens: Sequence[int]) -> bool:
        return self.text in self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def without_stop(completion: str, stop: str) -> str:
    """What stands before the stop of a completion; blanks after the stop do not hide it.

    >>> without_stop("42</answer>\\n", "</answer>"), without_stop("42", "</answer>")
    ('42', '42')
    """
    head, found, rest = completion.rpartition(stop)
    return head if found and not rest.strip() else completion
