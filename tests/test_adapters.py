"""`attach` puts the right adapters in the right places, starts them as PEFT does, and explains what it cannot do."""

import warnings

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lorakit.adapters.inspector import meta_model
from lorakit.adapters.peft_layers import TargetsError, TiedHeadWarning, adapted_layers, attach, peft_config
from lorakit.specs import LoRASpec
from lorakit.theory.configs import known_config
from lorakit.theory.shapes import RankWasteWarning

IDS = torch.arange(12).view(2, 6)
LINEAR = {f"model.layers.{layer}.{name}" for layer in range(2) for name in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}


def tiny(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**known_config("tiny"), **changes)).to(dtype)


def tied():
    fields = known_config("tiny") | {"tie_word_embeddings": True}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))


@pytest.mark.parametrize(("targets", "expected"), [
    ("all-linear", LINEAR),
    ("all-linear+head", LINEAR | {"lm_head"}),
    ("attention", {n for n in LINEAR if "attn" in n}),
    ("mlp", {n for n in LINEAR if "mlp" in n}),
    (("v_proj", "layers.1.mlp.up_proj"), {n for n in LINEAR if "v_proj" in n} | {"model.layers.1.mlp.up_proj"}),
    (("lm_head",), {"lm_head"}),
])
def test_each_selection_adapts_exactly_its_modules(targets, expected):
    assert set(adapted_layers(attach(tiny(), LoRASpec(rank=2, targets=targets), seed=0))) == expected


@pytest.mark.parametrize("targets", ["attention", "mlp", "all-linear", "all-linear+head"])
def test_the_config_made_without_a_model_adapts_the_same(targets):
    spec = LoRASpec(rank=2, targets=targets)
    blind = peft.get_peft_model(tiny(), peft_config(spec))
    assert set(adapted_layers(blind)) == set(adapted_layers(attach(tiny(), spec, seed=0)))


def test_the_start_is_pefts_own_after_seeding():
    spec = LoRASpec(rank=4, alpha=20)
    ours = attach(tiny(), spec, seed=7)
    theirs = tiny()
    torch.manual_seed(7)
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=20, target_modules="all-linear",
                                                         task_type="CAUSAL_LM"))
    expected = {n: p for n, p in theirs.named_parameters() if "lora_" in n}
    found = {n: p for n, p in ours.named_parameters() if "lora_" in n}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    layer = adapted_layers(ours)["model.layers.0.mlp.down_proj"]
    assert layer.scaling["default"] == 5
    assert layer.lora_A["default"].weight.detach().abs().max() == pytest.approx(256**-0.5, rel=0.02)
    assert not layer.lora_B["default"].weight.any()


def test_the_seed_decides_and_the_global_random_state_is_left_alone():
    def first(seed):
        layers = adapted_layers(attach(tiny(), LoRASpec(rank=2), seed))
        return layers["model.layers.0.self_attn.q_proj"].lora_A["default"].weight

    model = tiny()
    before = torch.get_rng_state()
    attach(model, LoRASpec(rank=2), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


@pytest.mark.parametrize(("base", "adapter"), [(torch.float32, torch.float32), (torch.bfloat16, torch.float32),
                                               (torch.float64, torch.float64)])
def test_adapters_are_float32_or_float64_and_alone_are_trained(base, adapter):
    model = attach(tiny(base), LoRASpec(rank=2), seed=0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (adapter if "lora_" in name else base)
        assert (parameter.grad is not None) == ("lora_" in name)


def test_scaling_and_freezing_a():
    plain = attach(tiny(), LoRASpec(rank=2), 0)
    changed = attach(tiny(), LoRASpec(rank=2, init_a_scale=3, train_a=False), 0)
    one, three = (adapted_layers(m)["model.layers.1.mlp.up_proj"] for m in (plain, changed))
    assert torch.equal(3 * one.lora_A["default"].weight, three.lora_A["default"].weight)
    assert {n.split(".")[-3] for n, p in changed.named_parameters() if p.requires_grad} == {"lora_B"}


def test_a_target_that_matches_nothing_names_what_exists():
    with pytest.raises(TargetsError, match=r"did you mean 'q_proj'.*available: down_proj, gate_proj"):
        attach(tiny(), LoRASpec(targets=("v_proj", "q_prj")), 0)
    with pytest.raises(TargetsError, match=r"has type Embedding, not a linear layer"):
        attach(tiny(), LoRASpec(targets=("embed_tokens",)), 0)
    with pytest.raises(TargetsError, match=r"match nothing"):
        attach(torch.nn.Sequential(torch.nn.ReLU()), LoRASpec(), 0)
    fields = known_config("qwen3-30b-a3b") | {"num_hidden_layers": 1}
    with pytest.raises(TargetsError, match=r"fused parameters: give targets=\('mlp.experts.down_proj'"):
        peft_config(LoRASpec(targets="mlp"), meta_model(fields))


def test_a_second_adapter_is_refused():
    model = attach(tiny(), LoRASpec(rank=2), 0)
    with pytest.raises(ValueError, match=r"already carries an adapter"):
        attach(model, LoRASpec(rank=2), 0)


def test_a_tied_head_warns_that_merging_changes_the_embedding():
    with pytest.warns(TiedHeadWarning, match=r"merging it would also change the embedding"):
        model = attach(tied(), LoRASpec(rank=2, targets="all-linear+head"), 0)
    embedding = model.get_input_embeddings().weight.detach().clone()
    torch.nn.init.ones_(adapted_layers(model)["lm_head"].lora_B["default"].weight)
    with pytest.warns(UserWarning, match=r"can lead to complications"):
        model.merge_adapter()
    assert not torch.equal(embedding, model.get_input_embeddings().weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(tied(), LoRASpec(rank=2), 0)


def test_a_rank_above_the_smaller_side_warns():
    with pytest.warns(RankWasteWarning, match=r"rank 129 .*14 adapted matrices.*4,352 adapter parameters"):
        attach(tiny(), LoRASpec(rank=129), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(tiny(), LoRASpec(rank=128), 0)
