"""rsLoRA, DoRA, PiSSA and dropout: PEFT's own layers where they are, exports with equal outputs, refusals elsewhere."""

import warnings

import pytest
import torch
import toy_rl
from peft import LoraConfig, PeftModel, get_peft_model
from plain_training import data, largest_difference, mean_loss, spec, tiny
from test_sft import tokenizer

from lorakit.adapters.export import export
from lorakit.adapters.inspector import inspect_targets
from lorakit.adapters.peft_layers import TargetsError, adapted_layers, attach, peft_config
from lorakit.analysis.frames import arm_name
from lorakit.bases.families import UnsupportedModelError
from lorakit.bases.model_checks import weights_hash
from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.engine import train_pack
from lorakit.reference.grpo import train_grpo
from lorakit.reference.peft_loop import train_peft
from lorakit.reference.sft import train_sft
from lorakit.specs import LoRASpec, SFTSpec, SpecError
from lorakit.sweep.call import check_engine, engine_of
from lorakit.theory.estimate import EstimateError, estimate

SPLITS = data()
VARIANTS = [{"rslora": True}, {"dora": True}, {"pissa": True}, {"dora": True, "rslora": True},
            {"pissa": True, "rslora": True}, {"dropout": 0.2}]
EXACT = [fields for fields in VARIANTS if "dropout" not in fields]
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


def run_of(fields, **others):
    return spec(lora={"alpha": 4.0, **fields}, **{"learning_rate": 1e-2, "steps": 6, **others})


@pytest.mark.parametrize("fields", EXACT, ids=str)
def test_peft_and_trl_agree(fields):
    base, run = tiny(), run_of(fields)
    before = weights_hash(base.state_dict())
    peft, trl = train_peft(run, base, SPLITS), train_sft(run, base, tokenizer(), SPLITS)
    assert weights_hash(base.state_dict()) == before
    assert largest_difference(peft.curve, trl.curve) < 1e-5
    assert peft.metrics["delta_norm"] == pytest.approx(trl.metrics["delta_norm"], rel=1e-3)
    assert peft.metrics["base_test_loss"] == pytest.approx(mean_loss(base, SPLITS["test"].head(60)).item(), abs=1e-5)
    plain = train_peft(run_of({}), base, SPLITS)
    assert largest_difference(peft.curve, plain.curve) > 1e-4, "the variant does something"


def test_rslora_is_one_scale_in_every_engine():
    run, scaled = run_of({"rslora": True}, dtype="float64"), run_of({"alpha": 8.0}, dtype="float64")
    base = tiny(dtype=torch.float64)
    packed, same = train_pack([run, scaled], base, SPLITS)  # 4 / √4 = 8 / 4
    assert largest_difference(packed.curve, same.curve) == 0
    assert largest_difference(packed.curve, train_peft(run, base, SPLITS).curve) < 1e-9


