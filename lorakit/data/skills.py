"""Procedural skills with exactly known answers: what the embedded models practise, and what is held back.

Each skill has four wordings. The embedded models are pre-trained on the first three; the fourth is never
shown to them, so that teaching it is post-training in the strict sense: the skill is there, the form is new.
Skills in `NEW_SKILLS` are never shown at all and serve as the control.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from lorakit.data.data_files import SPLITS

HELD_OUT_WORDING = 3
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Skill:
    """One procedural skill: how an argument is drawn, what the answer is, and how a question is worded."""

    name: str
    draw: Callable[[random.Random], str]
    answer: Callable[[str], str]
    wordings: tuple[str, str, str, str]


@dataclass(frozen=True)
class Question:
    """A prompt and its one right completion (which ends in a newline)."""

    prompt: str
    completion: str
    skill: str


def _word(low: int, high: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(rng.choice(_LETTERS) for _ in range(rng.randint(low, high)))


def _numbers(count: int, top: int) -> Callable[[random.Random], str]:
    return lambda rng: " ".join(str(rng.randint(0, top)) for _ in range(count))


def _integers(argument: str) -> list[int]:
    return [int(part) for part in argument.split()]


def _words(argument: str) -> tuple[str, str]:
    left, right = argument.split()
    return left, right


def _interleave(argument: str) -> str:
    left, right = _words(argument)
    return "".join(a + b for a, b in zip(left, right, strict=True))


SKILLS: tuple[Skill, ...] = (
    Skill("reverse", _word(3, 6), lambda a: a[::-1],
          ("reverse {}\n", "{} backwards is ", "Q: write {} in reverse\nA: ", "turn {} around -> ")),
    Skill("sort letters", _word(3, 6), lambda a: "".join(sorted(a)),
          ("sort {}\n", "{} in order is ", "Q: write the letters of {} in order\nA: ", "alphabetise {} -> ")),
    Skill("upper case", _word(3, 7), str.upper,
          ("upper {}\n", "{} in capitals is ", "Q: write {} in upper case\nA: ", "shout {} -> ")),
    Skill("last letter", _word(3, 8), lambda a: a[-1],
          ("last {}\n", "{} ends in ", "Q: what is the last letter of {}\nA: ", "final letter, {} -> ")),
    Skill("double letters", _word(2, 5), lambda a: "".join(c * 2 for c in a),
          ("double {}\n", "{} doubled is ", "Q: write each letter of {} twice\nA: ", "echo letters, {} -> ")),
    Skill("copy", _word(4, 9), lambda a: a,
          ("copy {}\n", "{} again is ", "Q: repeat the word {}\nA: ", "say it again, {} -> ")),
    Skill("add", _numbers(2, 30), lambda a: str(sum(_integers(a))),
          ("add {}\n", "{} sum to ", "Q: what is the sum of {}\nA: ", "total, {} -> ")),
    Skill("difference", _numbers(2, 30), lambda a: str(abs(_integers(a)[0] - _integers(a)[1])),
          ("difference {}\n", "{} differ by ", "Q: how far apart are {}\nA: ", "gap, {} -> ")),
    Skill("maximum", _numbers(3, 99), lambda a: str(max(_integers(a))),
          ("max {}\n", "{} are at most ", "Q: which is the largest of {}\nA: ", "biggest, {} -> ")),
    Skill("sort numbers", _numbers(3, 99), lambda a: " ".join(map(str, sorted(_integers(a)))),
          ("order {}\n", "{} ascending is ", "Q: sort the numbers {}\nA: ", "rank upwards, {} -> ")),
)

NEW_SKILLS: tuple[Skill, ...] = (
    Skill("next letters", _word(3, 6), lambda a: "".join(_LETTERS[(_LETTERS.index(c) + 1) % 26] for c in a),
          ("shift {}\n", "{} shifted is ", "Q: replace each letter of {} by the next\nA: ", "step on, {} -> ")),
    Skill("swap ends", _word(3, 7), lambda a: a[-1] + a[1:-1] + a[0],
          ("swap {}\n", "{} swapped is ", "Q: swap the first and last letters of {}\nA: ", "trade ends, {} -> ")),
    Skill("interleave", lambda r: f"{_word(3, 3)(r)} {_word(3, 3)(r)}", _interleave,
          ("mix {}\n", "{} mixed is ", "Q: take letters of {} in turn\nA: ", "zip up, {} -> ")),
    Skill("remainder", _numbers(1, 99), lambda a: str(int(a) % 7),
          ("mod {}\n", "{} leaves ", "Q: what is {} modulo seven\nA: ", "left over, {} -> ")),
)


def generator(*key: object) -> random.Random:
    """A random generator seeded by the hash of `key`: streams with different keys do not overlap.

    >>> generator("a", 1).random() == generator("a", 1).random() != generator("a", 2).random()
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def split_of(skill: str, argument: str) -> str:
    """The split that an argument belongs to, by its hash: 10 % validation, 10 % test, the rest train.

    The split depends on the argument alone, so no question of one split has its answer in another.

    >>> {split_of("reverse", word) for word in ("abc", "abd", "abe", "abf", "abg", "zzz", "qrs")} <= set(SPLITS)
    True
    """
    bucket = hashlib.sha256(f"{skill}|{argument}".encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def draw_question(skill: Skill, wording: int, split: str, rng: random.Random) -> Question:
    """Draw one question of `skill` in wording 0 to 3 whose argument belongs to `split`.

    >>> draw_question(SKILLS[0], 0, "train", generator(0)).completion.endswith("\\n")
    True
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    while True:
        argument = skill.draw(rng)
        if split_of(skill.name, argument) == split:
            return Question(skill.wordings[wording].format(argument), skill.answer(argument) + "\n", skill.name)
