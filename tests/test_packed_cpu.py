"""The quicker parts of packs on a CPU do what the plain ones do, and leave nothing behind."""

import weakref
from contextlib import nullcontext

import pytest
import torch
from plain_training import data, spec, tiny
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from lorakit.packed import attention, cpu, llama, onednn
from lorakit.packed.attention import ATTENTION, LONGEST, causal_attention
from lorakit.packed.cpu import FusedAdamW, hastened
from lorakit.packed.engine import accumulate, train_pack
from lorakit.packed.llama import QuickDecoder
from lorakit.packed.model import PackedModel
from lorakit.packed.onednn import FrozenLinear, QuickLinear, QuickLoRALinear, products
from lorakit.packed.optimizer import Group, PackedAdamW

SPLITS = data()
needs_onednn = pytest.mark.skipif(not onednn.onednn_multiplies(), reason="this build of torch has no oneDNN products")
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


def gradients(model, specs, quick):
    """Loss and gradients of one step, and what the layers became."""
    with PackedModel(model, specs) as packed, hastened(packed) if quick else nullcontext():
        flat = packed.optimizer.flat  # away from the start, where B is zero and with it the gradient of A
        flat.add_(0.05 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0)))
        chosen = torch.arange(3 * len(specs)).view(len(specs), 1, 3)
        loss, _ = accumulate(packed, SPLITS["train"], chosen, torch.device("cpu"))
        kinds = {type(module) for module in packed.model.modules()}
        return [loss, *(p.grad.clone() for p in packed.optimizer.parameters)], kinds


def assert_the_same(quick, plain):
    for got, wanted in zip(quick, plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in plain[1:])


@needs_onednn
@pytest.mark.parametrize("least", [0, 2**40], ids=["one by one", "batched"])
@pytest.mark.parametrize(("options", "kind", "whole"), [
    ({"rank": 4}, QuickLoRALinear, True), ({"rank": 4, "lora": {"targets": "mlp"}}, QuickLoRALinear, False),
    ({"rank": 4, "lora": {"targets": ("q_proj", "v_proj", "down_proj")}}, QuickLoRALinear, False),
    ({"rank": 16, "batch_size": 64}, QuickLoRALinear, False), ({"rank": None}, QuickLinear, False),
])
@pytest.mark.parametrize("model", [{}, {"kind": "qwen2"}, {"tied": True}], ids=str)
def test_losses_and_gradients_are_the_plain_packs(model, options, kind, whole, least, monkeypatch):
    monkeypatch.setattr(onednn, "WORTHWHILE", least)
    specs = [spec(seed=seed, **options) for seed in range(2)]
    plain, kinds = gradients(tiny(layers=2, **model), specs, quick=False)
    assert not kinds & {kind, FrozenLinear, QuickDecoder}
    quick, kinds = gradients(tiny(layers=2, **model), specs, quick=True)
    assert kind in kinds
    assert (FrozenLinear in kinds) == (options["rank"] is not None)
    assert (QuickDecoder in kinds) == whole
    assert_the_same(quick, plain)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}


@needs_onednn
@pytest.mark.parametrize("copied", [0, 2**20], ids=["apart", "joined"])
@pytest.mark.parametrize("model", [
    {"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1},
    {"kind": "mistral", "sliding_window": None}, {"rope_parameters": LLAMA3}, {"rope_parameters": YARN},
], ids=str)
def test_a_quick_decoder_has_the_plain_ones_losses_and_gradients(model, copied, monkeypatch):
    monkeypatch.setattr(llama, "COPIED", copied)
    specs = [spec(rank=rank, lora={"alpha": alpha}) for rank, alpha in ((1, 8.0), (2, 1.0))]
    plain, _ = gradients(tiny(layers=2, **model), specs, quick=False)
    quick, kinds = gradients(tiny(layers=2, **model), specs, quick=True)
    assert QuickDecoder in kinds
    assert_the_same(quick, plain)


@needs_onednn
def test_sequences_too_long_for_it_go_to_the_plain_decoder(monkeypatch):
    monkeypatch.setattr(llama, "LONGEST", 8)
    monkeypatch.setattr(llama, "_Run", None)  # would fail
    specs = [spec(seed=seed) for seed in range(2)]
    plain, _ = gradients(tiny(layers=2), specs, quick=False)
    assert_the_same(gradients(tiny(layers=2), specs, quick=True)[0], plain)


@needs_onednn
@pytest.mark.parametrize("model", [
    {"kind": "mistral", "sliding_window": 4}, {"kind": "qwen3"}, {"hidden_act": "gelu"},
    {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 2.0}},
], ids=str)
def test_a_decoder_of_another_kind_keeps_its_own_forward_pass(model):
    specs = [spec(seed=seed) for seed in range(2)]
    plain, _ = gradients(tiny(layers=2, **model), specs, quick=False)
    quick, kinds = gradients(tiny(layers=2, **model), specs, quick=True)
    assert QuickDecoder not in kinds
    assert QuickLoRALinear in kinds
    assert_the_same(quick, plain)


