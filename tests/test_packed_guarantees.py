"""What a pack promises beside equal curves: zero padding, contained divergence, an unchanged base, plain evaluation."""

import math

import pytest
import torch
from plain_training import VOCABULARY, data, largest_difference, mean_loss, on_validation, plain_run, spec, tiny
from torch.nn import functional

from lorakit.adapters.peft_layers import TargetsError, attach
from lorakit.bases.model_checks import weights_hash
from lorakit.packed import engine
from lorakit.packed import model as packed_model
from lorakit.packed.engine import evaluate, pack_key, train_pack
from lorakit.packed.model import PackedModel
from lorakit.result import evaluation_steps

SPLITS = data()


def batch(count, seed=0, rows=3):
    """(K, B, T) ids and labels; other sequences for every configuration."""
    chosen = torch.randperm(23, generator=torch.Generator().manual_seed(seed))[: count * rows].view(count, rows)
    return SPLITS["train"].input_ids[chosen], SPLITS["train"].labels[chosen]


def train(packed, steps=5):
    for step in range(steps):
        sums, counts = packed.loss_sums(*batch(len(packed.specs), seed=step))
        (sums / counts).sum().backward()
        packed.optimizer.step()


def test_padding_stays_exactly_zero():
    ranks = (1, 5, 8)
    specs = [spec(rank=rank, learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5, lora={"targets": targets})
             for rank, targets in zip(ranks, ("all-linear", "attention", "all-linear"), strict=True)]
    with PackedModel(tiny(), specs) as packed:
        train(packed)
        for k, rank in enumerate(ranks):
            assert packed.layers["model.layers.0.self_attn.q_proj"].b[k].any()
            for layer in packed.layers.values():
                assert not layer.a[k, rank:].any()
                assert not layer.b[k, rank:].any()
        mlp = packed.layers["model.layers.0.mlp.up_proj"]
        assert mlp.b[0].any()
        assert not mlp.a[1].any()
        assert not mlp.b[1].any(), "a layer that configuration 1 does not adapt"
        used = [sum(a.numel() + b.numel() for a, b in packed.configuration(k).values()) for k in range(3)]
        assert used == packed.parameters_trained
        # the flat buffers hold nothing but the weights: everything that is not a configuration's own weight is zero
        for buffer in (packed.optimizer.flat, packed.optimizer.mean, packed.optimizer.square, packed.optimizer.grad):
            assert all(int(row.count_nonzero()) <= size for row, size in zip(buffer, used, strict=True))
        assert [int(row.count_nonzero()) for row in packed.optimizer.flat] == used


def test_frozen_a_does_not_move_even_with_decay_beside_one_that_does():
    specs = [spec(lora={"train_a": trained}, weight_decay=0.3, learning_rate=1e-2) for trained in (False, True)]
    with PackedModel(tiny(), specs) as packed:
        start = {name: layer.a.detach().clone() for name, layer in packed.layers.items()}
        train(packed)
        for name, layer in packed.layers.items():
            assert torch.equal(layer.a[0], start[name][0])
            assert not torch.equal(layer.a[1], start[name][1])
    assert packed.parameters_trained[0] < packed.parameters_trained[1]


