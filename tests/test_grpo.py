"""The reference arm says every setting to TRL, and gives the packed engine's run when both draw the same numbers."""

import importlib.util
from dataclasses import fields, replace

import pytest
import torch
from test_packed_grpo import plain_log_probs
from toy_rl import even_words, keep_float64, model, spec, task, words
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from lorakit.bases.model_checks import FrozenWeightsError
from lorakit.grpo_spec import GRPO_OBJECTIVE
from lorakit.packed.grpo import train_grpo_pack
from lorakit.reference import grpo as module
from lorakit.reference.grpo import grpo_options, train_grpo
from lorakit.reference.vllm import loading, require_vllm
from lorakit.rl.rollout import sample, uniforms
from lorakit.rl.stops import Stops

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")
# What GRPOConfig has besides and what cannot change a number of these runs.
NEUTRAL = {"model_init_kwargs", "trust_remote_code", "remove_unused_columns", "num_generations_eval",
           "pad_to_multiple_of", "generation_batch_size", "chat_template_kwargs", "vllm_model_impl",
           "vllm_structured_outputs_regex", "vllm_max_model_length", "vllm_server_base_url", "vllm_server_host",
           "vllm_server_port", "vllm_server_timeout", "vllm_group_port", "sapo_temperature_neg",
           "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg",
           "ref_model_mixup_alpha", "ref_model_sync_steps", "entropy_coef_min", "entropy_coef_max",
           "entropy_coef_delta", "entropy_target", "max_tool_calling_iterations", "log_completions", "log_multimodal",
           "num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo", "use_transformers_paged",
           "transformers_continuous_batching_config", "vllm_importance_sampling_cap", "cast_lm_head_to_fp32",
           "ds3_gather_for_generation"}


@pytest.mark.parametrize("fields_", [
    {}, GRPO_OBJECTIVE, {"use_vllm": True, "rank": None}, {"importance_sampling": "none", "clip": 0.2},
    {"use_vllm": True, "merge_to_sample": True, "importance_sampling": "sequence_mask", "importance_cap": 3.0},
], ids=str)
def test_every_setting_that_matters_is_said_to_trl(fields_, tmp_path):
    run = spec(**fields_)
    options = grpo_options(run, str(tmp_path), CPU)
    made = GRPOConfig(**options)
    for name, value in options.items():
        if name not in ("report_to", "output_dir"):
            assert getattr(made, name) == value, f"TRL changed {name}"
    own = {f.name for f in fields(GRPOConfig)} - {f.name for f in fields(TrainingArguments)}
    assert own - NEUTRAL <= options.keys(), f"inherited silently: {sorted(own - NEUTRAL - options.keys())}"
    assert made.generation_batch_size == run.episodes_per_step == made.per_device_train_batch_size
    assert made.use_vllm == run.use_vllm
    told = grpo_options(run, str(tmp_path), CPU, stop=Stops([2, 3]))["generation_kwargs"]
    assert told == ({"stop_token_ids": [2, 3]} if run.use_vllm else None)
    large = grpo_options(replace(run, prompts_per_step=33, group_size=4), str(tmp_path), torch.device("cuda"))
    assert (large["per_device_train_batch_size"], large["gradient_accumulation_steps"]) == (44, 3)


