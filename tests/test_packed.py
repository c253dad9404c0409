"""The packed engine's contract: every configuration's curve is that of a separate run with PEFT and torch's AdamW."""

import pytest
import torch
from plain_training import data, largest_difference, plain_run, spec, tiny

from lorakit.packed import engine
from lorakit.packed.engine import train_pack

FP64, FP32 = 1e-9, 1e-5
SPLITS = data()
RATES = (1e-3, 3e-3, 1e-2)
# Widths of 32 are the point of a fast test; LoRA's ranks go to 128 all the same.
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


def differences(specs, **model):
    """How far each configuration's curve is from its own separate run."""
    dtype = getattr(torch, specs[0].dtype)
    results = train_pack(specs, tiny(dtype=dtype, **model), SPLITS)
    found = []
    for result in results:
        expected, _ = plain_run(tiny(dtype=dtype, **model), result.spec, SPLITS)
        assert expected["train_loss"][-1] < expected["train_loss"][0] - 0.005, "a run that learns nothing shows nothing"
        found.append(largest_difference(result.curve, expected))
    return found


@pytest.mark.parametrize("ranks", [(1, 2, 5, 8), (16, 9), (17, 32), (64, 33), (128, 65)], ids=str)
def test_mixed_ranks_equal_separate_runs_in_double_precision_over_50_steps(ranks):
    specs = [spec(rank=rank, dtype="float64", steps=50, seed=seed, learning_rate=RATES[seed % 3])
             for seed, rank in enumerate(ranks)]
    assert max(differences(specs)) <= FP64


def test_all_ranks_and_target_subsets_in_one_pack(monkeypatch):
    """The engine only packs equal targets and ranks of one bucket, for speed; its arithmetic does not depend on it."""
    monkeypatch.setattr(engine, "pack_key", lambda _: ())
    targets = ["attention", "mlp", "all-linear+head", ("v_proj", "layers.1.mlp.up_proj"), "all-linear", ("lm_head",)]
    specs = [spec(rank=rank, dtype="float64", lora={"targets": chosen})
             for rank, chosen in zip((1, 3, 8, 20, 64, 128), targets, strict=True)]
    assert max(differences(specs, layers=2)) <= FP64


@pytest.mark.parametrize("targets", ["attention", "mlp", "all-linear+head", ("q_proj", "down_proj")], ids=str)
def test_target_subsets(targets):
    specs = [spec(rank=rank, lora={"targets": targets, "alpha": alpha}) for rank, alpha in ((2, 8), (4, 32.0))]
    assert max(differences(specs)) <= FP32


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_everything_that_a_configuration_may_have_of_its_own(dtype):
    steps, limit = (50, FP64) if dtype == "float64" else (20, FP32)
    specs = [
        spec(dtype=dtype, steps=steps, **fields) for fields in (
            {"lora": {"alpha": 4.0}},
            {"lora": {"train_a": False}, "learning_rate": 1e-2, "weight_decay": 0.1},
            {"lora": {"learning_rate_b_ratio": 16.0}, "learning_rate": 5e-4},
            {"lora": {"init_a_scale": 0.25}, "learning_rate": 5e-3},
            {"lora": {"train_a": False}, "max_grad_norm": 0.05},
            {"weight_decay": 0.2, "learning_rate": 1e-2},
            # a seed at which no element's first gradient is itself rounding: Adam steps by the full rate along its sign
            {"seed": 6, "rank": 7},
            {"max_grad_norm": 0.05},
            {"max_grad_norm": 1e-9, "learning_rate": 1e-2},
            {"max_grad_norm": 100.0, "weight_decay": 0.05},
        )]
    assert max(differences(specs)) <= limit


def test_accumulation_is_the_mean_over_the_tokens_of_the_whole_step():
    specs = [spec(rank=rank, accumulation=3, batch_size=2, seed=rank, max_grad_norm=clip)
             for rank, clip in ((2, None), (4, 0.1))]
    assert max(differences(specs)) <= FP32


def test_other_adamw_constants():
    specs = [spec(beta1=0.5, beta2=0.9, epsilon=1e-4, learning_rate=r, dtype="float64") for r in RATES]
    assert max(differences(specs)) <= FP64


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_other_architectures_with_lora(kind, dtype):
    specs = [spec(rank=rank, dtype=dtype, lora={"targets": "all-linear+head"}) for rank in (2, 6)]
    assert max(differences(specs, kind=kind)) <= (FP64 if dtype == "float64" else FP32)


@pytest.mark.filterwarnings("ignore::lorakit.adapters.peft_layers.TiedHeadWarning")
def test_lora_on_a_tied_head_leaves_the_embedding_alone():
    specs = [spec(rank=rank, dtype="float64", lora={"targets": "all-linear+head"}) for rank in (2, 6)]
    assert max(differences(specs, tied=True)) <= FP64


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("qwen2", True), ("qwen3", False)])
def test_full_fine_tuning_equals_a_plain_loop(kind, tied):
    fields = ("learning_rate", "weight_decay", "max_grad_norm", "seed")
    specs = [spec(rank=None, dtype="float64", steps=50, **dict(zip(fields, values, strict=True)))
             for values in ((1e-3, 0.0, None, 0), (3e-3, 0.3, 0.5, 0), (1e-3, 0.1, None, 4))]
    assert max(differences(specs, kind=kind, tied=tied)) <= FP64


def test_full_fine_tuning_in_single_precision():
    specs = [spec(rank=None, learning_rate=rate, weight_decay=0.1, accumulation=2) for rate in (3e-4, 1e-3)]
    assert max(differences(specs, layers=2)) <= FP32


# bfloat16 keeps 8 bits: logits of 2 are rounded by up to 0.004, differently in another order of summation.
@pytest.mark.parametrize(("rank", "limit"), [(4, 0.01), (None, 0.02)])
def test_bfloat16_bases_agree_within_their_own_rounding(rank, limit):
    specs = [spec(rank=rank, dtype="bfloat16", learning_rate=rate) for rate in (1e-3, 3e-3)]
    assert max(differences(specs)) <= limit


def test_adapters_over_a_bfloat16_base_are_single_precision():
    result = train_pack([spec(dtype="bfloat16", steps=2)], tiny(dtype=torch.bfloat16), SPLITS, keep_weights=True)[0]
    assert {part.dtype for pair in result.weights.values() for part in pair} == {torch.float32}


def test_results_do_not_depend_on_the_company_in_the_pack():
    chosen = spec(rank=3, seed=2)
    alone = train_pack([chosen], tiny(), SPLITS)[0]
    together = train_pack([spec(rank=8), chosen, spec(learning_rate=1e-2)], tiny(), SPLITS)[1]
    assert largest_difference(alone.curve, together.curve) <= FP32
    assert alone.tokens == together.tokens == alone.curve["tokens"][-1]
    assert alone.metrics["parameters"] == together.metrics["parameters"] == 3 * sum(
        sum(m.weight.shape) for n, m in tiny().named_modules() if n.endswith("_proj"))


def test_specs_that_cannot_share_a_pack_are_refused():
    with pytest.raises(ValueError, match="cannot share a pack"):
        train_pack([spec(), spec(steps=7)], tiny(), SPLITS)
    with pytest.raises(ValueError, match="cannot share a pack"):
        train_pack([spec(rank=8), spec(rank=9)], tiny(), SPLITS)
