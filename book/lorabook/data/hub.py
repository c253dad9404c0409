"""The papers' datasets from the Hugging Face hub, at pinned commits: their columns become our problems and rows.

Problems (RL): GSM8K, MATH, DeepMath-103K, DAPO-Math-17k. Conversations (supervised): Tulu 3, OpenThoughts3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from lorabook.data import gsm8k
from lorabook.data.tasks import MARKED
from lorakit.data.data_files import SPLITS, DatasetError
from lorakit.data.datasets import TextData
from lorakit.data.rl_tasks import Problem, Task, split_of_prompt, split_problems
from lorakit.data.rows import Row, Segments
from lorakit.data.skills import generator
from lorakit.rewards.answers import MARKER, boxes

BOXED = "\nThink step by step, and put the final answer into \\boxed{}."
DAPO_ENDS = "\n\nRemember to put your answer"
HELD_OUT_ROWS = 1000  # of a conversation dataset's validation and test split, each
Read = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Source:
    """One dataset of the hub.

    Args:
        commit: of the dataset's repository.
        read: a row of the hub to (prompt, answer or None), or to a conversation [(role, text), …].
        configurations: of the dataset; all are read, in order.
        test: the official test split, or None: a tenth of the prompts is kept for it, by their hash.
        grader: reward scheme for problems; None for conversations.
        instruction: added to each problem.
        rows: conversations to take, drawn over the whole dataset with a fixed seed.
    """

    commit: str
    read: Read
    configurations: tuple[str | None, ...] = (None,)
    test: str | None = None
    grader: str | None = None
    instruction: str = BOXED
    rows: int = 0


def _gsm8k(row: Mapping[str, Any]) -> tuple[str, str | None]:
    _, marker, answer = row["answer"].rpartition(MARKER)
    return row["question"], answer.strip().replace(",", "") if marker else None


def _math(row: Mapping[str, Any]) -> tuple[str, str | None]:
    found = boxes(row["solution"])
    return row["problem"], found[-1] if found else None


def _deepmath(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["question"], row["final_answer"]


def _dapo(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """The problem without the instructions around it, which ask for another form of the answer than we grade."""
    text = row["prompt"][-1]["content"]
    if text.startswith("Solve the following math problem") and DAPO_ENDS in text:
        text = text.partition("\n\n")[2].rpartition(DAPO_ENDS)[0]
    return text, row["reward_model"]["ground_truth"]


def _tulu(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


def _openthoughts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return [(roles[turn["from"]], turn["value"]) for turn in row["conversations"]]


SOURCES: dict[str, Source] = {
    gsm8k.NAME: Source(gsm8k.COMMIT, _gsm8k, ("main",), "test", "marked", MARKED),
    "EleutherAI/hendrycks_math": Source(
        "21a5633873b6a120296cce3e2df9d5550074f4a3", _math,
        ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
         "precalculus"), "test", "math"),
    "zwhe99/DeepMath-103K": Source("5cf055d1fe3d7a2eb19719ac020211469736ae44", _deepmath, grader="math"),
    "BytedTsinghua-SIA/DAPO-Math-17k": Source("65877096c24ffa7abc4e4fa5edb95cf3413a5674", _dapo, grader="boxed"),
    "allenai/tulu-3-sft-mixture": Source("b14afda60f1bbebe55d5d2fa1e4df5042f97f8be", _tulu, rows=100_000),
    "open-thoughts/OpenThoughts3-1.2M": Source("61bcf9d4eb38b30295efc2021227a63cc5bb34c8", _openthoughts, rows=10_000),
}


def load_problems(name: str, commit: str) -> Task:
    """A hub dataset of problems as a task; what occurs in the official test split is taken out of train.

    Raises:
        DatasetError: it cannot be loaded, lacks a column, or holds no answer.
    """
    source = SOURCES[name]
    train = _problems(name, commit, source, "train")
    if source.test is None:
        splits = split_problems(train)
    else:
        test = {problem["prompt"]: problem for problem in _problems(name, commit, source, source.test)}
        splits = split_problems(problem for problem in train if problem["prompt"] not in test)
        splits = {"train": splits["train"] + splits["test"], "validation": splits["validation"],
                  "test": list(test.values())}
    return Task(name, splits, source.grader or "math", chat=True)


def load_conversations(name: str, commit: str) -> TextData:
    """A hub dataset of conversations as rows of text, in Tulu's template; the loss counts what the assistant says.

    A run leaves out those that are longer than its `max_length`, as some are at any.

    Raises:
        DatasetError: it cannot be loaded, or lacks a column.
    """
    source = SOURCES[name]
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for conversation in _rows(name, commit, source, None, "train", source.rows):
        row = _segments(conversation)
        split = split_of_prompt("".join(text for text, _ in takewhile(lambda segment: not segment[1], row)))
        if row and (split == "train" or len(splits[split]) < HELD_OUT_ROWS):
            splits[split].append(row)
    return TextData(name, splits, leave_out_long=True)


def _segments(conversation: list[tuple[str, str]]) -> Segments:
    """`<|role|>` and the text on lines of their own; the last answer is closed by the tokenizer's end of text."""
    last = max((i for i, (role, _) in enumerate(conversation) if role == "assistant"), default=-1)
    row: Segments = []
    for i, (role, text) in enumerate(conversation[: last + 1]):
        head, body = f"<|{role}|>\n", text.strip() + ("" if i == last else "\n")
        row += [(head, False), (body, True)] if role == "assistant" else [(head + body, False)]
    return row


def _problems(name: str, commit: str, source: Source, split: str) -> list[Problem]:
    pairs = [pair for configuration in source.configurations
             for pair in _rows(name, commit, source, configuration, split)]
    answered = [{"prompt": prompt.strip() + source.instruction, "answer": answer.strip()}
                for prompt, answer in pairs if answer is not None and answer.strip()]
    if not answered:
        raise DatasetError(f"{name}@{commit}, split {split}: none of {len(pairs)} problems has an answer that can be "
                           "read; this commit is not the one whose columns lorakit knows "
                           f"({SOURCES[name].commit})")
    return answered


def _rows(name: str, commit: str, source: Source, configuration: str | None, split: str, rows: int = 0) -> list[Any]:
    from datasets import load_dataset

    if Path(name).exists():
        raise DatasetError(f"a folder {name!r} lies here, which datasets would load in place of the hub's {commit}: "
                           "run elsewhere, or register its rows")
    try:
        data = load_dataset(name, configuration, split=split, revision=commit)
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot load {name} at {commit}: {error}. Check that the hub can be reached "
                           "(HF_HUB_OFFLINE unset) and the commit exists") from error
    if 0 < rows < len(data):
        data = data.select(sorted(generator("hub", name).sample(range(len(data)), rows)))
    try:
        return [source.read(row) for row in data]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DatasetError(f"{name}@{commit} lacks the column or form that lorakit reads ({type(error).__name__}: "
                           f"{error}); its columns are {', '.join(data.column_names)}; the known commit is "
                           f"{SOURCES[name].commit}") from error


PROBLEMS = {name: partial(load_problems, name) for name, source in SOURCES.items() if source.grader is not None}
CONVERSATIONS = {name: partial(load_conversations, name) for name, source in SOURCES.items() if source.grader is None}
