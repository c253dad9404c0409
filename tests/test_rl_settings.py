"""A spec of RL in the settings of other trainers: what they take is said in their names, what they lack is named."""

import ast
import json
import shlex
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

import lorakit as lk
from lorakit.cli import main
from lorakit.grpo_spec import GRPO_OBJECTIVE
from lorakit.theory.rl_settings import NO_BOUND

SPEC = lk.GRPOSpec(model="owner/name@" + "a" * 40, task="t@1", learning_rate=4e-5, prompts_per_step=4, group_size=8,
                   steps=30, lora=lk.LoRASpec(rank=8, targets="attention"))


def verl(spec):
    """The settings of its command by name, as a shell splits them."""
    words = shlex.split(lk.translate(spec, to="verl").text.replace("\\\n", ""))
    assert words[:3] == ["python3", "-m", "verl.trainer.main_ppo"]
    return dict(word.split("=", 1) for word in words[3:])


def named(spec, to):
    return "\n".join(lk.translate(spec, to=to).lost)


def test_verl_takes_batch_objective_and_adapter():
    said, actor, model = verl(SPEC), "actor_rollout_ref.actor", "actor_rollout_ref.model"
    assert (said["data.train_batch_size"], said["actor_rollout_ref.rollout.n"], said[f"{actor}.ppo_mini_batch_size"]) \
        == ("4", "8", "4"), "verl counts prompts"
    assert (said[f"{model}.path"], said[f"{model}.lora_rank"], said[f"{model}.lora_alpha"]) == ("owner/name", "8", "32")
    assert said[f"{model}.target_modules"] == "[q_proj,k_proj,v_proj,o_proj]"
    assert (said[f"{actor}.loss_agg_mode"], said[f"{actor}.loss_scale_factor"]) == ("seq-mean-token-sum-norm", "16")
    assert said["algorithm.norm_adv_by_std_in_grpo"] == "False"
    assert (said[f"{actor}.clip_ratio_low"], float(said[f"{actor}.clip_ratio_high"])) == ("1", NO_BOUND)
    assert said["algorithm.rollout_correction.rollout_is"] == "token"
    assert float(said["algorithm.rollout_correction.rollout_is_threshold"]) == NO_BOUND
    assert (said["trainer.total_training_steps"], said[f"{actor}.use_kl_loss"]) == ("30", "False")
    assert f"{actor}.optim.override_optimizer_config" not in said


def test_verl_takes_grpos_objective_and_a_mask_as_bounds_that_are_no_number():
    spec = lk.GRPOSpec(**GRPO_OBJECTIVE, learning_rate=1e-4, importance_sampling="sequence_mask", importance_cap=3,
                       kl_coefficient=0.1, iterations=2, warmup=5, epsilon=1e-6,
                       lora={"rank": 4, "rslora": True}, micro_batch=8)
    said, actor = verl(spec), "actor_rollout_ref.actor"
    assert said["algorithm.rollout_correction.rollout_is"] == "sequence"
    low, _, high = said["algorithm.rollout_correction.rollout_is_threshold"].partition("_")
    assert float(low) < 1e-6
    assert float(high) == 3
    with pytest.raises(ValueError, match="could not convert"):  # verl takes what Python reads as a number for a cap
        float(said["algorithm.rollout_correction.rollout_is_threshold"])
    assert (said[f"{actor}.clip_ratio_low"], said[f"{actor}.loss_agg_mode"]) == ("0.2", "seq-mean-token-mean")
    assert (said[f"{actor}.ppo_epochs"], said["trainer.total_training_steps"]) == ("2", "60")
    assert said[f"{actor}.optim.lr_warmup_steps"] == "3", "in batches, of which each gives two steps"
    assert "a rate that moves at every step" in named(spec, "verl")
    assert said[f"{actor}.optim.override_optimizer_config"] == "{eps:1e-06}"
    assert said["actor_rollout_ref.model.lora_alpha"] == "64", "alpha / rank gives what alpha / √rank gave"
    assert said[f"{actor}.ppo_micro_batch_size_per_gpu"] == "8"
    full = verl(lk.GRPOSpec(learning_rate=1e-5, lora=None))
    assert "actor_rollout_ref.model.lora_rank" not in full


