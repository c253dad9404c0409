"""The fast parts of packs on a CPU do what torch's own do, and leave nothing behind."""

import weakref
from unittest.mock import patch

import pytest
import torch
from plain_training import data, spec, tiny
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from lorakit.packed import attention, llama, products
from lorakit.packed import model as packed_model
from lorakit.packed.attention import ATTENTION, LONGEST, causal_attention
from lorakit.packed.engine import accumulate, train_pack
from lorakit.packed.model import PackedModel
from lorakit.packed.optimizer import Group, PackedAdamW

SPLITS = data()
needs_onednn = pytest.mark.skipif(not products.onednn_multiplies(), reason="this torch has no oneDNN products")
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


def gradients(model, specs, fast):
    """Loss and gradients of one step, and whether the backend computed the decoder."""
    with patch.object(products, "onednn_multiplies", lambda: fast), PackedModel(model, specs) as packed:
        if not fast:
            packed.decoder = None
            model.set_attn_implementation("sdpa")
        flat = packed.optimizer.flat  # away from the start, where B is zero and with it the gradient of A
        flat.add_(0.05 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0)))
        chosen = torch.arange(3 * len(specs)).view(len(specs), 1, 3)
        loss, _ = accumulate(packed, SPLITS["train"], chosen, torch.device("cpu"))
        return [loss, *(p.grad.clone() for p in packed.optimizer.parameters)], packed.decoder is not None


def assert_the_same(fast, plain):
    for got, wanted in zip(fast, plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in plain[1:])


@needs_onednn
@pytest.mark.parametrize("least", [0, 2**40], ids=["one by one", "batched"])
@pytest.mark.parametrize(("options", "backend"), [
    ({"rank": 4}, True), ({"rank": 4, "lora": {"targets": "mlp"}}, False),
    ({"rank": 4, "lora": {"targets": ("q_proj", "v_proj", "down_proj")}}, False),
    ({"rank": 16, "batch_size": 64}, False), ({"rank": None}, False),
])
@pytest.mark.parametrize("model", [{}, {"kind": "qwen2"}, {"tied": True}], ids=str)
def test_losses_and_gradients_are_torchs(model, options, backend, least, monkeypatch):
    monkeypatch.setattr(products, "WORTHWHILE", least)
    specs = [spec(seed=seed, **options) for seed in range(2)]
    plain, used = gradients(tiny(layers=2, **model), specs, fast=False)
    assert not used
    fast, used = gradients(tiny(layers=2, **model), specs, fast=True)
    assert used == backend
    assert_the_same(fast, plain)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}


@needs_onednn
@pytest.mark.parametrize("copied", [0, 2**20], ids=["apart", "joined"])
@pytest.mark.parametrize("model", [
    {"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1},
    {"kind": "mistral", "sliding_window": None}, {"rope_parameters": LLAMA3}, {"rope_parameters": YARN},
], ids=str)
def test_the_backend_has_the_losses_and_gradients_of_the_models_own_decoder(model, copied, monkeypatch):
    monkeypatch.setattr(llama, "COPIED", copied)
    specs = [spec(rank=rank, lora={"alpha": alpha}) for rank, alpha in ((1, 8.0), (2, 1.0))]
    plain, _ = gradients(tiny(layers=2, **model), specs, fast=False)
    fast, used = gradients(tiny(layers=2, **model), specs, fast=True)
    assert used
    assert_the_same(fast, plain)


@needs_onednn
def test_sequences_too_long_for_it_go_to_the_models_own_decoder(monkeypatch):
    monkeypatch.setattr(packed_model, "LONGEST", 8)
    monkeypatch.setattr(llama, "_LayerFunction", None)  # would fail
    specs = [spec(seed=seed) for seed in range(2)]
    plain, _ = gradients(tiny(layers=2), specs, fast=False)
    assert_the_same(gradients(tiny(layers=2), specs, fast=True)[0], plain)


@needs_onednn
@pytest.mark.parametrize("model", [
    {"kind": "mistral", "sliding_window": 4}, {"kind": "qwen3"}, {"hidden_act": "gelu"},
    {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 2.0}},
], ids=str)
def test_a_decoder_of_another_kind_keeps_its_own_forward_pass(model):
    specs = [spec(seed=seed) for seed in range(2)]
    plain, _ = gradients(tiny(layers=2, **model), specs, fast=False)
    fast, used = gradients(tiny(layers=2, **model), specs, fast=True)
    assert not used
    assert_the_same(fast, plain)


@needs_onednn
def test_what_a_backward_pass_needed_is_gone_after_it(monkeypatch):
    saved = []

    def attend(*inputs):
        out, weights = attention.attend(*inputs)
        saved.append(weakref.ref(weights))
        return out, weights

    monkeypatch.setattr(llama, "attend", attend)
    with PackedModel(tiny(layers=2), [spec(seed=seed) for seed in range(2)]) as packed:
        ids = torch.randint(1, 40, (2, 3, 16))
        sums, _ = packed.loss_sums(ids, ids)
        assert [one() is None for one in saved] == [False, False]
        sums.sum().backward()
        assert [one() is None for one in saved] == [True, True], "two steps' activations would be held at once"