@pytest.mark.parametrize("changed", [
    {}, {"rank": None, "learning_rate": 2e-3, "loss": "dapo"},
    {"iterations": 2, "kl_coefficient": 0.1, **GRPO_OBJECTIVE}, {"scale_rewards": "batch", "max_grad_norm": 0.05},
    {"reward": "two-parts", "format_steps": 3, "reward_weights": (1.0, -0.5)}, {"loss": "dapo", "at_once": 5},
    {"schedule": "cosine", "warmup": 2, "iterations": 2, "lora": {"rslora": True}},
    {"rank": None, "learning_rate": 1e-3, "kl_coefficient": 0.5},  # TRL loads the reference once more, by its path
], ids=str)
def test_a_run_with_the_same_draws_is_the_packed_engines(changed, monkeypatch, two_parts):
    """Same completions by construction: TRL's generate is replaced by our sampler, the rest of the run is TRL's."""
    keep_float64(monkeypatch)
    changed = dict(changed)
    monkeypatch.setitem(module.COMPLETIONS_AT_ONCE, "cpu", changed.pop("at_once", 1024))  # 5 means 4, a third of 12
    run = spec(dtype="float64", steps=6, evaluations=4, seed=3, **changed)
    expected = train_grpo_pack([run], model(torch.float64), words(), task(), keep_weights=True)[0]
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", plain_log_probs)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda self, ids, *_: same_draws(run, self, ids))
    found = train_grpo(run, model(torch.float64), words(), task(), keep_weights=True)
    for name, column in expected.curve.items():
        assert found.curve[name] == pytest.approx(column, rel=1e-6, abs=1e-6, nan_ok=True), name
    assert found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        assert value is None or found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    for name, parts in expected.weights.items():
        for mine, theirs in zip(found.weights[name], parts, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-6), name
    assert expected.metrics["delta_norm"] > 1e-3



def same_draws(run, trainer, prompt_ids):
    """In place of TRL's generate: the packed engine's draws for this run's current batch."""
    inner = trainer.model.get_base_model() if run.lora else trainer.model
    rows = run.episodes_per_step
    draws = uniforms(run.seed, trainer.state.global_step // run.iterations, rows, run.max_completion_length)
    found = sample(inner, prompt_ids[:: run.group_size], run.group_size, run.max_completion_length, [2, 3],
                   torch.full((rows, 1), run.temperature, dtype=torch.float64), draws)
    completions = found.completions()
    return completions, [row[: len(c)] for row, c in zip(found.log_probs.tolist(), completions, strict=True)]


@pytest.mark.parametrize("rank", [4, None])
def test_a_plain_run_keeps_its_books(rank):
    run = spec(rank=rank, steps=3, learning_rate=1e-2)
    network = model()
    before = {name: p.clone() for name, p in network.state_dict().items()}
    result = train_grpo(run, network, words(), task())
    assert all(torch.equal(p, before[name]) for name, p in network.state_dict().items())
    assert result.status == "ok"
    assert result.curve["episodes"][-1] == 3 * 12
    assert result.metrics["sampler_base_gap_first"] < 1e-4 < 1e-3 < result.metrics["sampler_base_gap_last"]
    assert result.metrics["sampler_gap_max"] < 1e-4
    assert result.metrics["base_drift"] == 0


def test_merging_before_sampling_drifts_in_bfloat16_and_is_measured():
    result = train_grpo(spec(dtype="bfloat16", merge_to_sample=True, learning_rate=3e-2), model(torch.bfloat16),
                        words(), task())
    assert result.metrics["base_drift"] > 1e-5


def test_weights_that_change_are_an_error(monkeypatch):
    hashes = iter(["before", "after"])
    monkeypatch.setattr(module, "weights_hash", lambda _: next(hashes))
    with pytest.raises(FrozenWeightsError, match="before before, after after"):
        train_grpo(spec(steps=1, evaluations=2), model(), words(), task())


def test_missing_vllm_and_an_unmerged_adapter_are_clear_errors(monkeypatch):
    run = spec(use_vllm=True)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ModuleNotFoundError, match=r"needs the package vllm.*use_vllm=False"):
            train_grpo(run, model(), words(), task())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(ValueError, match="merge_to_sample=True"):
        require_vllm(run)
    require_vllm(replace(run, merge_to_sample=True))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="a process of its own"), loading(run, CPU):
        pass


@pytest.mark.filterwarnings("ignore::lorakit.adapters.peft_layers.TiedHeadWarning")
def test_an_adapter_on_the_head_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"adapt the head.*engine='packed'"):
        train_grpo(spec(lora={"targets": "all-linear+head"}), model(), words(), task(even_words))
