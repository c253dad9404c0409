"""Your own data as rows: which columns are understood, and what is an error.

A row of text is a list of segments `(text, learn)`: the loss counts the tokens of the segments with `learn=True` only.
A row of conversation holds messages, as TRL's datasets do; the tokenizer's chat template renders them, so what they
become is known with the model only (`lorakit.data.chat`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lorakit.data.data_files import SPLIT_NAMES, DatasetError, read_path

Segments = list[tuple[str, bool]]
Conversation = dict[str, Any]  # "messages", or "prompt" and "completion": lists of messages; "tools" if there are any
Row = Segments | Conversation
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"} | {
    role: role for role in ("system", "developer", "user", "assistant", "tool")}
NEEDED = ("needed are 'prompt' and 'completion' (both text, or both lists of messages), 'messages', 'conversations' "
          "(ShareGPT), 'instruction' and 'output' (Alpaca), or 'text'")


def rows_of(data: Any) -> dict[str, list[Row]]:
    """Your own data as rows by split; all in `train` if the data name no splits.

    Raises:
        DatasetError: a file that cannot be read, or a row without anything to learn; the message has its number.
    """
    if isinstance(data, str | Path):
        data = read_path(Path(data))
    if isinstance(data, Mapping) and data and all(str(key).lower() in SPLIT_NAMES for key in data):
        splits: dict[str, list[Row]] = {}
        for key, part in data.items():
            splits.setdefault(SPLIT_NAMES[str(key).lower()], []).extend(_rows(part, f"{key}, "))
        return splits
    return {"train": _rows(data, "")}


def _rows(data: Any, where: str) -> list[Row]:
    return [_row(row, f"{where}row {number}") for number, row in enumerate(_mappings(data), start=1)]


def _mappings(data: Any) -> Iterator[Any]:
    pandas = sys.modules.get("pandas")  # whoever made a frame has imported it
    if pandas is not None and isinstance(data, pandas.DataFrame):
        yield from data.to_dict("records")
    elif method := getattr(data, "to_pylist", getattr(data, "to_dicts", None)):  # tables of Arrow and of polars
        yield from method()
    elif isinstance(data, Mapping):
        lengths = {len(column) if isinstance(column, list | tuple) else None for column in data.values()}
        if len(lengths) != 1 or None in lengths:
            raise DatasetError(f"a mapping is read as columns of one length, or as splits ({', '.join(SPLIT_NAMES)}); "
                               f"this one has {', '.join(map(repr, data)) or 'nothing'}: give one split, or rename "
                               "them")
        yield from (dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True))
    elif isinstance(data, Iterable):
        yield from data
    else:
        raise DatasetError(f"{type(data).__name__} holds no rows: give a path, a datasets.Dataset, a DataFrame, or "
                           "mappings")


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where} is {type(row).__name__}, not a mapping; {NEEDED}")
    values = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()}
    made = _conversation(values, where) or _text(values, where)
    refuse_half_characters(made, where)
    return made


def refuse_half_characters(content: Any, where: str) -> None:
    """Raise DatasetError for text that has no bytes in UTF-8, or for what JSON cannot hold."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{where} holds half a character (a lone surrogate, {error.object[error.start]!a}), as text "
                           "does that was cut or decoded wrongly: mend or remove it") from error
    except TypeError as error:
        raise DatasetError(f"{where} holds what JSON cannot: {error}") from error


def _text(row: Mapping[str, Any], where: str) -> Segments:
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        if not row["completion"]:
            raise DatasetError(f"{where} has an empty completion, so there is nothing to learn from it: remove it")
        return [(row["prompt"], False), (row["completion"], True)]
    if isinstance(row.get("text"), str) and row["text"]:
        return [(row["text"], True)]
    raise DatasetError(f"{where} has no completion: columns are {', '.join(map(str, row)) or 'none'}; {NEEDED}")


def _conversation(row: Mapping[str, Any], where: str) -> Conversation | None:
    """The row's messages, or None for a row of text; `tools` and `chat_template_kwargs` go with them, as in TRL."""
    made: Conversation
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        made = {name: _messages(row[name], f"{where}, {name}") for name in ("prompt", "completion")}
    elif isinstance(row.get("completion"), str) and isinstance(row.get("prompt"), str):
        return None
    elif found := next((name for name in ("messages", "conversations") if isinstance(row.get(name), list)), None):
        made = {"messages": _messages(row[found], f"{where}, {found}")}
        if made["messages"][0]["role"] == "assistant":
            raise DatasetError(f"{where} begins with the assistant, so its first answer has no prompt: put the user's "
                               "message before it, or remove it")
    elif isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        asked = "\n\n".join(part for part in (row["instruction"], _optional(row, "input", where)) if part)
        made = {"prompt": [{"role": "user", "content": asked}],
                "completion": [{"role": "assistant", "content": row["output"]}]}
    else:
        return None
    system = _optional(row, "system", where)
    first: list[dict[str, Any]] = made["prompt" if "prompt" in made else "messages"]
    if system and first[0]["role"] != "system":
        first.insert(0, {"role": "system", "content": system})
    learnt = [m for m in made["completion" if "prompt" in made else "messages"] if m["role"] == "assistant"]
    if not any((message.get("content") or "").strip() or message.get("tool_calls") for message in learnt):
        raise DatasetError(f"{where} has no answer of the assistant with text in it, so there is nothing to learn from "
                           "it: remove it")
    return made | {name: row[name] for name in ("tools", "chat_template_kwargs") if row.get(name)}


def _optional(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is None or value != value:  # pandas' missing value differs from itself
        return ""
    if not isinstance(value, str):
        raise DatasetError(f"{where} has no text in {column!r}: {value!r:.60}")
    return value


def _messages(value: list[Any], where: str) -> list[dict[str, Any]]:
    if not value:
        raise DatasetError(f"{where} holds no message")
    return [_message(message, f"{where}, message {number}") for number, message in enumerate(value, start=1)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise DatasetError(f"{where} is {type(message).__name__}, not a mapping with 'role' and 'content'")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise DatasetError(f"{where} has role {role!r}; known are {', '.join(ROLES)}: rename or remove it")
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise DatasetError(f"{where} has no text in 'content': {content!r:.60}")
    more = {key: value for key, value in message.items()
            if key not in ("role", "from", "content", "value") and value is not None}
    return {"role": ROLES[role], "content": content, **more}
