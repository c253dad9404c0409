"""The book's reference has every public name of the library, and both packages have one version."""

import re
import tomllib
from pathlib import Path

import lorakit as lk

ROOT = Path(__file__).parents[2]


def test_the_reference_in_the_book_has_every_public_name():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    assert [name for name in lk.__all__ if name != "__version__" and f"lorakit.{name}" not in page] == []


def test_one_version_stands_everywhere():
    book = tomllib.loads((ROOT / "book" / "lorabook" / "pyproject.toml").read_text(encoding="utf-8"))
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {book["project"]["version"], citation[1], package["project"]["version"]} == {lk.__version__}
    assert f"## {lk.__version__}" in (ROOT / "book" / "changes.md").read_text(encoding="utf-8")
