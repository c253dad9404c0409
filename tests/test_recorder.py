"""Specs in PEFT's and TRL's words, and records of one's own trainers: the same curves as lorakit's TRL arm."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig, get_peft_model
from trl import GRPOTrainer, SFTConfig, SFTTrainer

import lorakit as lk
from lorakit.adapters.peft_layers import adapted_layers, attach
from lorakit.data.datasets import load_dataset
from lorakit.data.rl_tasks import load_task
from lorakit.data.tokens import order, tokenize
from lorakit.records import Store
from lorakit.reference.grpo import train_grpo
from lorakit.reference.sft import _rows, train_sft
from lorakit.rewards import load_rewards

SPEC = lk.SFTSpec(model="tiny-w32-s0", dataset="reworded-skills", learning_rate=3e-3, steps=6, batch_size=4,
                  evaluations=4, evaluation_tokens=64, lora=lk.LoRASpec(rank=4), max_grad_norm=0.5)
COMMON = {"evaluations": 4, "evaluation_tokens": 64}


@pytest.fixture(autouse=True)
def quiet():
    """TRL, transformers and datasets warn of what these tests are not about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def base():
    return lk.load_model("tiny-w32-s0")


def adapted(spec, model):
    torch.manual_seed(spec.seed)
    return get_peft_model(model, lk.peft_config(spec, model))


def trained(tmp_path, base, recorder, spec=SPEC, model=None, **options):
    """The rows of the spec, in its order, trained as a user would."""
    splits = tokenize(load_dataset(spec.dataset), base[1], spec.max_length)
    config = lk.trl_config(spec, str(tmp_path / "out"), save_strategy="no", disable_tqdm=True, **options)
    trainer = SFTTrainer(model=model or adapted(spec, base[0]), args=config, train_dataset=_rows(spec, splits["train"]),
                         processing_class=base[1], callbacks=[recorder])
    trainer.train()
    return splits


@pytest.mark.parametrize("lora", [lk.LoRASpec(rank=2), lk.LoRASpec(rank=3, alpha=8, targets="attention"),
                                  lk.LoRASpec(targets=("q_proj", "down_proj"))], ids=lambda lora: str(lora.targets))
def test_pefts_config_adapts_the_same_layers_at_the_same_scale(lora, base):
    mine = adapted(replace(SPEC, lora=lora), base[0])
    ours = attach(lk.load_model("tiny-w32-s0")[0], lora, SPEC.seed)
    wanted = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    found = {name: p for name, p in mine.named_parameters() if p.requires_grad}
    assert {name: p.tolist() for name, p in found.items()} == {name: p.tolist() for name, p in wanted.items()}
    for name, layer in adapted_layers(mine).items():
        assert layer.scaling == adapted_layers(ours)[name].scaling == {"default": lora.scale}


def test_what_the_configurations_cannot_say_is_refused(base):
    with pytest.raises(ValueError, match="no peft_config"):
        lk.peft_config(replace(SPEC, lora=None), base[0])
    with pytest.raises(ValueError, match=r"cannot say train_a=False: leave it out, or train with lorakit\.run"):
        lk.peft_config(lk.LoRASpec(train_a=False))
    with pytest.raises(ValueError, match=r"cannot say learning_rate_b_ratio=4\.0"):
        lk.trl_config(replace(SPEC, lora=lk.LoRASpec(learning_rate_b_ratio=4)))
    with pytest.raises(ValueError, match="float32 masters"):
        lk.trl_config(replace(SPEC, lora=None, dtype="bfloat16"))


def test_ones_own_sft_trainer_takes_the_steps_of_the_reference_arm_and_leaves_its_record(tmp_path, base):
    recorder = lk.Recorder(tmp_path / "runs", dataset=SPEC.dataset, model=SPEC.model, **COMMON)
    splits = trained(tmp_path, base, recorder, logging_steps=2)
    record, wanted = recorder.record, train_sft(SPEC, *lk.load_model("tiny-w32-s0"), splits)
    assert record.id == SPEC.id  # nothing is unsaid
    assert record.provenance["recorder"]["unsaid"] == {}
    assert record.curve.keys() == wanted.curve.keys()
    for name, column in wanted.curve.items():
        assert record.curve[name] == pytest.approx(column, rel=1e-4), name
    for name, value in record.metrics.items():
        assert value == pytest.approx(wanted.metrics[name], rel=1e-5), name
    assert Store(tmp_path / "runs").records(None, "trainer") == [record]
    assert record.provenance["engine"] == "trl"
    assert Store(tmp_path / "runs").missing([SPEC]) == [SPEC], "lorakit has not trained it"
    frame = lk.tidy([record])
    assert list(frame["step"]) == [1, 2, 3, 6]
    assert set(frame["arm"]) == {"rank 4"}


