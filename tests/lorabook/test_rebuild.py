"""A second build: a chapter is executed anew when its records or the code changed, and only then."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def extension():
    """The book's Sphinx extension."""
    spec = importlib.util.spec_from_file_location("offline_book", ROOT / "book" / "_ext" / "offline_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chapters_are_outdated_by_records_and_size_and_not_by_nothing(extension, tmp_path, monkeypatch):
    monkeypatch.delenv("LORAKIT_SIZE", raising=False)
    app = SimpleNamespace(srcdir=tmp_path)
    env = SimpleNamespace(found_docs={"book/index", "book/01-a", "book/02-b", "book/notation"})
    records = tmp_path / "book" / "results" / "cpu" / "x.jsonl"
    records.parent.mkdir(parents=True)
    records.write_text("{}\n")

    def outdated():
        return extension.chapters_of_changed_inputs(app, env, set(), set(), set())

    chapters = ["book/01-a", "book/02-b"]
    assert outdated() == chapters
    assert outdated() == []
    records.write_text("{ }\n")
    assert outdated() == chapters
    monkeypatch.setenv("LORAKIT_SIZE", "live")
    assert outdated() == chapters
    assert outdated() == []


def test_chapters_are_outdated_by_code(extension, tmp_path, monkeypatch):
    app, env = SimpleNamespace(srcdir=tmp_path), SimpleNamespace(found_docs={"book/01-a"})
    assert extension.chapters_of_changed_inputs(app, env) == ["book/01-a"]
    assert extension.chapters_of_changed_inputs(app, env) == []
    monkeypatch.setattr("lorabook.refresh.code_hash", lambda modules: "changed")
    assert extension.chapters_of_changed_inputs(app, env) == ["book/01-a"]
