"""Files of rows are read as their standards have them, or refused in words that say where and what to do."""

import bz2
import csv
import gzip
import io
import json
import lzma

import datasets
import pandas
import pytest

from lorakit.data.data_files import DatasetError
from lorakit.data.rows import rows_of

ROWS = [{"prompt": f"question {i}: ", "completion": f"né\u2028{i}\u0085\u2029, \"so\"\r\nso"} for i in range(4)]
MADE = {"train": [[(row["prompt"], False), (row["completion"], True)] for row in ROWS]}
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def table(delimiter):
    handle = io.StringIO(newline="")
    writer = csv.DictWriter(handle, ["prompt", "completion"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return handle.getvalue()


def parquet():
    handle = io.BytesIO()
    pandas.DataFrame(ROWS).to_parquet(handle)
    return handle.getvalue()


FILES = {
    "rows.jsonl": LINES.encode(), "rows.txt": LINES.encode(), "crlf.jsonl": LINES.replace("\n", "\r\n\r\n").encode(),
    "escaped.jsonl": "\n".join(map(json.dumps, ROWS)).encode(), "mark.jsonl": LINES.encode("utf-8-sig"),
    "utf16.jsonl": LINES.encode("utf-16"), "utf32.jsonl": LINES.encode("utf-32"),
    "rows.json": json.dumps(ROWS, ensure_ascii=False).encode(), "pretty.json": json.dumps(ROWS, indent=1).encode(),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}, indent=1).encode(),
    "splits.json": json.dumps({"train": ROWS}).encode(), "rows.csv": table(",").encode("utf-8-sig"),
    "rows.tsv": table("\t").encode(), "rows.csv.gz": gzip.compress(table(",").encode(), mtime=0),
    "rows.jsonl.gz": gzip.compress(LINES.encode(), mtime=0), "unnamed": gzip.compress(LINES.encode(), mtime=0),
    "rows.jsonl.xz": lzma.compress(LINES.encode()), "rows.jsonl.bz2": bz2.compress(LINES.encode()),
    "rows.parquet": parquet(),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    assert rows_of(tmp_path / name) == rows_of(str(tmp_path / name)) == MADE


LATIN = "\n".join(json.dumps(row, ensure_ascii=False) for row in [{"a": 1}, {"a": "é"}]).encode("latin-1")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("latin.jsonl", LATIN, r"latin\.jsonl is not UTF-8 \(line 2, byte 16\): save it as UTF-8.*iconv.*readable are"),
    ("wide.jsonl", LINES.encode("utf-16-le"), "is not UTF-8|holds NUL characters"),
    ("ascii.jsonl", b'{"a": 1}'.decode().encode("utf-16-le"), "holds NUL characters, as UTF-16"),
    ("cut.jsonl", "né".encode("utf-16") + b"x", "is not UTF-16"),
    ("half.jsonl", b'{"prompt": "a"}\n{"prompt": "a', r"half\.jsonl, line 2 is not JSON: Unterminated"),
    ("python.jsonl", b"{'prompt': 1}", "line 1 is not JSON"),
    ("deep.jsonl", b'{"a": ' + b"[" * 10**5, "line 1 is not JSON"),
    ("half.json", b'[{"prompt": "a"},', "is not a JSON array"),
    ("half.parquet", b"PAR1" + b"\x15\x04" * 9 + b"PAR1", "is not a whole parquet file"),
    ("half.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], r"half\.gz cannot be read"),
    ("half.xz", lzma.compress(LINES.encode())[:-9], r"half\.xz cannot be read"),
    ("book.xlsx", b"PK\x03\x04\xff\xfe\x00", "is not UTF-8"),
    ("short.csv", b"prompt,completion\na,b\nc\n", r"row 2 \(line 3\) has not the fields .*: prompt, completion"),
    ("long.csv", b"prompt,completion\na,b,c\n", r"row 1 \(line 2\) has not the fields"),
    ("quoted.csv", b'prompt,completion\n"a"b,c\n', r"quoted\.csv, line 2 is not CSV"),
    ("semicolons.csv", b"prompt;completion\na;b\n", "row 1 has no completion: columns are prompt;completion"),
])
def test_files_that_cannot_be_read_say_where_and_what_to_do(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        rows_of(tmp_path / name)


def test_long_fields_and_empty_files(tmp_path):
    (tmp_path / "long.csv").write_text("prompt,completion\na," + "b" * 200_000, encoding="utf-8")
    assert len(rows_of(tmp_path / "long.csv")["train"][0][1][0]) == 200_000
    assert csv.field_size_limit() == 131_072, "others' limit is left as it was"
    for name in ("empty.jsonl", "empty.csv"):
        (tmp_path / name).write_bytes(b"\n" if "csv" not in name else b"prompt,completion\n")
        assert rows_of(tmp_path / name) == {"train": []}
    with pytest.raises(DatasetError, match=r"no\.jsonl does not exist; of a dataset of the hub pass"):
        rows_of(tmp_path / "no.jsonl")


def test_a_folder_keeps_the_splits_that_its_files_name(tmp_path):
    parts = {"data/train-00000-of-00002.parquet": FILES["rows.parquet"],
             "data/train-00001-of-00002.jsonl": LINES.encode(),
             "data/val-00000-of-00001.csv": table(",").encode(),
             "test/latest.jsonl.gz": gzip.compress(LINES.encode(), mtime=0),
             "README.md": b"# read me", ".cache.jsonl": b"{"}
    for name, content in parts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert rows_of(tmp_path) == {"train": MADE["train"] * 2, "validation": MADE["train"], "test": MADE["train"]}
    (tmp_path / "more.jsonl").write_text(LINES, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"more\.jsonl names no split, others do"):
        rows_of(tmp_path)


def test_a_folder_without_splits_is_one_set_of_rows(tmp_path):
    with pytest.raises(DatasetError, match="holds no file of rows; readable are JSONL"):
        rows_of(tmp_path)
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(LINES, encoding="utf-8")
    assert rows_of(tmp_path) == {"train": MADE["train"] * 2}


def test_what_datasets_saved_is_read(tmp_path):
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "two")
    assert rows_of(tmp_path / "one") == MADE
    assert rows_of(tmp_path / "two") == MADE | {"test": MADE["train"]}
    (tmp_path / "two" / "dataset_dict.json").write_text("{}", encoding="utf-8")
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "dataset_info.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DatasetError, match="looks like what datasets saves"):
        rows_of(tmp_path / "three")
