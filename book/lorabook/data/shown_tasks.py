"""Tasks for a base without a chat template: plain text after two shown examples, with test sets of 1,024 problems.

Chosen among thirty pilots on SmolLM2-135M-Instruct (November 2026) by the base's greedy accuracy, 0.2 to 0.6, and by
how many groups of eight samples hold right and wrong answers, 0.4 or more; guessing is hopeless on both.
"""

from __future__ import annotations

import hashlib
from typing import Any

from lorakit.data.skills import generator

Problem = dict[str, Any]
COUNTS = {"train": 2048, "validation": 512, "test": 1024}
ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """A number from 1 to 9,999 in English words.

    >>> in_words(2861), in_words(7010), in_words(403)
    ('two thousand eight hundred sixty-one', 'seven thousand ten', 'four hundred three')
    """
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    small = ONES[rest] if rest < 20 else TENS[rest // 10] + (f"-{ONES[rest % 10]}" if rest % 10 else "")
    return " ".join(part for part in (f"{ONES[thousands]} thousand" if thousands else "",
                                      f"{ONES[hundreds]} hundred" if hundreds else "", small) if part)


def ordered_sums() -> dict[str, list[Problem]]:
    """Sums of two numbers of two digits, in either order."""
    shown = "38 + 21 = 59\n64 + 17 = 81\n"
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100) if f"{a} + {b} =" not in shown]
    return _split("ordered-sums", [{"prompt": f"{shown}{a} + {b} =", "answer": str(a + b)} for a, b in pairs])


def number_words() -> dict[str, list[Problem]]:
    """Numbers of four digits in words, to be written in digits: no arithmetic."""
    examples = (4308, 9657)
    shown = "".join(f"{in_words(n)} = {n}\n" for n in examples)
    return _split("number-words", [{"prompt": f"{shown}{in_words(n)} =", "answer": str(n)}
                                   for n in range(1000, 10_000) if n not in examples])


def _split(name: str, problems: list[Problem]) -> dict[str, list[Problem]]:
    """A quarter of all problems is test and an eighth validation, by a hash of the prompt; then as many as `COUNTS`."""
    generator("rl task", name).shuffle(problems)
    splits: dict[str, list[Problem]] = {split: [] for split in COUNTS}
    for problem in problems:
        place = hashlib.sha256(problem["prompt"].encode()).digest()[0]
        splits["test" if place < 64 else "validation" if place < 96 else "train"].append(problem)
    return {split: splits[split][:count] for split, count in COUNTS.items()}