def test_settings_that_no_spec_has_make_another_run_and_are_listed(tmp_path, base):
    first = lk.Recorder(tmp_path / "runs", dataset=SPEC.dataset, **COMMON)
    trained(tmp_path, base, first, label_smoothing_factor=0.0)
    other = lk.Recorder(tmp_path / "runs", dataset=SPEC.dataset, **COMMON)
    trained(tmp_path, lk.load_model("tiny-w32-s0"), other, neftune_noise_alpha=5.0)
    assert other.record.provenance["recorder"]["unsaid"] == {"neftune_noise_alpha": 5.0}
    assert first.record.spec["model"] == other.record.spec["model"]
    assert first.record.spec["model"].startswith("own@"), "the name of a base that nobody named is its weights' hash"
    assert first.record.id != other.record.id
    assert other.record.spec["dataset"].startswith("reworded-skills@")


def test_a_plain_script_is_recorded_with_its_own_evaluation_and_what_is_not_known(tmp_path, base):
    rows = [{"prompt": f"{a} and {b} make ", "completion": f"{a + b}"} for a in range(4) for b in range(8)]
    args = SFTConfig(output_dir=str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2,
                     eval_strategy="steps", eval_steps=100, save_strategy="no", use_cpu=True, bf16=False,
                     report_to="none", disable_tqdm=True, lr_scheduler_type="linear", warmup_steps=0.25)
    recorder = lk.Recorder(tmp_path / "runs", evaluations=3)
    SFTTrainer(model=base[0], args=args, train_dataset=Dataset.from_list(rows[8:]),
               eval_dataset={"validation": Dataset.from_list(rows[:4]), "test": Dataset.from_list(rows[4:8])},
               peft_config=LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], lora_dropout=0.1),
               processing_class=base[1], callbacks=[recorder]).train()
    record = recorder.record
    spec = lk.SFTSpec.from_json(record.spec)
    assert (spec.steps, spec.batch_size, spec.learning_rate, spec.max_grad_norm) == (4, 4, 1e-2, 1.0)
    assert (spec.lora.rank, spec.lora.alpha, spec.lora.targets) == (2, 4.0, ("q_proj",))
    assert (spec.schedule, spec.warmup, spec.lora.dropout) == ("linear", 0.25, 0.1)
    assert record.provenance["recorder"]["unsaid"] == {}
    assert record.curve["step"] == [1, 2, 4]
    assert all(value > 0 for name in ("train_loss", "validation_loss", "test_loss") for value in record.curve[name])
    assert record.metrics["validation_loss"] != record.metrics["test_loss"]
    assert record.spec["dataset"].startswith("own@")
    assert "losses on validation and test data but as means over batches" in record.provenance["recorder"]["unknown"]
    assert len(lk.tidy([record])) == 3


def test_full_fine_tuning_and_frozen_layers_are_told_apart_and_other_adapters_refused(tmp_path, base):
    full = replace(SPEC, lora=None, steps=2)
    recorder = lk.Recorder(tmp_path / "runs", dataset=SPEC.dataset, model=SPEC.model, **COMMON)
    trained(tmp_path, base, recorder, full, base[0])
    assert recorder.record.id == full.id
    base[0].get_input_embeddings().requires_grad_(False)
    trained(tmp_path, base, recorder, full, base[0])
    assert "trained" in recorder.record.provenance["recorder"]["unsaid"]
    with pytest.raises(ValueError, match="carries PEFT's IA3Config"):
        trained(tmp_path, base, recorder, full, get_peft_model(lk.load_model("tiny-w32-s0")[0], IA3Config(
            target_modules=["q_proj"], feedforward_modules=[])))


def test_ones_own_grpo_trainer_takes_the_steps_of_the_reference_arm_and_leaves_its_record(tmp_path):
    spec = lk.GRPOSpec(model="tiny", task="copy", learning_rate=3e-3, steps=4, prompts_per_step=2, group_size=4,
                       evaluations=3, evaluation_problems=8, lora=lk.LoRASpec(rank=4), reward="exact")
    (model, tokenizer), task = lk.load_model(spec.model), load_task(spec.task)
    wanted = train_grpo(spec, model, tokenizer, task)
    problems = task.splits["train"]
    rows = [problems[i] for i in order(spec.seed, len(problems), spec.steps * spec.prompts_per_step).tolist()]
    policy = adapted(spec, model)
    policy.generation_config.eos_token_id = [10, tokenizer.eos_token_id]  # the task's completions end with a line
    recorder = lk.Recorder(tmp_path / "runs", task=spec.task, reward="exact", model=spec.model, evaluations=3,
                           evaluation_problems=8)
    config = lk.trl_config(spec, str(tmp_path / "out"), save_strategy="no", report_to="none", disable_tqdm=True)
    GRPOTrainer(model=policy, reward_funcs=list(load_rewards("exact")), args=config,
                train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[recorder]).train()
    record = recorder.record
    known = {name: column for name, column in record.curve.items() if None not in column}
    assert known.keys() >= {"step", "episodes", "tokens", "reward", "length", "truncated", "zero_spread",
                            "validation_accuracy", "test_accuracy"}
    for name, column in known.items():
        assert column == pytest.approx(wanted.curve[name], rel=1e-4), name
    assert record.metrics["delta_norm"] == pytest.approx(wanted.metrics["delta_norm"], rel=1e-4)
    assert max(record.curve["reward"]) > 0
    assert record.id == spec.id
    assert len(lk.tidy([record])) == 3
