"""The public surface: what `import lorakit` gives, costs, and says when the training packages are absent."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lorakit as lk

ROOT = Path(__file__).parents[1]

WITHOUT_TORCH = """
import sys
for package in ("torch", "transformers", "peft", "trl", "datasets", "safetensors", "tokenizers"):
    sys.modules[package] = None
import lorakit as lk
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONWARNINGS": "default", "PYTHONPATH": str(ROOT)})


def test_every_public_name_exists_and_is_documented():
    for name in lk.__all__:
        if name != "__version__":
            assert getattr(lk, name).__doc__, name
    assert len(lk.__all__) <= 35
    assert set(lk.__all__) <= set(dir(lk))


def test_no_property_says_in_its_first_line_what_a_reference_reads_as_its_type():
    """Napoleon takes the words before a colon as the type of a property."""
    public = [value for name in lk.__all__ if isinstance(value := getattr(lk, name), type)]
    said = {f"{one.__name__}.{name}": (part.__doc__ or "").splitlines()[0] for one in public
            for name, part in inspect.getmembers(one, lambda part: isinstance(part, property))
            if not name.startswith("_") and part.__doc__}
    assert [name for name, line in said.items() if ": " in line] == []


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"it has: .*run"):
        _ = lk.rum


def test_without_the_extra_specs_data_records_statistics_and_shapes_work(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    done = python(WITHOUT_TORCH + """
assert lk.register_dataset("mine", [{"text": str(i)} for i in range(50)]).startswith("mine@")
spec = lk.SFTSpec(learning_rate=1e-3)
print(spec.id, len(lk.vary(spec, rank=[1, 4])), lk.ModelShape.of("tiny").parameters)
from lorakit.analysis import plots
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["2", "393856"]


@pytest.mark.parametrize("call", ["lk.run([lk.SFTSpec(learning_rate=1e-3)], 'nowhere')", "lk.load_model('tiny')",
                                  "lk.register_model('x', None, None)"])
def test_without_the_extra_training_says_what_to_install(call):
    done = python(WITHOUT_TORCH + call)
    assert done.returncode == 1
    assert "pip install '.[train]'" in done.stderr.splitlines()[-1]