@needs_onednn
def test_what_a_backward_pass_needed_is_gone_after_it(monkeypatch):
    kept = []

    def attend(*inputs):
        out, shares = attention.attend(*inputs)
        kept.append(weakref.ref(shares))
        return out, shares

    monkeypatch.setattr(llama, "attend", attend)
    with PackedModel(tiny(layers=2), [spec(seed=seed) for seed in range(2)]) as packed, hastened(packed):
        ids = torch.randint(1, 40, (2, 3, 16))
        sums, _ = packed.loss_sums(ids, ids)
        assert [one() is None for one in kept] == [False, False]
        sums.sum().backward()
        assert [one() is None for one in kept] == [True, True], "two steps' activations would be held at once"


def test_a_pack_computes_its_losses_as_before_afterwards():
    with PackedModel(tiny(), [spec()]) as packed:
        with hastened(packed):
            assert packed.loss_sums.func is cpu.loss_sums
        assert packed.loss_sums.__func__ is PackedModel.loss_sums


@needs_onednn
def test_a_diverged_configuration_leaves_the_others_alone():
    specs = [spec(learning_rate=rate) for rate in (3e-3, 1e30)]
    with_it = train_pack(specs, tiny(layers=2), SPLITS)
    alone = train_pack(specs[:1], tiny(layers=2), SPLITS)
    assert [result.status for result in with_it] == ["ok", "diverged"]
    for name in ("train_loss", "test_loss"):
        torch.testing.assert_close(with_it[0].curve[name], alone[0].curve[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("counted", "picked"), [(15, False), (8, False), (7, True), (0, True)])
def test_losses_over_all_positions_are_those_over_picked_ones(counted, picked, monkeypatch):
    torch.manual_seed(0)
    ids = torch.randint(1, 40, (2, 3, 16))
    labels = ids.clone()
    labels[1, :, 1:] = labels[1, :, 1:].where(torch.rand(3, 15).argsort(1) < counted, -100)
    with PackedModel(tiny(), [spec(seed=seed) for seed in range(2)]) as packed:
        expected, counts = packed.loss_sums(ids, labels)
        plain = []
        monkeypatch.setattr(PackedModel, "loss_sums", lambda *inputs: plain.append(inputs) or (expected, counts))
        sums, now = cpu.loss_sums(packed, ids, labels)
        assert bool(plain) == picked
        torch.testing.assert_close(sums, expected)
        assert torch.equal(now, counts)
        monkeypatch.setattr(cpu, "LOGITS_AT_ONCE", 2 * 3 * 16 * 40 - 1)
        plain.clear()
        cpu.loss_sums(packed, ids, labels)
        assert plain, "many logits are made in chunks"


@needs_onednn
def test_both_ways_of_an_adapter_are_taken():
    for rank, rows, merged in ((2, 4, False), (16, 64, True)):
        with PackedModel(tiny(), [spec(rank=rank, batch_size=rows)]) as packed, hastened(packed):
            assert {layer.merged for layer in packed.layers.values()} == {merged}


def test_the_base_is_as_it_was_afterwards_and_after_an_error():
    model = tiny()
    before = {name: type(module) for name, module in model.named_modules()}
    train_pack([spec(steps=2)], model, SPLITS)

    def stop(done, steps, losses):
        assert model.config._attn_implementation == ATTENTION
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train_pack([spec(steps=2)], model, SPLITS, on_step=stop)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("dtype", "optimizer"), [(torch.float64, FusedAdamW), (torch.bfloat16, PackedAdamW)])
def test_other_precisions_keep_torchs_products(dtype, optimizer):
    with PackedModel(tiny(dtype=dtype), [spec()]) as packed, hastened(packed):
        assert type(packed.optimizer) is optimizer
        assert not any(isinstance(module, (FrozenLinear, QuickLoRALinear)) for module in packed.model.modules())


