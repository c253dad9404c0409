"""The public surface: what `import lorakit` gives, costs, and says when the training packages are absent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lorakit as lk

ROOT = Path(__file__).parents[1]
PATH = f"{ROOT}{os.pathsep}{ROOT / 'book'}"

WITHOUT_TORCH = """
import sys
for package in ("torch", "transformers", "peft", "trl", "datasets", "safetensors", "tokenizers"):
    sys.modules[package] = None
import lorakit as lk
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONWARNINGS": "default", "PYTHONPATH": PATH})


def test_every_public_name_exists_and_is_documented():
    for name in lk.__all__:
        if name != "__version__":
            assert getattr(lk, name).__doc__, name
    assert len(lk.__all__) <= 35
    assert set(lk.__all__) <= set(dir(lk))


def test_the_reference_in_the_book_has_every_public_name():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    assert [name for name in lk.__all__ if name != "__version__" and f"lorakit.{name}" not in page] == []


def test_one_version_stands_everywhere():
    book = tomllib.loads((ROOT / "book" / "lorabook" / "pyproject.toml").read_text(encoding="utf-8"))
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {book["project"]["version"], citation[1], package["project"]["version"]} == {lk.__version__}
    assert f"## {lk.__version__}" in (ROOT / "book" / "changes.md").read_text(encoding="utf-8")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"it has: .*run"):
        _ = lk.rum


def test_without_the_extra_specs_records_statistics_and_shapes_work():
    done = python(WITHOUT_TORCH + """
spec = lk.SFTSpec(learning_rate=1e-3)
print(spec.id, len(lk.vary(spec, rank=[1, 4])), lk.ModelShape.of("tiny").parameters)
from lorakit.analysis import plots
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["2", "393856"]


@pytest.mark.parametrize("call", ["lk.run([lk.SFTSpec(learning_rate=1e-3)], 'nowhere')", "lk.load_model('tiny')",
                                  "lk.register_dataset('x', [])"])
def test_without_the_extra_training_says_what_to_install(call):
    done = python(WITHOUT_TORCH + call)
    assert done.returncode == 1
    assert "pip install '.[train]'" in done.stderr.splitlines()[-1]
