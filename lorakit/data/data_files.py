"""Files and folders of rows: JSONL, JSON arrays, CSV, TSV, parquet, each also compressed; what `datasets` saved."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
               "dev": "validation", "eval": "validation", "test": "test"}
READABLE = "readable are JSONL, a JSON array, CSV, TSV and parquet, in UTF-8, also as .gz, .xz or .bz2"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress, b"\xfd7zXZ\x00": lzma.decompress, b"BZh": bz2.decompress}
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16", b"": "utf-8-sig"}  # UTF-32's first mark begins with UTF-16's
SPLIT_IN_NAME = re.compile(rf"(?:^|[/._-])({'|'.join(SPLIT_NAMES)})(?=[/._-]|$)", re.IGNORECASE)


class DatasetError(ValueError):
    """A dataset cannot be trained on as it is; the message says which row and what to do."""


def read_path(path: Path) -> Any:
    """What a file or a folder holds: a list of rows, a mapping of splits or columns, or a `datasets` object.

    Raises:
        DatasetError: it does not exist or cannot be read; the message says where and what to do.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; of a dataset of the hub pass what datasets.load_dataset(…) returns")
    try:
        content = path.read_bytes()
        for mark, unpack in PACKED.items():
            if content.startswith(mark):
                content = unpack(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; {READABLE}") from error
    if content.startswith(b"PAR1"):
        return _parquet(content, path)
    text, kind = _decode(content, path), path.name.lower()
    if re.search(r"\.[ct]sv(\.\w+)?$", kind):
        return _table(text, path, "\t" if ".tsv" in kind else ",")
    return _json(text, path)


def _read_folder(folder: Path) -> Any:
    if any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        from datasets import load_from_disk

        try:
            return load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{folder} looks like what datasets saves, and cannot be loaded: {error}") from error
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")
                   and any(suffix.lower() in SUFFIXES for suffix in file.suffixes))
    if not files:
        raise DatasetError(f"{folder} holds no file of rows; {READABLE}")
    named: dict[Path, str | None] = {}
    for file in files:
        found = SPLIT_IN_NAME.findall(file.relative_to(folder).as_posix())
        named[file] = SPLIT_NAMES[found[-1].lower()] if found else None
    unnamed = [file for file, split in named.items() if split is None]
    if unnamed and len(unnamed) < len(files):
        raise DatasetError(f"{folder}: {unnamed[0].name} names no split, others do: name all files after train, "
                           "validation or test, or none")
    splits: dict[str, list[Any]] = {}
    for file, split in named.items():
        rows = read_path(file)
        if not isinstance(rows, list):
            raise DatasetError(f"{file} holds {', '.join(map(str, rows))} in place of rows: register it alone")
        splits.setdefault(split or "train", []).extend(rows)
    return splits["train"] if unnamed else splits


def _decode(content: bytes, path: Path) -> str:
    encoding = next(encoding for mark, encoding in MARKS.items() if content.startswith(mark))
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{path} is not {encoding.removesuffix('-sig').upper()} (line {line}, byte {error.start}): "
                           f"save it as UTF-8, as `iconv -f latin1 -t utf-8` does; {READABLE}") from error
    if "\x00" in text[:200]:
        raise DatasetError(f"{path} holds NUL characters, as UTF-16 without its mark does: save it as UTF-8; "
                           f"{READABLE}")
    return text


def _json(text: str, path: Path) -> Any:
    """Rows of JSONL, where only a line feed ends a row; an array; or an object, of splits or columns."""
    if text.lstrip().startswith("["):
        return _loads(text, f"{path} is not a JSON array")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(lines) > 1 and lines[0][1].strip() == "{":
        return _loads(text, f"{path} is not JSON")
    rows = [_loads(line, f"{path}, line {number} is not JSON") for number, line in lines]
    one = rows[0] if len(rows) == 1 and isinstance(rows[0], Mapping) else {}
    return one if one and all(str(key).lower() in SPLIT_NAMES for key in one) else rows


def _loads(text: str, fault: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{fault}: {error}; {READABLE}") from error


def _table(text: str, path: Path, delimiter: str) -> list[dict[str, str]]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = []
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise DatasetError(f"{path}, row {number} (line {reader.line_num}) has not the fields that the first "
                                   f"line names: {', '.join(reader.fieldnames or ())}")
            rows.append(row)
        return rows
    except csv.Error as error:
        form = "TSV" if delimiter == "\t" else "CSV"
        raise DatasetError(f"{path}, line {reader.reader.line_num} is not {form}: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _parquet(content: bytes, path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a whole parquet file: {error}") from error
    return rows