def test_layers_start_and_multiply_as_pefts_own():
    fields = {"r": 4, "lora_alpha": 4.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    for ours, theirs in (({"pissa": True}, {"init_lora_weights": "pissa"}), ({"dora": True}, {"use_dora": True}),
                         ({"rslora": True}, {"use_rslora": True}), ({"dropout": 0.3}, {"lora_dropout": 0.3})):
        torch.manual_seed(5)
        expected = adapted_layers(get_peft_model(tiny(), LoraConfig(**fields, **theirs)))
        for name, layer in adapted_layers(attach(tiny(), LoRASpec(rank=4, alpha=4, **ours), 5)).items():
            assert layer.scaling == expected[name].scaling
            assert str(layer.lora_dropout) == str(expected[name].lora_dropout)
            torch.testing.assert_close(layer.get_base_layer().weight, expected[name].get_base_layer().weight)
            assert bool(layer.lora_magnitude_vector) == bool(expected[name].lora_magnitude_vector)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_an_export_loads_in_peft_with_equal_outputs(fields, tmp_path):
    base, run = tiny(), run_of(fields, evaluation_tokens=10**6)
    before = weights_hash(base.state_dict())
    result = train_peft(run, base, SPLITS, keep_weights=True)
    export(run, result.weights, base, tmp_path)
    assert weights_hash(base.state_dict()) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftModel.from_pretrained(tiny(), tmp_path)
    assert mean_loss(loaded, SPLITS["test"]).item() == pytest.approx(result.curve["test_loss"][-1], abs=2e-6)
    assert abs(mean_loss(loaded, SPLITS["test"]) - mean_loss(base, SPLITS["test"])) > 1e-3


def test_dropout_follows_the_seed_and_counts_micro_batches():
    base, run = tiny(), run_of({"dropout": 0.2})
    first, again = (train_peft(run, base, SPLITS) for _ in range(2))
    assert first.curve == again.curve
    assert run_of({"dropout": 0.2}, batch_size=4, micro_batch=2).id != run_of({"dropout": 0.2}, batch_size=4).id
    assert run_of({}, batch_size=4, micro_batch=2).id == run_of({}, batch_size=4).id


@pytest.mark.parametrize("fields", [{"dora": True}, {"pissa": True}], ids=str)
def test_rl_by_trl(fields, tmp_path):
    run = toy_rl.spec(steps=3, lora={"alpha": 4.0, **fields})
    result = train_grpo(run, toy_rl.model(), toy_rl.words(), toy_rl.task(), keep_weights=True)
    assert result.status == "ok"
    assert result.metrics["sampler_base_gap_first"] < 1e-4 < result.metrics["sampler_base_gap_last"]
    export(run, result.weights, toy_rl.model(), tmp_path)
    assert PeftModel.from_pretrained(toy_rl.model(), tmp_path)


@pytest.mark.parametrize("fields", [{"dora": True}, {"pissa": True}, {"dropout": 0.1}], ids=str)
def test_packs_say_what_they_do_not_train_and_who_does(fields):
    run, words = run_of(fields), f"{next(iter(fields))}="
    with pytest.raises(UnsupportedModelError, match=rf"{words}.*engine='peft'"):
        train_pack([run], tiny(), SPLITS)
    with pytest.raises(ValueError, match=rf"{words}.*rslora=True alone.*engine='peft'"):
        check_engine("packed", [run])
    assert engine_of(run) == "peft"
    assert engine_of(run_of({"rslora": True})) == "packed"
    if "dropout" not in fields:
        rl = toy_rl.spec(lora=fields)
        assert engine_of(rl) == "trl"
        with pytest.raises(ValueError, match="engine='trl'"):
            check_engine("packed", [rl])


@pytest.mark.parametrize("fields", [
    {"dropout": 1.0}, {"dropout": -0.1}, {"dora": 1}, {"pissa": True, "dora": True},
    {"pissa": True, "init_a_scale": 2.0}, {"dora": True, "targets": "experts"}], ids=str)
def test_adapters_that_cannot_be_are_refused(fields):
    with pytest.raises(SpecError, match=next(iter(fields))):
        LoRASpec(**fields)


def test_runs_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match="dropout=0"):
        GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, lora=LoRASpec(dropout=0.1))
    with pytest.raises(SpecError, match="kl_coefficient"):
        GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, lora=LoRASpec(pissa=True), kl_coefficient=0.1)
    with pytest.raises(SpecError, match="float64"):
        SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, lora=LoRASpec(pissa=True), dtype="float64")
    moe = tiny("mixtral", num_local_experts=2)
    with pytest.raises(TargetsError, match=r"dora=True cannot adapt fused experts"):
        peft_config(LoRASpec(rank=2, dora=True), moe)


def test_calculators_and_legends_know_the_variants():
    plain = SFTSpec(model="tiny", learning_rate=1e-3, lora=LoRASpec(rank=4))
    for fields in ({"rslora": True}, {"pissa": True}):
        assert estimate(None, run := SFTSpec(model="tiny", learning_rate=1e-3, lora=LoRASpec(rank=4, **fields))).flops \
            == estimate(None, plain).flops, run
    for fields in ({"dora": True}, {"dropout": 0.1}):
        with pytest.raises(EstimateError, match=next(iter(fields))):
            estimate(None, SFTSpec(model="tiny", learning_rate=1e-3, lora=LoRASpec(rank=4, **fields)))
    assert arm_name(LoRASpec(rank=4, dora=True, dropout=0.1)) == "rank 4, DoRA, dropout 0.1"
    found = inspect_targets("tiny", LoRASpec(rank=4, pissa=True)), inspect_targets("tiny", LoRASpec(rank=4))
    assert found[0].equals(found[1])
    lengths = inspect_targets("tiny", LoRASpec(rank=4, dora=True)).adapter_parameters.sum()
    assert lengths > found[1].adapter_parameters.sum()