@pytest.mark.parametrize("rank", [4, None])
def test_divergence_stays_in_its_own_row(rank):
    sane, absurd = spec(rank=rank, max_grad_norm=1.0), spec(rank=rank, learning_rate=1e30)
    results = train_pack([absurd, sane, absurd], tiny(), SPLITS)
    alone = train_pack([sane], tiny(), SPLITS)[0]
    assert [r.status for r in results] == ["diverged", "ok", "diverged"]
    assert largest_difference(results[1].curve, alone.curve) <= 1e-6
    assert not math.isfinite(results[0].curve["validation_loss"][-1])
    assert all(v is None or math.isfinite(v) for n, v in results[1].metrics.items())


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("tied", [False, True])
def test_the_base_is_unchanged_after_a_pack_and_after_an_exception(rank, tied):
    model = tiny(tied=tied)
    model.lm_head.weight.requires_grad_(False)
    before, modules = weights_hash(model.state_dict()), dict(model.named_modules())
    flags = {n: p.requires_grad for n, p in model.named_parameters()}

    def check():
        assert weights_hash(model.state_dict()) == before
        assert dict(model.named_modules()) == modules
        assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
        assert all(p.grad is None for p in model.parameters())

    train_pack([spec(rank=rank, steps=3), spec(rank=rank, steps=3, learning_rate=1e-2)], model, SPLITS)
    check()

    def stop(step, steps, losses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_pack([spec(rank=rank)], model, SPLITS, on_step=stop)
    check()


def test_the_base_is_unchanged_when_a_pack_cannot_be_built(monkeypatch):
    model = tiny()
    before, modules = weights_hash(model.state_dict()), dict(model.named_modules())
    with pytest.raises(TargetsError):
        PackedModel(model, [spec(), spec(lora={"targets": ("no_such_layer",)})])
    with pytest.raises(ValueError, match="all LoRA or all full"):
        PackedModel(model, [spec(), spec(rank=None)])

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(packed_model, "PackedAdamW", no_memory)
    for rank in (4, None):
        with pytest.raises(MemoryError):
            PackedModel(model, [spec(rank=rank)])
    assert weights_hash(model.state_dict()) == before
    assert dict(model.named_modules()) == modules


def test_full_fine_tuning_refuses_a_layer_that_it_does_not_know():
    model = tiny()
    model.model.norm = torch.nn.LayerNorm(32)
    with pytest.raises(TypeError, match=r"LayerNorm.*engine='peft' or 'trl'"):
        PackedModel(model, [spec(rank=None)])
    assert isinstance(model.model.layers[0].self_attn.q_proj, torch.nn.Linear)


@pytest.mark.parametrize("rows", [1, 400, 100_000], ids=lambda r: f"{r} tokens at once")
def test_evaluation_is_a_plain_mean_over_label_tokens(rows, monkeypatch):
    monkeypatch.setattr(engine, "EVALUATION_ROWS", rows)
    specs = [spec(rank=rank, dtype="float64") for rank in (2, 4)]
    with PackedModel(tiny(dtype=torch.float64), specs) as packed:
        found = evaluate(packed, SPLITS["test"])
    expected = mean_loss(tiny(dtype=torch.float64), SPLITS["test"]).item()
    assert found.tolist() == pytest.approx([expected, expected], abs=1e-12)


def test_the_first_gradient_norm_is_the_plain_one_before_clipping():
    run = spec(dtype="float64", steps=2, max_grad_norm=1e-3)
    adapted = attach(tiny(dtype=torch.float64), run.lora, run.seed)
    chosen = engine.order(run.seed, 23, 3)
    ids, labels = SPLITS["train"].input_ids[chosen], SPLITS["train"].labels[chosen]
    logits = adapted(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    functional.cross_entropy(logits, labels[:, 1:].flatten()).backward()
    expected = math.sqrt(sum(p.grad.square().sum() for p in adapted.parameters() if p.grad is not None))
    found = train_pack([run], tiny(dtype=torch.float64), SPLITS)[0].metrics["grad_norm_first"]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rank", [4, None])
def test_logits_in_chunks_give_the_same_loss_and_gradients(rank, monkeypatch):
    def gradients(at_once):
        monkeypatch.setattr(packed_model, "LOGITS_AT_ONCE", at_once)
        lora = None if rank is None else {"targets": "all-linear+head"}
        with PackedModel(tiny(dtype=torch.float64), [spec(rank=rank, dtype="float64", lora=lora)] * 2) as packed:
            sums, counts = packed.loss_sums(*batch(2))
            sums.sum().backward()
            packed.optimizer.gather()
            return sums.detach(), counts, packed.optimizer.grad.clone()

    sizes: list[int] = []
    plain = functional.cross_entropy
    monkeypatch.setattr(packed_model.functional, "cross_entropy",
                        lambda logits, *args, **kwargs: sizes.append(len(logits)) or plain(logits, *args, **kwargs))
    whole, whole_sizes = gradients(2**27), sizes.copy()
    sizes.clear()
    chunked = gradients(2 * 4 * VOCABULARY)
    assert len(whole_sizes) == 1
    assert max(sizes) == 8, "two configurations, four positions at a time"
    assert len(sizes) > len(whole_sizes)
    for a, b in zip(whole, chunked, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-12)


def test_what_decides_a_pack():
    own = {"learning_rate": 1.0, "seed": 3, "weight_decay": 0.1, "max_grad_norm": 1.0}
    assert pack_key(spec(rank=1)) == pack_key(spec(rank=8, **own))
    assert pack_key(spec(rank=8)) != pack_key(spec(rank=9))
    assert pack_key(spec(rank=8)) != pack_key(spec(rank=None))
    assert pack_key(spec(lora={"targets": "mlp"})) != pack_key(spec())
    assert pack_key(spec(beta2=0.99)) != pack_key(spec())
    assert evaluation_steps(1, 12) == [1]
    assert len(evaluation_steps(300, 12)) == 12


def test_the_metrics_say_what_a_plain_run_measures():
    runs = [spec(rank=rank, dtype="float64", steps=6, seed=rank) for rank in (2, 5)]
    for result in train_pack(runs, tiny(dtype=torch.float64), SPLITS, probes=[on_validation]):
        base = tiny(dtype=torch.float64)
        held_out = SPLITS["test"].head(result.spec.evaluation_tokens)
        assert result.metrics["base_test_loss"] == pytest.approx(mean_loss(base, held_out).item(), abs=1e-9)
        before = mean_loss(base, SPLITS["validation"]).item()
        assert result.metrics["validation_before"] == pytest.approx(before, abs=1e-9)
        whole = math.sqrt(sum(p.detach().square().sum() for p in base.parameters() if p.ndim > 1))
        original = {n: p.detach().clone() for n, p in base.named_parameters()}
        _, adapted = plain_run(base, result.spec, SPLITS)
        after = mean_loss(adapted, SPLITS["validation"]).item()
        assert result.metrics["validation_after"] == pytest.approx(after, abs=1e-9)
        assert result.metrics["parameters"] == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        merged = adapted.merge_and_unload()
        change = math.sqrt(sum((p - original[n]).square().sum() for n, p in merged.named_parameters()))
        assert result.metrics["delta_norm"] == pytest.approx(change / whole, rel=1e-9)
