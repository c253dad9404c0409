"""The two ways of computing an adapter's term, the fused norm, and what the engine measures beside the losses."""

import pytest
import torch
from plain_training import data, spec, tiny
from torch import nn

from lorakit.packed.engine import train_pack
from lorakit.packed.layers import PackedLoRALinear, PackedRMSNorm, merging_pays
from lorakit.packed.model import PackedModel

SPLITS = data()


def outputs_and_gradients(layer, x):
    x = x.clone().requires_grad_()
    for parameter in (layer.a, layer.b):
        parameter.grad = None
    out = layer(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), x.grad, layer.a.grad, layer.b.grad]


@pytest.mark.parametrize("bias", [True, False])
def test_factored_and_merged_equal_the_formula(bias):
    torch.manual_seed(0)
    count, rank, wide, narrow = 3, 4, 10, 6
    base = nn.Linear(wide, narrow, bias=bias).double().requires_grad_(False)
    a, b = torch.randn(count, rank, wide).double(), torch.randn(count, rank, narrow).double()
    scale, x = torch.tensor([0.5, 2.0, 7.0]).double(), torch.randn(count * 2, 5, wide).double()

    class Formula(PackedLoRALinear):
        def forward(self, x):
            rows = x.view(count, -1, wide)
            return (base(rows) + self.scale * (rows @ self.a.transpose(1, 2) @ self.b)).view(*x.shape[:-1], narrow)

    expected = outputs_and_gradients(Formula(base, a, b, scale), x)
    for merged in (False, True):
        for got, wanted in zip(outputs_and_gradients(PackedLoRALinear(base, a, b, scale, merged), x), expected,
                               strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_merging_starts_at_the_articles_break_even_where_rows_are_many():
    assert not merging_pays(10**6, 128 // 6, 128, 128)
    assert merging_pays(10**6, 128 // 6 + 1, 128, 128)
    assert not merging_pays(16, 22, 128, 128), "with few rows forming the weight costs more than it saves"


@pytest.mark.parametrize(("rank", "rows", "merged"), [(2, 4, False), (16, 64, True)])
def test_a_pack_merges_where_that_pays(rank, rows, merged):
    with PackedModel(tiny(), [spec(rank=rank, batch_size=rows)]) as packed:
        assert {layer.merged for layer in packed.layers.values()} == {merged}


def test_the_frozen_norm_equals_autograds():
    torch.manual_seed(0)
    weight, x = torch.rand(8) + 0.5, torch.randn(3, 5, 8)
    direction = torch.randn_like(x)
    results = []
    for norm in (PackedRMSNorm(weight, 1e-5), lambda v: v * torch.rsqrt(v.pow(2).mean(-1, True) + 1e-5) * weight):
        y = x.clone().requires_grad_()
        out = norm(y)
        (out * direction).sum().backward()
        results.append((out.detach(), y.grad))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_norms_of_the_factors_are_spectral_and_ignore_what_is_not_adapted():
    specs = [spec(rank=3, steps=2), spec(rank=3, steps=2, lora={"targets": "attention"})]
    for result in [train_pack([each], tiny(), SPLITS, keep_weights=True)[0] for each in specs]:
        factors = result.weights.values()
        for column, index in (("norm_a", 0), ("norm_b", 1)):
            wanted = sum(float(torch.linalg.matrix_norm(pair[index], 2)) for pair in factors) / len(factors)
            assert result.curve[column][-1] == pytest.approx(wanted, rel=1e-5)


def test_train_nats_are_the_losses_at_first_sight_times_their_labels():
    run = spec(steps=4, evaluations=20)
    result = train_pack([run], tiny(), SPLITS)[0]
    labels = torch.tensor([0, *result.curve["tokens"]]).diff()
    by_hand = sum(loss * int(count) for loss, count in zip(result.curve["train_loss"], labels, strict=True))
    assert result.curve["step"] == [1, 2, 3, 4]
    assert result.metrics["train_nats"] == pytest.approx(by_hand, rel=1e-6)