@pytest.mark.parametrize("spec", [SPEC, lk.GRPOSpec(
    learning_rate=1e-5, lora=None, dtype="bfloat16", clip=0.2, clip_high=0.28, schedule="cosine", warmup=3,
    micro_batch=16)], ids=["lora", "full"])
def test_async_grpos_python_names_fields_that_exist(spec):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    source = Path(find_spec("trl").origin).parent / "experimental" / "async_grpo" / "async_grpo_config.py"
    own = {node.target.id for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.AnnAssign)}
    said = lk.translate(spec, to="async-grpo")
    calls = {node.func.id: {k.arg: ast.unparse(k.value) for k in node.keywords}
             for node in ast.walk(ast.parse(said.text)) if isinstance(node, ast.Call) and node.keywords}
    assert calls["AsyncGRPOConfig"].keys() <= own | {field.name for field in fields(transformers.TrainingArguments)}
    sizes = calls["AsyncGRPOConfig"]
    assert int(sizes["per_device_train_batch_size"]) * int(sizes["gradient_accumulation_steps"]) == \
        spec.episodes_per_step
    assert sizes["epsilon"] == ("float('inf')" if spec.clip is None else "0.2")
    assert ("LoraConfig" in calls) == (spec.lora is not None)
    assert calls.get("LoraConfig", {}).keys() <= {field.name for field in fields(peft.LoraConfig)}
    assert "--enable-lora and --max-lora-rank 8" in said.text or spec.lora is None


def test_what_cannot_be_carried_over_is_named():
    odd = lk.GRPOSpec(learning_rate=1e-5, scale_rewards="batch", schedule="linear", kl_coefficient=0.1, iterations=2,
                      importance_sampling="sequence_truncate", importance_cap=2, mask_truncated=True, dtype="bfloat16",
                      lora=lk.LoRASpec(targets="mlp+head", init_a_scale=2, learning_rate_b_ratio=4))
    both = ("task='copy@", "reward=None", "mask_truncated=True", "targets='mlp+head'", "init_a_scale=2",
            "learning_rate_b_ratio=4", "scale_rewards='batch'")
    for to, own in (("verl", ("schedule='linear'", "use_vllm=False", "computes in bfloat16")),
                    ("async-grpo", ("loss='dr_grpo'", "iterations=2", "kl_coefficient=0.1", "one update old",
                                    "importance_sampling='sequence_truncate', importance_cap=2"))):
        assert str(lk.translate(odd, to=to)).startswith("# not carried over: task='copy@")
        for words in (*both, *own):
            assert words in named(odd, to)
    assert "kl_coefficient" not in named(odd, "verl")
    assert "moves at every step" not in named(SPEC, "verl")
    assert "schedule" not in named(odd, "async-grpo")
    assert "revision " + "a" * 40 in named(SPEC, "verl")
    assert "importance_sampling" not in named(SPEC, "async-grpo"), "its ratio is the spec's own"
    assert "dora=True" in named(lk.GRPOSpec(learning_rate=1e-5, lora={"dora": True}), "verl")


def test_other_trainers_and_supervised_runs_are_refused():
    with pytest.raises(ValueError, match=r"to='peft'; allowed for a spec: verl, async-grpo"):
        lk.translate(SPEC, to="peft")
    with pytest.raises(ValueError, match=r"verl trains by reward: give a GRPOSpec; lorakit\.trl_config"):
        lk.translate(lk.SFTSpec(learning_rate=1e-4), to="verl")


def test_the_command_takes_a_file_of_specs(tmp_path, capsys):
    (tmp_path / "runs.json").write_text(json.dumps(SPEC.to_json()))
    assert main(["translate", str(tmp_path / "runs.json"), "--to", "verl"]) == 0
    assert "\npython3 -m verl.trainer.main_ppo " in capsys.readouterr().out
    assert main(["translate", "unsloth", "--to", "peft"]) == 1
    assert "needs --rank and --learning-rate" in capsys.readouterr().err
