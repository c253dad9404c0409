"""TRL's SFTTrainer, run from the same spec over the same batches, gives the packed engine's curve."""

import math

import pytest
import torch
from plain_training import VOCABULARY, data, largest_difference, on_validation, spec, tiny
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers.integrations import integration_utils

from lorakit.bases.model_checks import weights_hash
from lorakit.packed.engine import train_pack
from lorakit.reference.sft import train_sft

LIMIT = 1e-5  # nats, single precision, ten steps; seen: 2e-6 and less
SPLITS = data()


def tokenizer():
    vocabulary = {"<pad>": 0} | {f"t{i}": i for i in range(1, VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t1")),
                                   pad_token="<pad>", eos_token="t2")


@pytest.mark.parametrize("fields", [
    {},
    {"rank": 8, "lora": {"targets": "attention", "alpha": 8.0}, "weight_decay": 0.1, "learning_rate": 1e-2},
    {"lora": {"train_a": False, "init_a_scale": 2.0}, "max_grad_norm": 0.05},
    {"lora": {"learning_rate_b_ratio": 16.0}, "learning_rate": 3e-4, "weight_decay": 0.1},
    {"accumulation": 3, "batch_size": 2, "seed": 3},
    {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-4},
    {"rank": None, "weight_decay": 0.3, "learning_rate": 1e-3},
    {"rank": None, "accumulation": 2, "max_grad_norm": 0.5, "seed": 3, "learning_rate": 1e-3},
], ids=str)
def test_trl_and_the_packed_engine_agree(fields):
    run = spec(**{"steps": 10, **fields})
    model = tiny()
    before = weights_hash(model.state_dict())
    found = train_sft(run, model, tokenizer(), SPLITS, probes=[on_validation])
    assert weights_hash(model.state_dict()) == before, "a copy of the base is trained"
    expected = train_pack([run], tiny(), SPLITS, probes=[on_validation])[0]
    assert found.curve["tokens"] == expected.curve["tokens"]
    assert found.tokens == expected.tokens
    assert largest_difference(found.curve, expected.curve) <= LIMIT
    assert found.curve["train_loss"][0] - found.curve["train_loss"][-1] > 0.01
    assert found.status == expected.status == "ok"
    shared = found.metrics.keys() & expected.metrics.keys()
    assert shared == found.metrics.keys()
    for name in shared:
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-4), name


@pytest.mark.parametrize("rank", [4, None])
def test_weights_are_returned_in_the_engines_form_and_checkpointing_changes_no_number(rank):
    run = spec(steps=3, rank=rank, learning_rate=1e-3)
    found = train_sft(run, tiny(), tokenizer(), SPLITS, keep_weights=True, trl_defaults=True)
    expected = train_pack([run], tiny(), SPLITS, keep_weights=True)[0]
    assert largest_difference(found.curve, expected.curve) <= LIMIT
    assert found.weights.keys() == expected.weights.keys()
    for name, parts in expected.weights.items():
        for mine, theirs in zip(found.weights[name], parts, strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-4), name


def test_a_run_that_diverges_is_a_result():
    result = train_sft(spec(steps=4, rank=None, learning_rate=1e30), tiny(), tokenizer(), SPLITS)
    assert result.status == "diverged"
    assert result.curve["step"] == [1, 2, 3, 4]
    assert not math.isfinite(result.curve["validation_loss"][-1])


@pytest.mark.filterwarnings("ignore::lorakit.adapters.peft_layers.TiedHeadWarning")
def test_an_adapter_on_the_head_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"adapt the head.*engine='packed'"):
        train_sft(spec(lora={"targets": "all-linear+head"}), tiny(), tokenizer(), SPLITS)


def test_rows_longer_than_max_length_are_refused_not_cut():
    with pytest.raises(ValueError, match="16 tokens, max_length is 15"):
        train_sft(spec(max_length=15), tiny(), tokenizer(), SPLITS)


def test_a_tracker_that_is_not_there_is_refused_before_training(monkeypatch):
    with pytest.raises(ValueError, match=r"report_to='wanbd'.*trackio"):
        train_sft(spec(), tiny(), tokenizer(), SPLITS, report_to="wanbd")
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"report_to='trackio'.*report_to='none'"):
        train_sft(spec(), tiny(), tokenizer(), SPLITS, report_to="trackio")


def test_a_tracker_gets_the_losses_and_changes_none(tmp_path, monkeypatch):
    logged: list[dict] = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            logged.append(logs)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    run = spec(steps=3)
    result = train_sft(run, tiny(), tokenizer(), SPLITS, report_to="trackio", output_dir=tmp_path)
    assert [row["validation_loss"] for row in logged if "validation_loss" in row] == result.curve["validation_loss"]
    assert len([row for row in logged if "loss" in row]) == 3
    assert result.curve == train_sft(run, tiny(), tokenizer(), SPLITS).curve
    assert "report_to" not in run.to_json()
