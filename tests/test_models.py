"""Base models: what a name pins is what is loaded, and anything else is refused with the way out."""

import json
import shutil

import pytest
import torch
from plain_training import tiny
from transformers import LlamaForCausalLM, Qwen3MoeForCausalLM

from lorakit.specs import SFTSpec, UnknownNameError, known_names, resolve_name
from lorakit.train import models
from lorakit.train.models import (
    SMOLLM2,
    WEIGHTS,
    ModelError,
    byte_tokenizer,
    embedded_record,
    load_model,
    model_hash,
    register_model,
)

EMBEDDED = sorted(set(known_names()["models"]) - {SMOLLM2})
IDS = torch.arange(12).view(2, 6) + 97


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_embedded_model_is_listed_and_shipped():
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == set(EMBEDDED)


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_is_the_one_that_is_listed(name):
    model, tokenizer = load_model(name)
    record = embedded_record(name)
    assert record["sha256"].startswith(known_names()["models"][name])
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert isinstance(model, Qwen3MoeForCausalLM if name == "tiny-moe" else LlamaForCausalLM)
    assert not model.training
    assert not model.config.use_cache
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer) == 256


def test_the_default_model_has_learnt_its_text():
    model, tokenizer = load_model("tiny")
    ids = tokenizer("The function returns the number of", return_tensors="pt")["input_ids"]
    loss = model(input_ids=ids, labels=ids).loss
    assert loss < 2.5, "a model that knows nothing loses ln 256 = 5.5 nats a byte"
    assert load_model("tiny", dtype=torch.bfloat16)[0].lm_head.weight.dtype == torch.bfloat16


def test_weights_that_were_changed_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in WEIGHTS.glob("tiny-w32-s0.*"):
        shutil.copy(path, folder)
    monkeypatch.setattr(models, "WEIGHTS", folder)
    load_model("tiny-w32-s0")
    path = folder / "tiny-w32-s0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"tiny-w32-s0 is pinned to .*, but this lorakit carries"):
        load_model("tiny-w32-s0")
    with pytest.raises(ModelError, match="pinned to 000000000000"):
        load_model("tiny-w32-s0@000000000000")


@pytest.mark.parametrize(("name", "message"), [
    ("tinny", "did you mean 'tiny'"),
    ("org/model", r"has no revision: write 'org/model@COMMIT'"),
    ("", "must be a name"),
])
def test_unknown_names(name, message):
    for resolve in (load_model, lambda n: SFTSpec(model=n, learning_rate=1e-3)):
        with pytest.raises(UnknownNameError, match=message):
            resolve(name)


def test_a_revision_is_part_of_the_name(monkeypatch):
    monkeypatch.setattr(models, "_load_hub", lambda name, revision, dtype: (tiny(), (name, revision)))
    assert load_model("org/model", revision="abc")[1] == load_model("org/model@abc")[1] == ("org/model", "abc")


def test_a_hub_that_cannot_be_reached_says_what_to_check(monkeypatch):
    def offline(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", offline)
    with pytest.raises(ModelError, match=r"cannot load org/model at revision abc: no connection\. Check the id"):
        load_model("org/model@abc")


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen2", True)])
def test_a_registered_model_comes_back(kind, tied, cache):
    model = tiny(kind, tied=tied)
    name = register_model("mine", model, byte_tokenizer())
    loaded, tokenizer = load_model(name)
    assert torch.equal(loaded(input_ids=IDS % 40).logits, model(input_ids=IDS % 40).logits)
    assert tokenizer("é")["input_ids"] == [195, 169]
    assert tokenizer.pad_token_id == 253
    assert resolve_name("models", name) == name
    assert SFTSpec(model=name, learning_rate=1e-3).model == name
    assert not list(cache.rglob("*.partial"))


def test_a_name_depends_on_the_weights_alone():
    model = tiny()
    name = register_model("mine", model, byte_tokenizer())
    assert register_model("mine", tiny(), byte_tokenizer()) == name
    assert register_model("mine", model, byte_tokenizer()) == name  # saving it changed nothing that counts
    assert register_model("mine", load_model(name)[0], byte_tokenizer()) == name
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    assert register_model("mine", model, byte_tokenizer()) != name
    assert model_hash(tiny(dtype=torch.bfloat16)) != model_hash(tiny())


@pytest.mark.parametrize("name", ["", "a@b", "a/b"])
def test_a_name_that_would_not_resolve_is_refused(name):
    with pytest.raises(ValueError, match="give a short name"):
        register_model(name, tiny(), byte_tokenizer())


def test_a_model_that_is_not_here():
    with pytest.raises(ModelError, match=r"call lorakit\.register_model\('mine', model, tokenizer\) again"):
        load_model("mine@0123456789ab")
    with pytest.raises(UnknownNameError, match="embedded: tiny"):
        embedded_record("tinny")


def test_smollm2_is_taken_only_from_the_file_that_its_name_pins(tmp_path, monkeypatch):
    path = tmp_path / "other.gguf"
    monkeypatch.setenv("LORAKIT_SMOLLM2_GGUF", str(path))
    with pytest.raises(ModelError, match="which does not exist"):
        load_model(SMOLLM2)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"has sha256 .*, expected .*: delete it"):
        load_model(SMOLLM2)


def test_records_of_embedded_models_say_how_they_were_made():
    for name in EMBEDDED:
        text = (WEIGHTS / f"{name}.json").read_text(encoding="utf-8")
        assert {"config", "parameters", "sha256", "pretraining"} <= json.loads(text).keys()
