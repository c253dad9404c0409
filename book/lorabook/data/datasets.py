"""The book's datasets: replay, things to learn by heart, secrets, real text; and text of the bases' own kind."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lorabook.data.gsm8k import worked_answers
from lorakit.data.data_files import SPLITS
from lorakit.data.datasets import TextData
from lorakit.data.rows import Row
from lorakit.data.skill_data import reworded_skills
from lorakit.data.skills import generator

TEXTS = Path(__file__).parent

ASSOCIATION_PAIRS = 256
ASSOCIATION_BITS = 24  # of one value: 6 letters out of 16
ASSOCIATIONS_PER_ROW = 5
STRING_SYMBOLS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
STRING_LENGTH = 63  # with the line break before it, 64 tokens of a byte each
# Number of equally likely secrets: prompt and secret. `tiny` saw evenly drawn letters and numbers behind these prompts.
SECRETS = {10: ("max ", "4"), 26: ("copy ", "q"), 100: ("max ", "47"), 676: ("copy ", "qf"), 10_000: ("max ", "47 81")}
REPLAY_WINDOW = 40  # bytes; the longest reworded question has 37


def reworded_skills_replay() -> TextData:
    """Reworded skills with as many rows of text that the embedded models were pre-trained on: replay.

    A replayed row is a window of 40 bytes of English or of code, half of each, whose bytes all count. Validation and
    test hold reworded questions only: the same as those of `reworded-skills`.
    """
    data = reworded_skills()
    with lzma.open(TEXTS / "replay-text.json.xz", "rt", encoding="utf-8") as handle:
        stretches = [text for kind in json.load(handle).values() for text in kind]
    windows = [text[i : i + REPLAY_WINDOW] for text in stretches for i in range(0, len(text), REPLAY_WINDOW)]
    # a window is no document: the empty last segment, which is not learnt, keeps the end-of-text token away
    replayed: list[Row] = [[(window, True), ("", False)] for window in windows]
    return TextData("reworded-skills-replay", {**data.splits, "train": data.splits["train"] + replayed}, end="\n")


def random_associations(count: int = ASSOCIATION_PAIRS) -> TextData:
    """Keys, each with 6 random letters out of 16: 24 bits a pair, 6,144 bits in 256 pairs, learnt by heart.

    There is nothing to generalise, so validation and test are two halves of the pairs that are trained on:
    their loss says how much has been stored. Training rows hold five pairs each, regrouped 40 times, so that no
    pair can be distinguished from its neighbours.
    """
    rng = generator("random-associations", count)
    keys: list[str] = []
    while len(keys) < count:
        key = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4))
        if key not in keys:
            keys.append(key)
    pairs = [(f"{key}=", "".join(rng.choice("abcdefghijklmnop") for _ in range(6))) for key in keys]

    def rows(chosen: list[tuple[str, str]]) -> list[Row]:
        groups = [chosen[i : i + ASSOCIATIONS_PER_ROW] for i in range(0, len(chosen), ASSOCIATIONS_PER_ROW)]
        return [[part for key, value in group for part in ((key, False), (value, True), ("\n", False))]
                for group in groups]

    train: list[Row] = []
    for _ in range(40):
        train += rows(rng.sample(pairs, len(pairs)))
    half = count // 2
    splits = {"train": train, "validation": rows(pairs[:half]), "test": rows(pairs[half:])}
    name = "random-associations" if count == ASSOCIATION_PAIRS else f"random-associations-{count}"
    return TextData(name, splits, bits=float(count * ASSOCIATION_BITS))


def random_strings(count: int) -> TextData:
    """`count` strings of 63 symbols, each drawn evenly from 64: 378 bits a string, and nothing else to learn.

    The line break before a string is given, so that all of its symbols count whatever the tokenizer. Validation and
    test are the two halves of what is trained on. The strings of a smaller set are the first ones of a larger set.
    """
    return _drawn("random-strings", count, STRING_SYMBOLS)


def random_words(count: int) -> TextData:
    """`count` strings of 63 words, each drawn evenly from 4,096 that are a token each for SmolLM2: 756 bits a string.

    Otherwise as `random_strings`; the words are the first lower-case ones of that tokenizer (Apache-2.0).
    """
    words = lzma.decompress((TEXTS / "words-4096.txt.xz").read_bytes()).decode().split()
    return _drawn("random-words", count, [f" {word}" for word in words])


def _drawn(name: str, count: int, symbols: Sequence[str]) -> TextData:
    rng = generator(name)
    rows: list[Row] = [[("\n", False), ("".join(rng.choices(symbols, k=STRING_LENGTH)), True), ("", False)]
                       for _ in range(count)]
    splits = {"train": rows, "validation": rows[: count // 2], "test": rows[count // 2 :]}
    return TextData(f"{name}-{count}", splits, bits=count * STRING_LENGTH * math.log2(len(symbols)))


def secret_data(count: int) -> TextData:
    """One secret out of `count`, as one row that is the same in every split: what `secret_task` teaches by reward."""
    prompt, secret = SECRETS[count]
    row: Row = [(prompt, False), (secret, True), ("", False)]
    return TextData(f"secret-{count}", {split: [row] for split in SPLITS}, bits=math.log2(count))


def real_text() -> TextData:
    """Programming problems and their solutions (reasoning-gym's codeio, Apache-2.0): real text, unseen by `tiny`."""
    with lzma.open(TEXTS / "real-text.jsonl.xz", "rt", encoding="utf-8") as handle:
        documents = [json.loads(line) for line in handle]
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for document in documents:
        splits[document["split"]].append([(document["text"], True)])
    return TextData("real-text", splits, stream=True)


def gsm8k_answers() -> TextData:
    """GSM8K's problems and worked answers (MIT), of which the answers are learnt; not shipped."""
    return TextData("gsm8k-answers", worked_answers())


BUILDERS: dict[str, Callable[[], TextData]] = {
    "reworded-skills-replay": reworded_skills_replay,
    "random-associations": random_associations,
    "random-associations-1024": partial(random_associations, 1024),
    "real-text": real_text,
    "gsm8k-answers": gsm8k_answers,
    **{f"random-strings-{count}": partial(random_strings, count) for count in (12, 24, 48, 96, 192, 384, 1536)},
    "random-words-122": partial(random_words, 122),
    **{f"secret-{count}": partial(secret_data, count) for count in SECRETS},
}


def base_text() -> str:
    """Held-out text of the kind that the embedded models were pre-trained on (documentation and code, 16 kB)."""
    return (TEXTS / "base-text.txt").read_text(encoding="utf-8")
