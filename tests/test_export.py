"""What a pack has learnt leaves it in PEFT's and transformers' own formats, with the same logits."""

import dataclasses
import json

import pytest
import torch
from peft import PeftModel
from plain_training import data, mean_loss, spec, tiny
from transformers import AutoModelForCausalLM

from lorakit.specs import LoRASpec
from lorakit.train.models import model_hash
from lorakit.train.packed.engine import train_pack
from lorakit.train.packed.export import export
from lorakit.train.packed.model import PackedModel

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
    before, flags = model_hash(base), [p.requires_grad for p in base.parameters()]
    for k, result in enumerate(results):
        assert export(result.spec, result.weights, base, tmp_path / str(k)) == tmp_path / str(k)
        assert model_hash(base) == before, "the base is as it was"
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
    before = model_hash(base)
    loaded = AutoModelForCausalLM.from_pretrained(export(results[0].spec, results[0].weights, base, tmp_path))
    assert model_hash(base) == before
    assert mean_loss(loaded, SPLITS["test"]).item() == pytest.approx(results[0].curve["test_loss"][-1], abs=1e-6)
    assert abs(mean_loss(loaded, SPLITS["test"]) - mean_loss(base, SPLITS["test"])) > 1e-3, "it has learnt"


def test_weights_of_another_run_are_refused(tmp_path):
    base, results = trained([spec(rank=4, steps=2)])
    weights, run, before = results[0].weights, results[0].spec, model_hash(base)
    with pytest.raises(ValueError, match="keep_weights=True"):
        export(run, {}, base, tmp_path)
    with pytest.raises(ValueError, match=r"have shape \(4, 32\).*\(5, 32\)"):
        export(dataclasses.replace(run, lora=LoRASpec(rank=5)), weights, base, tmp_path)
    with pytest.raises(ValueError, match="not of this spec"):
        export(dataclasses.replace(run, lora=LoRASpec(rank=4, targets="mlp")), weights, base, tmp_path)
    with pytest.raises(ValueError, match="not of this spec"):
        export(dataclasses.replace(run, lora=None), weights, base, tmp_path)
    assert model_hash(base) == before
    assert not any(tmp_path.iterdir())