@needs_onednn
def test_a_diverged_configuration_leaves_the_others_alone():
    specs = [spec(learning_rate=rate) for rate in (3e-3, 1e30)]
    with_it = train_pack(specs, tiny(layers=2), SPLITS)
    alone = train_pack(specs[:1], tiny(layers=2), SPLITS)
    assert [result.status for result in with_it] == ["ok", "diverged"]
    for name in ("train_loss", "test_loss"):
        torch.testing.assert_close(with_it[0].curve[name], alone[0].curve[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("counted", "through_the_head"), [(15, 16), (8, 16), (7, 7), (0, 0)])
@pytest.mark.parametrize("at_once", [2**27, 2 * 5 * 40], ids=["at once", "in chunks"])
def test_only_the_positions_that_count_go_through_the_head_where_they_are_few(counted, through_the_head, at_once,
                                                                              monkeypatch):
    torch.manual_seed(0)
    ids, model, seen = torch.randint(1, 40, (2, 3, 16)), tiny(), []
    labels = torch.full_like(ids, -100)
    labels[:, :, 1:] = ids[:, :, 1:].where(torch.rand(2, 3, 15).argsort(-1) < counted, -100)
    labels[0, 0] = -100  # one configuration has fewer
    logits = model(input_ids=ids.flatten(0, 1), use_cache=False).logits[:, :-1]
    expected = functional.cross_entropy(logits.transpose(1, 2), labels.flatten(0, 1)[:, 1:], reduction="none")
    monkeypatch.setattr(packed_model, "LOGITS_AT_ONCE", at_once)
    whole = PackedModel._head_loss
    monkeypatch.setattr(PackedModel, "_head_loss",
                        lambda self, hidden, goals: seen.append(hidden.shape[1]) or whole(self, hidden, goals))
    with PackedModel(model, [spec(seed=seed) for seed in range(2)]) as packed:
        sums, counts = packed.loss_sums(ids, labels)
        assert counts.tolist() == [2 * counted, 3 * counted]
        assert sum(seen) == 3 * through_the_head
        assert len(seen) == (1 if at_once == 2**27 else max(1, -(-sum(seen) // 5)))
        torch.testing.assert_close(sums, expected.view(2, -1).sum(1))
        sums.sum().backward()


@needs_onednn
def test_both_ways_of_an_adapter_are_taken():
    for rank, rows, merged in ((2, 4, False), (16, 64, True)):
        with PackedModel(tiny(), [spec(rank=rank, batch_size=rows)]) as packed:
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


@pytest.mark.parametrize(("dtype", "kernel"), [(torch.float32, ATTENTION), (torch.float64, ATTENTION),
                                               (torch.bfloat16, "sdpa")])
def test_other_precisions_have_torchs_products(dtype, kernel, monkeypatch):
    if dtype != torch.float32:
        monkeypatch.setattr(products, "_onednn", None)  # would fail
    with PackedModel(tiny(dtype=dtype), [spec()]) as packed:
        assert packed.model.config._attn_implementation == kernel
        assert (packed.decoder is not None) == (dtype == torch.float32)
        sums, _ = packed.loss_sums(*(SPLITS["train"].input_ids[None, :2], SPLITS["train"].labels[None, :2]))
        sums.sum().backward()


@needs_onednn
@pytest.mark.parametrize("shape", [(3, 5, 7), (130, 70, 40)])
def test_products_are_torchs(shape):
    torch.manual_seed(0)
    rows, d_in, d_out = shape
    x, weights = torch.randn(2, rows, d_in), torch.randn(2, d_out, d_in)
    torch.testing.assert_close(products.products(x, weights), x @ weights.transpose(1, 2))
    bias = torch.randn(d_out)
    torch.testing.assert_close(products.product(x, weights[0], bias), functional.linear(x, weights[0], bias))
    torch.testing.assert_close(products.product(x, weights[0].T.contiguous().T), x @ weights[0].T)


def test_adamw_is_torchs_with_rates_decays_clipping_and_frozen_parts():
    rates, decays, clips, frozen = [1e-2, 3e-2, 1e-1], [0.0, 0.1, 0.3], [0.5, 1.0, torch.inf], 1

    def start():
        torch.manual_seed(0)
        return [nn.Parameter(torch.randn(3, *shape, dtype=torch.float64)) for shape in ((2, 5), (4,))]

    a, b = start()
    groups = [Group([a], [rates[0], 0.0, rates[2]], [decays[0], 0.0, decays[2]]),
              Group([b], [2 * rate for rate in rates], decays)]
    ours, norms = PackedAdamW(groups, (0.8, 0.9), 1e-6, clips), []
    for step in range(12):
        for p in (a, b):
            p.grad = torch.sin(p.detach() * 3 + step)
        norms.append(ours.step())
    for k in range(3):
        one_a, one_b = alone = [nn.Parameter(p[k].detach().clone()) for p in start()]
        trained = [{"params": [one_b], "lr": 2 * rates[k]}] + [{"params": [one_a]}] * (k != frozen)
        torchs = torch.optim.AdamW(trained, lr=rates[k], betas=(0.8, 0.9), eps=1e-6, weight_decay=decays[k],
                                   foreach=False)
        for step in range(12):
            for group in torchs.param_groups:
                group["params"][0].grad = torch.sin(group["params"][0].detach() * 3 + step)
            moving = [group["params"][0] for group in torchs.param_groups]
            norm = nn.utils.clip_grad_norm_(moving, clips[k], foreach=False)
            torch.testing.assert_close(norms[step][k], norm, rtol=1e-12, atol=1e-12)
            torchs.step()
        for got, wanted in zip((a[k], b[k]), alone, strict=True):
            torch.testing.assert_close(got.detach(), wanted.detach(), rtol=1e-12, atol=1e-12)


def attention_inputs(length, heads=4, kv_heads=2):
    torch.manual_seed(0)
    return [torch.randn(2, count, length, 8, dtype=torch.float64, requires_grad=True)
            for count in (heads, kv_heads, kv_heads)]


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
    query, key, value = attention_inputs(length, kv_heads=4)
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
