"""The columns that people's data have become rows; a row without anything to learn is named by its number."""

import datasets
import numpy
import pandas
import pyarrow
import pytest

from lorakit.data.data_files import DatasetError
from lorakit.data.rows import rows_of

USER, ANSWER = {"role": "user", "content": "6 · 7?"}, {"role": "assistant", "content": "42"}
SYSTEM = {"role": "system", "content": "Be brief."}
TEXT = [("a", False), ("b", True)]


@pytest.mark.parametrize(("row", "made"), [
    ({"prompt": "a", "completion": "b", "source": "x", "messages": None}, TEXT),
    ({"text": "ab"}, [("ab", True)]),
    ({"prompt": [USER], "completion": [ANSWER]}, {"prompt": [USER], "completion": [ANSWER]}),
    ({"messages": [SYSTEM, USER, ANSWER], "prompt": "6 · 7?", "text": ""}, {"messages": [SYSTEM, USER, ANSWER]}),
    ({"messages": [USER | {"tool_calls": None}, ANSWER], "tools": [{"name": "f"}], "chat_template_kwargs": {"x": 1}},
     {"messages": [USER, ANSWER], "tools": [{"name": "f"}], "chat_template_kwargs": {"x": 1}}),
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
     {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]}),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "6 ·"}, {"type": "text", "text": " 7?"}]},
                   ANSWER]}, {"messages": [USER, ANSWER]}),
    ({"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "6 · 7?"},
                        {"from": "gpt", "value": "42"}]}, {"messages": [SYSTEM, USER, ANSWER]}),
    ({"conversations": [USER, ANSWER], "system": "Be brief."}, {"messages": [SYSTEM, USER, ANSWER]}),
    ({"instruction": "6 · 7?", "input": "", "output": "42"}, {"prompt": [USER], "completion": [ANSWER]}),
    ({"instruction": "6 ·", "input": "7?", "output": "42", "system": "Be brief."},
     {"prompt": [SYSTEM, USER | {"content": "6 ·\n\n7?"}], "completion": [ANSWER]}),
    ({"instruction": "6 · 7?", "input": float("nan"), "output": "42", "text": "### Instruction: …"},
     {"prompt": [USER], "completion": [ANSWER]}),
])
def test_columns(row, made):
    assert rows_of([row]) == {"train": [made]}


def nest(rows):
    """As pandas reads lists back from parquet."""
    return [{key: numpy.array(value, dtype=object) if isinstance(value, list) else value for key, value in row.items()}
            for row in rows]


@pytest.mark.parametrize("rows", [[{"prompt": "a", "completion": "b"}] * 3, [{"messages": [USER, ANSWER]}] * 3],
                         ids=["text", "messages"])
def test_containers(rows):
    made = rows_of(rows)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    for data in (datasets.Dataset.from_list(rows), pandas.DataFrame(rows), pyarrow.table(columns), columns, iter(rows),
                 nest(rows), datasets.Dataset.from_list(rows).to_iterable_dataset(), pandas.DataFrame(nest(rows))):
        assert rows_of(data) == made
    some = datasets.Dataset.from_list(rows)
    parts = datasets.DatasetDict({"train": some, "validation": some.select([0]), "test": some.select([1, 2])})
    assert {split: len(of_split) for split, of_split in rows_of(parts).items()} == {
        "train": 3, "validation": 1, "test": 2}
    assert rows_of({"train": rows, "dev": pandas.DataFrame(rows)}) == {"train": made["train"],
                                                                       "validation": made["train"]}


@pytest.mark.parametrize(("row", "words"), [
    ({"prompt": [USER], "completion": "42"}, "row 2 has no completion: columns are prompt, completion; needed"),
    ({"prompt": "a", "completion": None}, "row 2 has no completion"),
    ({"messages": []}, "row 2, messages holds no message"),
    ({"messages": ["hi"]}, "row 2, messages, message 1 is str, not a mapping with 'role' and 'content'"),
    ({"messages": [USER]}, "row 2 has no answer of the assistant"),
    ({"messages": [USER, ANSWER | {"content": " "}]}, "row 2 has no answer of the assistant"),
    ({"messages": [ANSWER, USER, ANSWER]}, "row 2 begins with the assistant"),
    ({"messages": [USER, {"role": "robot", "content": "42"}]}, "message 2 has role 'robot'; known are human, gpt"),
    ({"messages": [USER, {"role": ["x"], "content": "42"}]}, r"message 2 has role \['x'\]"),
    ({"messages": [USER, {"role": "assistant"}]}, "message 2 has no text in 'content': None"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "message 1 has no text in 'content'"),
    ({"instruction": "a", "output": ""}, "row 2 has no answer of the assistant"),
    ({"instruction": "a", "input": 5, "output": "b"}, "row 2 has no text in 'input': 5"),
    ({"prompt": "a", "completion": "b\ud83d"}, r"row 2 holds half a character .*\\ud83d"),
    ({"messages": [USER, ANSWER | {"content": "\udc00"}]}, "row 2 holds half a character"),
    ({"messages": [USER, ANSWER], "tools": [{"a": {1, 2}}]}, "row 2 holds what JSON cannot"),
    ("ab", "row 2 is str, not a mapping"),
])
def test_a_row_without_anything_to_learn_is_named(row, words):
    with pytest.raises(DatasetError, match=words):
        rows_of([{"prompt": "a", "completion": "b"}, row])


@pytest.mark.parametrize(("data", "words"), [
    (3, "int holds no rows"), ({}, "this one has nothing"),
    ({"train_sft": [], "test_sft": [1]}, r"as splits \(train, validation, .*this one has 'train_sft', 'test_sft'"),
    ({"prompt": "a", "completion": "b"}, "columns of one length"),
    ({"train": [{"prompt": "a"}]}, "train, row 1 has no completion"),
])
def test_data_without_rows(data, words):
    with pytest.raises(DatasetError, match=words):
        rows_of(data)
