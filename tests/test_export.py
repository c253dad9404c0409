"""What a pack has learnt leaves it in PEFT's and transformers' own formats, with the same logits."""

import dataclasses
import json

import pytest
import torch
from huggingface_hub import ModelCard
from leaks import leaks_below
from peft import AutoPeftModelForCausalLM, PeftModel
from plain_training import data, mean_loss, spec, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.adapters.export import export
from lorakit.bases.model_checks import weights_hash
from lorakit.bases.models import load_model
from lorakit.packed.engine import train_pack
from lorakit.packed.model import PackedModel
from lorakit.records import Record
from lorakit.specs import LoRASpec

SPLITS = data()
IDS = SPLITS["test"].input_ids


def trained(runs, **model):
    """A base, and the results of a pack over it."""
    base = tiny(**model)
    results = train_pack(runs, base, SPLITS, keep_weights=True)
    return base, results


@pytest.mark.parametrize("targets", ["all-linear", "attention", "all-linear+head", ("down_proj",)], ids=str)
def test_an_exported_adapter_loads_with_peft_and_gives_the_same_logits(targets, tmp_path):
    base, results = trained([
        spec(rank=rank, learning_rate=1e-2, steps=5, evaluation_tokens=10**6, lora={"targets": targets, "alpha": alpha})
        for rank, alpha in ((3, 32.0), (8, 4.0))])
    before, flags = weights_hash(base.state_dict()), [p.requires_grad for p in base.parameters()]
    for k, result in enumerate(results):
        assert export(result.spec, result.weights, base, tmp_path / str(k)) == tmp_path / str(k)
        assert weights_hash(base.state_dict()) == before, "the base is as it was"
        assert [p.requires_grad for p in base.parameters()] == flags
        loaded = PeftModel.from_pretrained(tiny(), tmp_path / str(k))
        assert mean_loss(loaded, SPLITS["test"]).item() == pytest.approx(result.curve["test_loss"][-1], abs=1e-6)
        assert abs(mean_loss(loaded, SPLITS["test"]) - mean_loss(tiny(), SPLITS["test"])) > 1e-3, "it has learnt"
        config = json.loads((tmp_path / str(k) / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (result.spec.lora.rank, result.spec.lora.alpha)


def test_logits_are_those_of_the_pack(tmp_path):
    runs = [spec(rank=rank, learning_rate=1e-2) for rank in (2, 7)]
    base = tiny()
    with PackedModel(base, runs) as packed:
        for _ in range(5):
            sums, _ = packed.loss_sums(IDS.expand(2, -1, -1), SPLITS["test"].labels.expand(2, -1, -1))
            sums.sum().backward()
            packed.optimizer.step()
        with torch.no_grad():
            expected = base(input_ids=IDS.repeat(2, 1)).logits.view(2, *IDS.shape, -1)
        weights = [packed.configuration(k) for k in range(2)]
    for k, run in enumerate(runs):
        loaded = PeftModel.from_pretrained(tiny(), export(run, weights[k], base, tmp_path / str(k)))
        assert torch.allclose(loaded(input_ids=IDS).logits, expected[k], rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen2", True), ("qwen3", False)])
def test_an_exported_full_run_is_a_plain_model(kind, tied, tmp_path):
    base, results = trained([spec(rank=None, steps=5, evaluation_tokens=10**6)], kind=kind, tied=tied)
    before = weights_hash(base.state_dict())
    loaded = AutoModelForCausalLM.from_pretrained(export(results[0].spec, results[0].weights, base, tmp_path))
    assert weights_hash(base.state_dict()) == before
    assert mean_loss(loaded, SPLITS["test"]).item() == pytest.approx(results[0].curve["test_loss"][-1], abs=1e-6)
    assert abs(mean_loss(loaded, SPLITS["test"]) - mean_loss(base, SPLITS["test"])) > 1e-3, "it has learnt"


def test_weights_of_another_run_are_refused(tmp_path):
    base, results = trained([spec(rank=4, steps=2)])
    weights, run, before = results[0].weights, results[0].spec, weights_hash(base.state_dict())
    with pytest.raises(ValueError, match="keep_weights=True"):
        export(run, {}, base, tmp_path)
    with pytest.raises(ValueError, match=r"have shape \(4, 32\).*\(5, 32\)"):
        export(dataclasses.replace(run, lora=LoRASpec(rank=5)), weights, base, tmp_path)
    with pytest.raises(ValueError, match="not of this spec"):
        export(dataclasses.replace(run, lora=LoRASpec(rank=4, targets="mlp")), weights, base, tmp_path)
    with pytest.raises(ValueError, match="not of this spec"):
        export(dataclasses.replace(run, lora=None), weights, base, tmp_path)
    assert weights_hash(base.state_dict()) == before
    assert not any(tmp_path.iterdir())


BASE = "org/base@" + "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """What the hub would hold of `BASE`, as its client keeps it; no folder of the machine that trained."""
    name, _, commit = BASE.partition("@")
    folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    load_model("tiny")[0].save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("f" * 40)  # the main branch has moved on
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return {"cache_dir": tmp_path / "hub"}


def recorded(result):
    return Record.from_run(result.spec, result.status, result.metrics, result.curve,
                           {"torch": "2.13.0", "device": "<b>a | processor", "engine": "packed"})


def loaded_from(folder):
    """A model and its tokenizer as a worker has them: read from a folder of this machine."""
    for part in load_model("tiny"):
        part.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("rank", [4, None], ids=["adapter", "full"])
def test_an_export_names_no_folder_and_carries_its_tokenizer(rank, tmp_path):
    base, tokenizer = loaded_from(tmp_path / "private-place")
    base.config.use_cache = False
    (result,) = train_pack([spec(rank=rank, steps=2)], base, SPLITS, keep_weights=True)
    folder = export(result.spec, result.weights, base, tmp_path / "out", tokenizer, recorded(result))
    assert leaks_below(folder) == []
    assert not [path.name for path in folder.iterdir() if b"private-place" in path.read_bytes()]
    again = AutoTokenizer.from_pretrained(folder)
    assert again("Ab é\n")["input_ids"] == tokenizer("Ab é\n")["input_ids"] == [65, 98, 32, 0xC3, 0xA9, 10]
    assert again.decode([65, 98]) == "Ab"
    if rank is None:
        config = AutoModelForCausalLM.from_pretrained(folder).config
        assert config.use_cache, "generation without a cache is slow"
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    else:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] is None


def test_an_adapter_over_a_model_of_the_hub_finds_its_base_elsewhere(elsewhere, tmp_path):
    base, tokenizer = loaded_from(tmp_path / "private-place")
    run = dataclasses.replace(spec(learning_rate=1e-2, steps=5, evaluation_tokens=10**6), model=BASE)
    (result,) = train_pack([run], base, SPLITS, keep_weights=True)
    folder = export(run, result.weights, base, tmp_path / "out", tokenizer, recorded(result))
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder, **elsewhere)
    assert mean_loss(loaded, SPLITS["test"]).item() == pytest.approx(result.curve["test_loss"][-1], abs=1e-6)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("org/base", "peft")


@pytest.mark.parametrize("rank", [4, None], ids=["adapter", "full"])
def test_the_card_is_made_from_the_record(rank, tmp_path):
    base, results = trained([dataclasses.replace(spec(rank=rank, steps=2, seed=7), model="mine@0123456789ab")])
    record = recorded(results[0])
    folder = export(results[0].spec, results[0].weights, base, tmp_path, record=record)
    text = (folder / "README.md").read_text()
    assert f"Run {record.id}" in text
    assert "| seed | 7 |" in text
    assert ("| lora.rank | 4 |" if rank else "full fine-tuning") in text
    assert f"| test\\_loss | {record.metrics['test_loss']} |".replace("\\_", "_") in text
    assert "| torch | 2.13.0 |" in text
    assert "a \\| processor |" in text, "what a record says cannot break the card"
    assert "<b>" not in text
    assert ModelCard(text).data.library_name == ("peft" if rank else "transformers")
    assert export(results[0].spec, results[0].weights, base, tmp_path / "bare").joinpath("README.md").exists()
