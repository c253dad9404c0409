"""Base models: what a name pins is what is loaded, and anything else is refused with the way out."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plain_training import tiny as small
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, LlamaForCausalLM, Qwen3MoeForCausalLM

from lorakit import sources
from lorakit.bases import models
from lorakit.bases.model_checks import weights_hash
from lorakit.bases.models import ModelError, byte_tokenizer, embedded_record, load_model, register_model
from lorakit.specs import SFTSpec, UnknownNameError, known_names, resolve_name

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
EMBEDDED = sorted(sources.LORAKIT.pins["models"])
WEIGHTS = sources.LORAKIT.weights
IDS = torch.arange(12).view(2, 6) + 97


def tiny(kind="llama", **config):
    return small(kind, **config, vocab_size=256)


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
    monkeypatch.setattr(sources, "embedded", lambda: {path.stem: path for path in folder.glob("*.json")})
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


def test_a_name_depends_on_what_a_run_takes_from_the_model():
    model = tiny()
    name = register_model("mine", model, byte_tokenizer())
    assert register_model("mine", tiny(), byte_tokenizer()) == name
    assert register_model("mine", model, byte_tokenizer()) == name  # saving it changed nothing that counts
    assert register_model("mine", load_model(name)[0], byte_tokenizer()) == name
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    assert register_model("mine", model, byte_tokenizer()) != name
    assert register_model("mine", tiny(dtype=torch.bfloat16), byte_tokenizer()) != name
    assert weights_hash(tiny(dtype=torch.bfloat16).state_dict()) != weights_hash(tiny().state_dict())


def begins_texts(tokenizer):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<begin> $A",
                                                                    special_tokens=[("<begin>", 254)])


@pytest.mark.parametrize("change", [
    lambda tokenizer: setattr(tokenizer, "eos_token", "!"),
    lambda tokenizer: setattr(tokenizer, "chat_template", TEMPLATE),
    lambda tokenizer: setattr(tokenizer, "pad_token", None),
    begins_texts,
])
def test_another_tokenizer_makes_another_model(change):
    model, tokenizer = tiny(), byte_tokenizer()
    name = register_model("mine", model, tokenizer)
    tokenizer("a", padding="max_length", max_length=4, truncation=True)  # leaves traces in what is saved
    assert register_model("mine", model, tokenizer) == name
    change(tokenizer)
    again = register_model("mine", model, tokenizer)
    assert again != name
    loaded = load_model(again)[1]
    assert loaded("a")["input_ids"] == tokenizer("a")["input_ids"]
    assert (loaded.eos_token, loaded.pad_token, loaded.chat_template) == (
        tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template)
    assert load_model(name)[1].eos_token == "<end>", "the first one is still what it was"


def test_other_ends_of_generation_make_another_model():
    name, model = register_model("mine", tiny(), byte_tokenizer()), tiny()
    model.generation_config = GenerationConfig(eos_token_id=[10, 255])
    again = register_model("mine", model, byte_tokenizer())
    assert again != name
    assert load_model(again)[0].generation_config.eos_token_id == [10, 255]


def test_a_tokenizer_that_does_not_survive_being_saved_is_refused(monkeypatch):
    monkeypatch.setattr(models, "_load_tokenizer", lambda folder: byte_tokenizer())
    tokenizer = byte_tokenizer()
    begins_texts(tokenizer)
    with pytest.raises(ModelError, match=r"mine: the tokenizer does not come back .*\(its tokens differ\)"):
        register_model("mine", tiny(), tokenizer)


def test_a_model_with_an_adapter_is_refused(cache):
    wrapped = get_peft_model(tiny(), LoraConfig(target_modules=["q_proj"]))
    for model in (wrapped, wrapped.base_model.model):
        with pytest.raises(ModelError, match=r"mine carries an adapter.*merge_and_unload\(\)"):
            register_model("mine", model, byte_tokenizer())
    assert register_model("mine", wrapped.merge_and_unload(), byte_tokenizer())


def test_tokens_that_the_model_does_not_know_are_refused(cache):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<more>", "<most>"])
    with pytest.raises(ModelError, match=r"has 2 tokens .* embeds 256: '<more>', '<most>'; .*embeddings\(258\)"):
        register_model("mine", tiny(), tokenizer)
    model = tiny()
    model.resize_token_embeddings(258)
    assert load_model(register_model("mine", model, tokenizer))[0].config.vocab_size == 258
    assert not list((cache / "models").glob("*.partial"))


def test_what_was_changed_in_the_cache_is_not_loaded(cache):
    name = register_model("mine", tiny(), byte_tokenizer())
    (folder,) = (cache / "models").iterdir()
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="was changed in the cache"):
        load_model(name)
    assert register_model("mine", tiny(), byte_tokenizer()) == name, "registering again mends it"
    load_model(name)
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="was changed in the cache"):
        load_model(name)
    register_model("mine", tiny(), byte_tokenizer())
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="was changed in the cache"):
        load_model(name)


@pytest.mark.parametrize("name", ["own@../../elsewhere", "own@", "tiny@3A3EED1EF6F6", "org/name@main", "../own@0a",
                                  "a/b/c@0a", "<b>@0a", "own@0a\n"])
def test_a_name_does_not_leave_the_cache(name, cache, monkeypatch):
    tiny().save_pretrained(cache.parent / "elsewhere")
    byte_tokenizer().save_pretrained(cache.parent / "elsewhere")
    (cache / "models").mkdir(parents=True)
    for resolve in (load_model, lambda n: SFTSpec(model=n, learning_rate=1e-3)):
        with pytest.raises(UnknownNameError, match="in hex digits alone"):
            resolve(name)
    with pytest.raises(ModelError):
        load_model("tiny@3")  # the beginning of a pin is none


def test_a_folder_does_not_take_the_place_of_the_hub(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="a folder 'org/name' lies here"):
        load_model("org/name@0a")


@pytest.mark.parametrize("name", ["", "a@b", "a/b", "tiny", "a b", "a\nb", "<b>", "..", "a" * 65, None])
def test_a_name_that_would_not_resolve_is_refused(name):
    with pytest.raises(ValueError, match="give a short name"):
        register_model(name, tiny(), byte_tokenizer())


def test_a_model_that_is_not_here():
    with pytest.raises(ModelError, match=r"call lorakit\.register_model\('mine', model, tokenizer\) again"):
        load_model("mine@0123456789ab")
    with pytest.raises(UnknownNameError, match="embedded: tiny"):
        embedded_record("tinny")


def test_records_of_embedded_models_say_how_they_were_made():
    for name in EMBEDDED:
        text = (WEIGHTS / f"{name}.json").read_text(encoding="utf-8")
        assert {"config", "parameters", "sha256", "pretraining"} <= json.loads(text).keys()