def test_without_onednn_the_layers_stay_plain(monkeypatch):
    monkeypatch.setattr(cpu, "onednn_multiplies", lambda: False)
    _, kinds = gradients(tiny(), [spec()], quick=True)
    assert QuickLoRALinear not in kinds


@needs_onednn
@pytest.mark.parametrize("shape", [(3, 5, 7), (130, 70, 40)])
def test_products_are_torchs(shape):
    torch.manual_seed(0)
    rows, d_in, d_out = shape
    x, weights = torch.randn(2, rows, d_in), torch.randn(2, d_out, d_in)
    torch.testing.assert_close(products(x, weights), x @ weights.transpose(1, 2))
    bias = torch.randn(d_out)
    torch.testing.assert_close(onednn.product(x, weights[0], bias), functional.linear(x, weights[0], bias))
    torch.testing.assert_close(onednn.product(x, weights[0].T.contiguous().T), x @ weights[0].T)


def test_fused_adamw_is_the_plain_one_with_rates_decays_clipping_and_frozen_parts():
    def trained(kind):
        torch.manual_seed(0)
        a, b = (nn.Parameter(torch.randn(3, *shape, dtype=torch.float64)) for shape in ((2, 5), (4,)))
        rates = torch.tensor([1e-2, 3e-2, 1e-1], dtype=torch.float64)
        decays = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
        groups = [Group([a], rates * torch.tensor([1.0, 0.0, 1.0]), decays * torch.tensor([1.0, 0.0, 1.0])),
                  Group([b], rates * 2, decays)]
        optimizer = PackedAdamW(groups, (0.8, 0.9), 1e-6, torch.tensor([0.5, 1.0, torch.inf], dtype=torch.float64))
        frozen, norms = a[1].detach().clone(), []
        for step in range(12):
            if step == 3 and kind is FusedAdamW:  # takes over in the middle
                optimizer = FusedAdamW(optimizer)
            for p in (a, b):
                p.grad = torch.sin(p.detach() * 3 + step)
            norms.append(optimizer.step())
        assert torch.equal(a[1], frozen)
        return [a.detach(), b.detach(), torch.stack(norms)]

    for got, wanted in zip(trained(FusedAdamW), trained(PackedAdamW), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def attention_inputs(length, heads=4, kept=2):
    torch.manual_seed(0)
    return [torch.randn(2, count, length, 8, dtype=torch.float64, requires_grad=True) for count in (heads, kept, kept)]


@pytest.mark.parametrize("scaling", [None, 0.7])
def test_causal_attention_is_torchs_forwards_and_backwards(scaling):
    results = []
    for ours in (True, False):
        query, key, value = attention_inputs(9)
        if ours:
            out = causal_attention(nn.Identity(), query, key, value, None, scaling)[0].transpose(1, 2)
        else:
            out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling,
                                                          enable_gqa=True)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out.detach(), query.grad, key.grad, value.grad])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("length", "masked", "ours"),
                         [(9, False, True), (9, True, False), (LONGEST + 1, False, False)])
def test_what_is_not_a_short_causal_sequence_goes_to_torchs_kernel(length, masked, ours):
    query, key, value = attention_inputs(length, kept=4)
    mask = torch.ones(length, length, dtype=torch.bool).tril() if masked else None
    out, _ = causal_attention(nn.Identity(), query, key, value, mask, is_causal=True)
    assert ("_Causal" in type(out.grad_fn.next_functions[0][0].next_functions[0][0]).__name__) == ours
    expected = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(out.transpose(1, 2), expected)


def test_a_sliding_window_is_respected():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mistral", vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(1, 40, (2, 16))
    expected = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation(ATTENTION)
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)
    model.config.sliding_window = None
    assert not torch.allclose(model(input_ids=ids, use_cache=False).logits, expected, atol=1e-3), "the window matters"
