"""A folder as a model: its content names it, it stays where it is, and a changed one is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import lorakit as lk
from lorakit.bases.model_checks import ModelError
from lorakit.local_models import CheckpointError
from lorakit.names import UnknownNameError
from lorakit.sweep.sweeps import SweepError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = lk.load_model("tiny-w32-s0")
    place = tmp_path / "models" / "ckpt"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def spec(model, **fields) -> lk.SFTSpec:
    return lk.SFTSpec(model=model, dataset="reworded-skills", learning_rate=1e-3, steps=2, batch_size=1,
                      evaluations=2, evaluation_tokens=64, **fields)


def test_the_id_holds_the_content_and_no_place(folder, tmp_path):
    first = spec(str(folder))
    assert first.model.startswith("checkpoint@")
    assert str(tmp_path) not in str(first.to_json())
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "optimizer.pt").write_bytes(b"state")  # a Trainer leaves these beside the model
    (moved / "trainer_state.json").write_text("{}")
    assert spec(moved).id == spec(f"{moved}/").id == first.id
    assert lk.SFTSpec.from_json(first.to_json()) == first
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert spec(moved).id != first.id


def test_nothing_is_copied_and_the_folder_may_move(folder, tmp_path, cache):
    first = spec(str(folder))
    model, tokenizer = lk.load_model(first.model)
    assert torch.equal(model.lm_head.weight, lk.load_model("tiny-w32-s0")[0].lm_head.weight)
    assert tokenizer("é")["input_ids"] == [195, 169]
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 1000
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"no folder that this machine knows any more.*name the folder that holds it"):
        lk.load_model(first.model)
    assert spec(moved) == first
    lk.load_model(first.model)


def test_a_sweep_trains_resumes_and_exports_from_a_folder_and_refuses_a_changed_one(folder, tmp_path, monkeypatch):
    specs = lk.vary(spec(str(folder)), rank=[1, 2])
    assert lk.ModelShape.of(str(folder)).parameters == lk.ModelShape.of(specs[0].model).parameters
    assert len(lk.plan(specs, tmp_path / "runs", device="cpu", processes=1).missing) == 2
    records = lk.run(specs[:1], tmp_path / "runs", device="cpu", processes=1, save_to=tmp_path / "adapters")
    named = lk.vary(spec("tiny-w32-s0"), rank=[1])
    same = lk.run(named, tmp_path / "runs", device="cpu", processes=1)
    assert records[0].curve == same[0].curve  # the folder holds the same model
    for path in (tmp_path / "adapters" / records[0].id).iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SweepError, match=r"checkpoint in .* was changed: it was checkpoint@"):
        lk.run(specs, tmp_path / "runs", device="cpu", processes=1)
    assert lk.run(specs[:1], tmp_path / "runs") == records


@pytest.mark.parametrize(("files", "words"), [
    ({}, "lacks config.json, weights"), ({"adapter_config.json": "{}"}, "holds an adapter.*merge"),
    ({"config.json": "{}", "model.safetensors": ""}, r"lacks tokenizer_config\.json: save model and tokenizer"),
])
def test_what_is_no_whole_model_is_refused(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=words):
        spec(str(tmp_path))


def test_a_missing_folder_and_one_named_like_a_model_say_what_to_write(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"model='/no/such'.*no such folder"):
        spec("/no/such")
    monkeypatch.chdir(tmp_path)
    Path("ckpt").mkdir()
    with pytest.raises(UnknownNameError, match=r"write '\./ckpt'"):
        spec("ckpt")
