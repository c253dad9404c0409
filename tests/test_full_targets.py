"""Full fine-tuning of the linear layers alone, and losses at the end on more text than the curve's."""

import copy

import pytest
import torch
from plain_training import data, largest_difference, mean_loss, spec, tiny

from lorakit.packed.engine import train_pack
from lorakit.reference.peft_loop import train_peft
from lorakit.reference.sft import train_sft
from lorakit.specs import LoRASpec, SpecError, vary

SPLITS = data()


def linear_only(**fields):
    return spec(rank=None, dtype="float64", full_targets="all-linear", **fields)


@pytest.mark.parametrize("tied", [False, True])
def test_a_pack_equals_a_loop_that_trains_the_same_layers(tied):
    specs = [linear_only(learning_rate=rate, seed=seed, steps=50, weight_decay=0.1)
             for seed, rate in enumerate((1e-3, 3e-3))]
    base = tiny(dtype=torch.float64, tied=tied)
    for run, packed in zip(specs, train_pack(specs, base, SPLITS), strict=True):
        alone = train_peft(run, tiny(dtype=torch.float64, tied=tied), SPLITS)
        assert largest_difference(packed.curve, alone.curve) <= 1e-9
        assert packed.metrics["parameters"] == alone.metrics["parameters"] == sum(
            m.weight.numel() for n, m in base.named_modules() if n.endswith("_proj"))
        assert packed.metrics["delta_norm"] == pytest.approx(alone.metrics["delta_norm"])


def test_trl_trains_the_same_layers():
    from toy_rl import words

    run = linear_only(steps=4, evaluations=2)
    trl = train_sft(run, tiny(dtype=torch.float64), words(), SPLITS)
    packed = train_pack([run], tiny(dtype=torch.float64), SPLITS)[0]
    assert largest_difference(trl.curve, packed.curve) <= 1e-5  # TRL's own loss is of single precision


def test_embedding_head_and_norms_stay_and_the_rest_moves():
    base = tiny(dtype=torch.float64)
    before = copy.deepcopy(base.state_dict())
    weights = train_pack([linear_only()], base, SPLITS, keep_weights=True)[0].weights
    assert weights.keys() == dict(base.named_parameters(remove_duplicate=False)).keys()
    for name, weight in weights.items():
        assert torch.equal(weight, before[name]) is not name.endswith("_proj.weight"), name
    assert all(torch.equal(p, before[n]) for n, p in base.state_dict().items())


def test_all_layers_and_linear_layers_never_share_a_pack_or_an_id():
    one, other = linear_only(), spec(rank=None, dtype="float64")
    assert one.id != other.id
    with pytest.raises(ValueError, match="cannot share a pack"):
        train_pack([one, other], tiny(dtype=torch.float64), SPLITS)


def test_the_field_belongs_to_full_fine_tuning():
    with pytest.raises(SpecError, match="full_targets='all-linear'"):
        spec(rank=4, full_targets="all-linear")
    with pytest.raises(SpecError, match="all-linear"):
        spec(rank=None, full_targets="mlp")
    assert [s.lora for s in vary(linear_only(), rank=[2])] == [LoRASpec(rank=2)]
    assert [s.full_targets for s in vary(spec(rank=None), full_targets=["all", "all-linear"])] == ["all", "all-linear"]


@pytest.mark.parametrize("engine", ["packed", "peft", "trl"])
def test_final_losses_are_of_the_larger_sets_and_the_curve_of_the_smaller(engine):
    from toy_rl import words

    run = spec(rank=4, dtype="float64", steps=3, evaluations=2, evaluation_tokens=20, final_evaluation_tokens=80)
    base = tiny(dtype=torch.float64)
    result = (train_pack([run], base, SPLITS, keep_weights=True)[0] if engine == "packed" else
              train_peft(run, base, SPLITS) if engine == "peft" else train_sft(run, base, words(), SPLITS))
    small = train_pack([spec(rank=4, dtype="float64", steps=3, evaluations=2, evaluation_tokens=80)], base, SPLITS)[0]
    for name in ("validation", "test"):
        assert len(SPLITS[name].head(80)) > len(SPLITS[name].head(20))
        near = 1e-6 if engine == "trl" else 1e-9  # TRL's own loss, and so its gradient, is of single precision
        assert result.metrics[f"{name}_loss"] == pytest.approx(small.metrics[f"{name}_loss"], abs=near)
        assert result.metrics[f"{name}_loss"] != result.curve[f"{name}_loss"][-1]
        assert result.metrics[f"base_{name}_loss"] == pytest.approx(mean_loss(base, SPLITS[name].head(80)).item())
