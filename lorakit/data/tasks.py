"""Datasets by name: what a spec's `dataset` means, as text, with train, validation and test disjoint by construction.

What a row is, `lorakit.data.rows` says; `lorakit.data.tokens` turns rows into arrays.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lorakit.bases.models import cache_folder
from lorakit.data.data_files import DatasetError
from lorakit.data.rows import Row, rows_of
from lorakit.data.skills import (
    HELD_OUT_WORDING,
    NEW_SKILLS,
    SKILLS,
    SPLITS,
    Question,
    Skill,
    draw_question,
    generator,
)
from lorakit.data.splitting import DatasetWarning, divide, remarks
from lorakit.names import PACKAGE, UnknownNameError, check_new_name, resolve_name

ASSOCIATION_PAIRS = 256
ASSOCIATION_BITS = 24  # of one value: 6 letters out of 16
ASSOCIATIONS_PER_ROW = 5
STRING_SYMBOLS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
STRING_LENGTH = 63  # with the line break before it, 64 tokens of a byte each
# Number of equally likely secrets: prompt and secret. `tiny` saw evenly drawn letters and numbers behind these prompts.
SECRETS = {10: ("max ", "4"), 26: ("copy ", "q"), 100: ("max ", "47"), 676: ("copy ", "qf"), 10_000: ("max ", "47 81")}
REPLAY_WINDOW = 40  # bytes; the longest reworded question has 37


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
    """

    name: str
    splits: dict[str, list[Row]]
    stream: bool = False
    bits: float | None = None
    end: str | None = None

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all rows of all splits; of your own data also of how rows end."""
        covered = [self.stream, self.splits, *([] if self.name in BUILDERS else [self.end])]
        text = json.dumps(covered, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _questions(skills: tuple[Skill, ...], wording: int, split: str, count: int, seed: object) -> list[Question]:
    rng = generator("questions", seed, split, [skill.name for skill in skills])
    return [draw_question(rng.choice(skills), wording, split, rng) for _ in range(count)]


def _skill_data(name: str, skills: tuple[Skill, ...]) -> TextData:
    counts = {"train": 6000, "validation": 600, "test": 600}
    return TextData(name, {
        split: [[(q.prompt, False), (q.completion, True)] for q in _questions(skills, HELD_OUT_WORDING, split, n, name)]
        for split, n in counts.items()
    }, end="\n")  # as the bases were pre-trained


def reworded_skills() -> TextData:
    """Skills that the embedded models have practised, in the one wording they have never seen."""
    return _skill_data("reworded-skills", SKILLS)


def reworded_skills_replay() -> TextData:
    """Reworded skills with as many rows of text that the embedded models were pre-trained on: replay.

    A replayed row is a window of 40 bytes of English or of code, half of each, whose bytes all count. Validation and
    test hold reworded questions only: the same as those of `reworded-skills`.
    """
    data = reworded_skills()
    with lzma.open(PACKAGE / "data" / "replay-text.json.xz", "rt", encoding="utf-8") as handle:
        stretches = [text for kind in json.load(handle).values() for text in kind]
    windows = [text[i : i + REPLAY_WINDOW] for text in stretches for i in range(0, len(text), REPLAY_WINDOW)]
    # a window is no document: the empty last segment, which is not learnt, keeps the end-of-text token away
    replayed: list[Row] = [[(window, True), ("", False)] for window in windows]
    return TextData("reworded-skills-replay", {**data.splits, "train": data.splits["train"] + replayed}, end="\n")


def new_skills() -> TextData:
    """Skills that the embedded models have never seen: the labelled control, outside post-training."""
    return _skill_data("new-skills", NEW_SKILLS)


def random_associations() -> TextData:
    """256 keys, each with 6 random letters out of 16: 24 bits a pair, 6,144 bits in all, learnt by heart.

    There is nothing to generalise, so validation and test are two halves of the pairs that are trained on:
    their loss says how much has been stored. Training rows hold five pairs each, regrouped 40 times, so that no
    pair can be distinguished from its neighbours.
    """
    rng = generator("random-associations", ASSOCIATION_PAIRS)
    keys: list[str] = []
    while len(keys) < ASSOCIATION_PAIRS:
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
    half = ASSOCIATION_PAIRS // 2
    splits = {"train": train, "validation": rows(pairs[:half]), "test": rows(pairs[half:])}
    return TextData("random-associations", splits, bits=float(ASSOCIATION_PAIRS * ASSOCIATION_BITS))


def random_strings(count: int) -> TextData:
    """`count` strings of 63 symbols, each drawn evenly from 64: 378 bits a string, and nothing else to learn.

    The line break before a string is given, so that all of its symbols count whatever the tokenizer. Validation and
    test are the two halves of what is trained on. The strings of a smaller set are the first ones of a larger set.
    """
    rng = generator("random-strings")
    rows: list[Row] = [[("\n", False), ("".join(rng.choices(STRING_SYMBOLS, k=STRING_LENGTH)), True), ("", False)]
                       for _ in range(count)]
    splits = {"train": rows, "validation": rows[: count // 2], "test": rows[count // 2 :]}
    bits = count * STRING_LENGTH * math.log2(len(STRING_SYMBOLS))
    return TextData(f"random-strings-{count}", splits, bits=bits)


def random_words(count: int) -> TextData:
    """`count` strings of 63 words, each drawn evenly from 4,096 that are a token each for SmolLM2: 756 bits a string.

    Otherwise as `random_strings`; the words are the first lower-case ones of that tokenizer (Apache-2.0).
    """
    words = lzma.decompress((PACKAGE / "data" / "words-4096.txt.xz").read_bytes()).decode().split()
    rng = generator("random-words")
    rows: list[Row] = [[("\n", False), ("".join(f" {word}" for word in rng.choices(words, k=STRING_LENGTH)), True),
                        ("", False)] for _ in range(count)]
    splits = {"train": rows, "validation": rows[: count // 2], "test": rows[count // 2 :]}
    return TextData(f"random-words-{count}", splits, bits=count * STRING_LENGTH * math.log2(len(words)))


def secret_data(count: int) -> TextData:
    """One secret out of `count`, as one row that is the same in every split: what `secret_task` teaches by reward."""
    prompt, secret = SECRETS[count]
    row: Row = [(prompt, False), (secret, True), ("", False)]
    return TextData(f"secret-{count}", {split: [row] for split in SPLITS}, bits=math.log2(count))


def real_text() -> TextData:
    """Programming problems and their solutions (reasoning-gym's codeio, Apache-2.0): real text, unseen by `tiny`."""
    with lzma.open(PACKAGE / "data" / "real-text.jsonl.xz", "rt", encoding="utf-8") as handle:
        documents = [json.loads(line) for line in handle]
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for document in documents:
        splits[document["split"]].append([(document["text"], True)])
    return TextData("real-text", splits, stream=True)


def gsm8k_answers() -> TextData:
    """GSM8K's problems and worked answers (MIT), of which the answers are learnt; not shipped."""
    from lorakit.data.gsm8k import worked_answers

    return TextData("gsm8k-answers", worked_answers())


BUILDERS: dict[str, Callable[[], TextData]] = {
    "reworded-skills": reworded_skills,
    "reworded-skills-replay": reworded_skills_replay,
    "new-skills": new_skills,
    "random-associations": random_associations,
    "real-text": real_text,
    "gsm8k-answers": gsm8k_answers,
    **{f"random-strings-{count}": partial(random_strings, count) for count in (12, 24, 48, 96, 192, 384, 1536)},
    "random-words-122": partial(random_words, 122),
    **{f"secret-{count}": partial(secret_data, count) for count in SECRETS},
}


def base_text() -> str:
    """Held-out text of the kind that the embedded models were pre-trained on (documentation and code, 16 kB)."""
    return (PACKAGE / "data" / "base-text.txt").read_text(encoding="utf-8")


def load_dataset(name: str) -> TextData:
    """The dataset that a spec names, checked against the hash in the name.

    Raises:
        UnknownNameError: neither shipped nor registered on this machine.
        DatasetError: the rows are not those that the name pins.
    """
    pinned = resolve_name("datasets", name)
    short, _, pin = pinned.partition("@")
    if "/" in short:
        from lorakit.data.hub import load_conversations

        return load_conversations(short, pin)
    if short in BUILDERS:
        data = BUILDERS[short]()
    else:
        path = cache_folder() / "datasets" / f"{pin}.json"
        if not path.exists():
            raise UnknownNameError(f"dataset {pinned!r} was registered on another machine or its cache was emptied: "
                                   f"call lorakit.register_dataset({short!r}, …) again")
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            splits: dict[str, list[Row]] = {
                split: [row if isinstance(row, dict) else [(text, learn) for text, learn in row] for row in rows]
                for split, rows in stored["splits"].items()}
            data = TextData(short, splits, end=stored["end"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"dataset {pinned!r} cannot be read from the cache ({path}): call "
                               f"lorakit.register_dataset({short!r}, …) again") from error
    if data.hash != pin:
        raise DatasetError(f"{short} is pinned to {pin}, but its rows now hash to {data.hash}: "
                           "use the lorakit version that made the record, or register your data and run the spec anew")
    return data


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
            which is added where it lacks, and no token ("" adds nothing).

    Returns:
        `name@hash`, to be used as `SFTSpec(dataset=…)`.

    Raises:
        DatasetError: a file that cannot be read, no rows, a row without anything to learn, or a split that stays empty.

    Warns:
        DatasetWarning: prompts that dominate a split, lie in several, or have different completions; with numbers.
    """
    check_new_name(name, BUILDERS)
    splits = divide(name, rows_of(data))
    if end is not None:
        splits = {split: [_closed(row, end) for row in rows] for split, rows in splits.items()}
    if said := remarks(splits):
        warnings.warn(f"{name}: {'; '.join(said)}", DatasetWarning, stacklevel=2)
    registered = TextData(name, splits, end=end)
    path = cache_folder() / "datasets" / f"{registered.hash}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"splits": splits, "end": end}), encoding="utf-8")
    partial.replace(path)
    return f"{name}@{registered.hash}"


def _closed(row: Row, end: str) -> Row:
    if isinstance(row, dict):
        raise DatasetError(f"end={end!r} is for rows of text: what closes a message is said by the chat template")
    *before, (text, learn) = row
    return [*before, (text if text.endswith(end) else text + end, learn)]
