"""Mixtures of experts: what PEFT reaches, how many weights each convention has, and the plain loop that trains them."""

import pytest
import torch
from plain_training import VOCABULARY, data, largest_difference, on_validation, plain_run, spec, tiny
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForCausalLM

from lorakit.adapters.inspector import inspect_targets, meta_model
from lorakit.adapters.peft_layers import TargetsError, attach, peft_config
from lorakit.packed.engine import train_pack
from lorakit.reference.peft_loop import train_peft
from lorakit.specs import LoRASpec, SpecError
from lorakit.theory.configs import known_config

BOTH = LoRASpec(rank=16, targets="attention+experts")


def mixture(dtype=torch.float32):
    """A random Qwen3-MoE model: one layer, four experts of width 24, two active."""
    torch.manual_seed(1)
    fields = {**known_config("tiny-moe"), "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1,
              "num_experts": 4, "moe_intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 8, "initializer_range": 0.15, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).to(dtype).eval()
    model.set_experts_implementation("eager")  # the grouped one knows no float64
    return model


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_all_linear_reaches_the_fused_experts_and_the_routers_of_qwen():
    found = inspect_targets(known_config("qwen3-30b-a3b") | {"num_hidden_layers": 2}, LoRASpec(rank=1))
    rows = found.set_index("component")
    assert rows.loc[["attention", "experts", "router", "head"], "adapted"].tolist() == [8, 4, 2, 0]
    # 128 experts, gate and up fused at twice the rank: 2 (2048 + 2 · 768) + (768 + 2048)
    assert rows.loc["experts", "adapter_parameters"] == 2 * 128 * (2 * (2048 + 1536) + 768 + 2048)


def test_shared_outer_has_tinkers_count():
    with torch.device("meta"):
        model = attach(meta_model(known_config("qwen3-30b-a3b") | {"num_hidden_layers": 1}),
                       LoRASpec(rank=1, targets="attention+experts", shared_outer=True), seed=0)
    experts = sum(p.numel() for name, p in model.named_parameters() if "experts" in name and p.requires_grad)
    assert experts == 3 * 2048 + 128 * 3 * 768
    assert 48 * experts == 14_450_688  # the table of tinker-cookbook


@torch.no_grad()
def test_the_outer_factor_is_shared_and_gate_and_up_have_their_own():
    model = mixture()
    layer = model.model.layers[0].mlp.experts
    before = {name: getattr(layer, name).clone() for name in ("gate_up_proj", "down_proj")}
    attach(model, LoRASpec(rank=3, targets="attention+experts", shared_outer=True, alpha=6), seed=0)
    assert all(torch.equal(getattr(layer, name), before[name]) for name in before)  # B starts at zero
    adapters = {name: layer.parametrizations[name][0] for name in before}
    for adapter in adapters.values():
        torch.nn.init.normal_(adapter.lora_B)
    up, down = adapters["gate_up_proj"], adapters["down_proj"]
    for expert in range(4):
        gate_delta, up_delta = (2 * up.lora_B[expert, part] @ up.lora_A[0, part] for part in range(2))
        wanted = before["gate_up_proj"][expert] + torch.cat([gate_delta, up_delta])
        assert torch.allclose(layer.gate_up_proj[expert], wanted, atol=1e-6)
        wanted = before["down_proj"][expert] + 2 * down.lora_B[0, 0] @ down.lora_A[expert, 0]
        assert torch.allclose(layer.down_proj[expert], wanted, atol=1e-6)
    assert up.lora_A.abs().max() == pytest.approx(32**-0.5, rel=0.1)


@pytest.mark.parametrize("lora", [LoRASpec(rank=2, targets="experts"), LoRASpec(rank=4, targets="attention+experts",
                                                                               expert_rank=2)])
def test_the_loop_trains_a_mixture_as_a_plain_loop_does(lora):
    run = spec(dtype="float64", accumulation=2, steps=6, rank=None)
    run = type(run)(**{**run.__dict__, "lora": lora})
    expected, _ = plain_run(mixture(torch.float64), run, data())
    assert largest_difference(train_peft(run, mixture(torch.float64), data()).curve, expected) < 1e-9


@pytest.mark.parametrize("rank", [4, None])
def test_the_loop_measures_as_the_packed_engine_does(rank):
    run = spec(rank=rank, dtype="float64", max_grad_norm=0.5, weight_decay=0.1)
    model = tiny(dtype=torch.float64)
    one = train_peft(run, model, data(), probes=[on_validation])
    packed = train_pack([run], model, data(), probes=[on_validation])[0]
    assert largest_difference(one.curve, packed.curve) < 1e-9
    assert one.curve["tokens"] == packed.curve["tokens"]
    same = set(one.metrics) & set(packed.metrics)
    assert same >= {"delta_norm", "parameters", "grad_norm_first", "validation_after", "base_test_loss"}
    for name in same:
        assert one.metrics[name] == pytest.approx(packed.metrics[name], rel=1e-6), name


def test_full_fine_tuning_trains_experts_and_router_and_the_base_stays():
    model, run = mixture(), spec(rank=None, steps=3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = train_peft(run, model, data())
    assert result.metrics["parameters"] == sum(p.numel() for p in before.values())
    assert result.metrics["delta_norm"] > 0
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_shared_outer_adapter_learns_and_counts_in_delta_norm():
    model = mixture()
    lora = {"targets": "attention+experts", "shared_outer": True}
    result = train_peft(spec(lora=lora, learning_rate=1e-2), model, data())
    assert result.metrics["train_loss"] < result.curve["train_loss"][0]
    assert result.metrics["delta_norm"] > train_peft(spec(lora={"targets": "attention"}, learning_rate=1e-2), model,
                                                     data()).metrics["delta_norm"]
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_a_run_that_overflows_is_diverged():
    assert train_peft(spec(lora={"targets": "attention"}, learning_rate=1e30), mixture(), data()).status == "diverged"


@pytest.mark.parametrize("fields", [
    {"expert_rank": 4}, {"expert_rank": 0, "targets": "experts"}, {"shared_outer": True, "targets": "experts"},
    {"shared_outer": 1, "targets": "attention+experts"}])
def test_fields_of_experts_need_experts(fields):
    with pytest.raises(SpecError, match=r"targets='.*experts'"):
        LoRASpec(**fields)


def test_a_dense_model_has_no_experts():
    with pytest.raises(TargetsError, match=r"targets='attention\+experts' match no layer"):
        attach(tiny(), BOTH, seed=0)
    with pytest.raises(TargetsError, match=r"call peft_config\(spec, model\)"):
        peft_config(BOTH)


