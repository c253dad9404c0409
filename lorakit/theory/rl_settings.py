"""A run of RL in the settings of trainers for many GPUs: verl's command, the configuration of TRL's AsyncGRPO.

What they know no setting for is named. Read in verl's `verl/trainer/config` and `verl/trainer/ppo/core_algos.py`
(August 2026, FSDP) and in TRL 1.16's `trl/experimental/async_grpo`; no run was made with either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from shlex import quote
from typing import Any

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec
from lorakit.theory.shown import InWords

GROUPS = {"attention": ["q_proj", "k_proj", "v_proj", "o_proj"], "mlp": ["gate_proj", "up_proj", "down_proj"]}
NO_BOUND = 1e9  # for what has to be a number
AGGREGATION = {"dr_grpo": "seq-mean-token-sum-norm", "grpo": "seq-mean-token-mean", "dapo": "token-mean"}


@dataclass(frozen=True)
class Settings(InWords):
    """A run as another trainer's settings.

    Args:
        framework: whose.
        text: to be run or pasted; what is in capitals is yours to fill in.
        lost: what of the spec has no setting there, or another meaning.
    """

    framework: str
    text: str
    lost: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f"# not carried over: {what}\n" for what in self.lost) + self.text


def settings(spec: Any, to: str) -> Settings:
    """A spec's settings for `verl` or `async-grpo`.

    Raises:
        ValueError: another trainer, or a supervised run.
    """
    if to not in TRAINERS:
        raise ValueError(f"to={to!r}; allowed for a spec: {', '.join(TRAINERS)}")
    if not isinstance(spec, GRPOSpec):
        hint = "; lorakit.trl_config says a supervised run in TRL's words" if isinstance(spec, SFTSpec) else ""
        raise ValueError(f"{to} trains by reward: give a GRPOSpec{hint}")
    return TRAINERS[to](spec)


def verl(spec: GRPOSpec) -> Settings:
    """The command that starts verl, on one GPU."""
    lora, cap = spec.lora, NO_BOUND if spec.importance_cap is None else spec.importance_cap
    level, _, how = spec.importance_sampling.partition("_")
    actor, rollout, model = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
    fsdp, rows = f"{actor}.fsdp_config", spec.micro_batch
    fields: dict[str, Any] = {
        "algorithm.adv_estimator": "grpo", "algorithm.norm_adv_by_std_in_grpo": spec.scale_rewards == "group",
        "algorithm.use_kl_in_reward": False,
        "algorithm.rollout_correction.rollout_is": None if level == "none" else level,
        # two bounds, of which the lower lets all pass
        "algorithm.rollout_correction.rollout_is_threshold":
            f"0.000000001_{float(cap)}" if how == "mask" and cap < NO_BOUND else cap,
        "data.train_files": "TRAIN.parquet", "data.val_files": "TEST.parquet", "data.seed": spec.seed,
        "data.train_batch_size": spec.prompts_per_step, "data.max_response_length": spec.max_completion_length,
        "data.max_prompt_length": "LONGEST_PROMPT",
        "reward.custom_reward_function.path": "REWARD.py", "reward.custom_reward_function.name": "compute_score",
        f"{model}.path": spec.model.partition("@")[0] if "/" in spec.model else "FOLDER",
        f"{model}.enable_gradient_checkpointing": spec.recompute,
        **({} if lora is None else {
            f"{model}.lora_rank": lora.rank, f"{model}.lora_alpha": _number(_alpha(lora)),
            f"{model}.target_modules": _listed(_modules(lora)), f"{model}.lora.merge": spec.merge_to_sample,
            f"{rollout}.load_format": "safetensors"}),
        f"{fsdp}.model_dtype": "fp32", f"{fsdp}.dtype": spec.dtype, f"{fsdp}.seed": spec.seed,
        f"{actor}.optim.lr": spec.learning_rate,
        f"{actor}.optim.betas": f"[{_number(spec.beta1)},{_number(spec.beta2)}]",
        f"{actor}.optim.weight_decay": spec.weight_decay,
        # its schedule moves once a batch, after all of its iterations
        f"{actor}.optim.lr_warmup_steps": -(-spec.warmup_steps // spec.iterations),
        f"{actor}.optim.lr_scheduler_type": "constant" if spec.schedule == "linear" else spec.schedule,
        **({} if spec.epsilon == 1e-8 else {f"{actor}.optim.override_optimizer_config": f"{{eps:{spec.epsilon}}}"}),
        f"{actor}.optim.clip_grad": spec.max_grad_norm or NO_BOUND,
        f"{actor}.grad_clip": spec.max_grad_norm or NO_BOUND,
        f"{actor}.ppo_mini_batch_size": spec.prompts_per_step, f"{actor}.ppo_epochs": spec.iterations,
        f"{actor}.clip_ratio_low": 1.0 if spec.clip is None else spec.clip,  # a ratio is never below 0
        f"{actor}.clip_ratio_high": spec.clip_high or spec.clip or NO_BOUND, f"{actor}.clip_ratio_c": NO_BOUND,
        f"{actor}.loss_agg_mode": AGGREGATION[spec.loss],
        **({f"{actor}.loss_scale_factor": spec.max_completion_length} if spec.loss == "dr_grpo" else {}),
        f"{actor}.entropy_coeff": 0, f"{actor}.use_kl_loss": spec.kl_coefficient > 0,
        f"{actor}.kl_loss_coef": spec.kl_coefficient, f"{actor}.kl_loss_type": "low_var_kl",
        **({f"{actor}.use_dynamic_bsz": True} if rows is None else {
            f"{actor}.ppo_micro_batch_size_per_gpu": rows, f"{rollout}.log_prob_micro_batch_size_per_gpu": rows,
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": rows}),
        f"{rollout}.name": "vllm", f"{rollout}.n": spec.group_size, f"{rollout}.temperature": spec.temperature,
        f"{rollout}.top_p": 1.0, f"{rollout}.top_k": -1, f"{rollout}.dtype": spec.dtype, f"{rollout}.seed": spec.seed,
        f"{rollout}.calculate_log_probs": True, f"{rollout}.tensor_model_parallel_size": 1,
        "trainer.total_training_steps": -(-spec.steps // spec.iterations), "trainer.n_gpus_per_node": 1,
        "trainer.nnodes": 1}
    lost = [*_lost_of_both(spec), *(lora.only_peft if lora else ()), *_named({
        f"the revision {spec.model.partition('@')[2]} (verl takes a path: download it first)": "/" in spec.model,
        f"schedule={spec.schedule!r} (constant or cosine)": spec.schedule == "linear",
        "scale_rewards='batch' (a group's deviation or none)": spec.scale_rewards == "batch",
        "scale_rewards adds 1e-6 to the deviation, and not 1e-4": spec.scale_rewards == "group",
        "the base in bfloat16 (verl keeps float32 weights and computes in bfloat16)": spec.dtype == "bfloat16",
        f"steps={spec.steps} (each batch gives {spec.iterations})": spec.steps % spec.iterations != 0,
        f"a rate that moves at every step (verl's moves once a batch, of {spec.iterations})":
            spec.iterations > 1 and (spec.warmup_steps > 0 or spec.schedule != "constant"),
        "use_vllm=False (vLLM samples)": not spec.use_vllm})]
    words = [quote(f"{name}={_plain(value)}") for name, value in fields.items()]
    return Settings("verl", "python3 -m verl.trainer.main_ppo \\\n    " + " \\\n    ".join(words) + "\n", tuple(lost))


def async_grpo(spec: GRPOSpec) -> Settings:
    """Python that makes TRL's `AsyncGRPOConfig`, its `LoraConfig` and the trainer."""
    lora = spec.lora
    rows = spec.micro_batch or spec.episodes_per_step
    fields: dict[str, Any] = {
        "output_dir": "OUTPUT", "seed": spec.seed, "max_steps": spec.steps, "dtype": spec.dtype, "bf16": False,
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": spec.episodes_per_step // rows,
        "token_budget": 0, "num_generations": spec.group_size, "max_completion_length": spec.max_completion_length,
        "temperature": spec.temperature, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
        "epsilon": math.inf if spec.clip is None else spec.clip, "epsilon_high": spec.clip_high,
        "max_staleness": 1, "weight_sync_steps": 1, "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if spec.schedule == "constant" else spec.schedule,
        "warmup_steps": spec.warmup_steps, "optim": "adamw_torch", "adam_beta1": spec.beta1, "adam_beta2": spec.beta2,
        "adam_epsilon": spec.epsilon, "weight_decay": spec.weight_decay, "max_grad_norm": spec.max_grad_norm or 0.0,
        "gradient_checkpointing": spec.recompute}
    kind = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": _modules(lora), "use_rslora": lora.rslora,
            "lora_dropout": lora.dropout, "use_dora": lora.dora, "task_type": "CAUSAL_LM",
            **({"init_lora_weights": "pissa"} if lora.pissa else {})} if lora else {}
    name, _, pin = spec.model.partition("@")
    base = f"{name!r}, revision={pin!r}" if "/" in name else "'FOLDER'"
    text = ("from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer\n"
            + ("from peft import LoraConfig\n" if lora else "") + f"\nargs = {_call('AsyncGRPOConfig', fields)}\n"
            + (f"peft_config = {_call('LoraConfig', kind)}\n" if lora else "")
            + f"# trainer = AsyncGRPOTrainer(model=MODEL, args=args, reward_funcs=REWARD, train_dataset=PROBLEMS"
            f"{', peft_config=peft_config' if lora else ''})\n# MODEL: {base}. vLLM serves it with the same --dtype"
            + ("" if lora is None else ", without --enable-lora: merged weights are sent" if spec.merge_to_sample else
               f", --enable-lora and --max-lora-rank {lora.rank}, or the next that it takes: the adapter alone is sent")
            + "\n")
    lost = [*_lost_of_both(spec), *_named({
        "one policy for sampling and learning (a completion may be one update old)": True,
        f"loss={spec.loss!r} (the mean over the tokens of each pass)":
            spec.loss != "dapo" or rows < spec.episodes_per_step,
        f"scale_rewards={spec.scale_rewards!r} (always a group's deviation)": spec.scale_rewards != "group",
        "scale_rewards adds 1e-8 to the deviation of the group as a population, and not 1e-4 to that of a sample":
            spec.scale_rewards == "group",
        f"importance_sampling={spec.importance_sampling!r}, importance_cap={spec.importance_cap} (the ratio of learner "
        "to sampler itself, by token, and clip bounds it)":
            (spec.importance_sampling, spec.importance_cap) != ("token_truncate", None),
        f"iterations={spec.iterations} (each batch is used once)": spec.iterations > 1,
        f"kl_coefficient={spec.kl_coefficient:g} (there is no reference)": spec.kl_coefficient > 0})]
    return Settings("async-grpo", text, tuple(lost))


TRAINERS = {"verl": verl, "async-grpo": async_grpo}


def _lost_of_both(spec: GRPOSpec) -> list[str]:
    lora = spec.lora or LoRASpec()
    targets = lora.targets if isinstance(lora.targets, str) else ""
    return _named({
        f"task={spec.task!r}: its problems, their order, and what ends a completion (there, the tokenizer's end)": True,
        f"reward={spec.reward!r}: a function of your own": True,
        "reward_weights (weigh inside that function)": spec.reward_weights is not None,
        f"format_steps={spec.format_steps}": spec.format_steps > 0,
        "mask_truncated=True": spec.mask_truncated,
        "evaluations: test problems answered greedily, before and after": True,
        "full_targets='all-linear' (all weights are trained)": spec.full_targets != "all",
        f"targets={targets!r}: the head or experts": "head" in targets or "+experts" in targets,
        "targets='experts' (there, all linear layers are adapted)": targets == "experts",
        "tf32=True": spec.tf32,
        "train_a=False": not lora.train_a, "shared_outer=True": lora.shared_outer,
        f"init_a_scale={lora.init_a_scale:g}": lora.init_a_scale != 1,
        f"learning_rate_b_ratio={lora.learning_rate_b_ratio:g} (an optimizer of your own)":
            lora.learning_rate_b_ratio != 1})


def _named(asked: dict[str, bool]) -> list[str]:
    return [what for what, found in asked.items() if found]


def _alpha(lora: LoRASpec) -> float:
    """The alpha that gives the same scale where it is divided by the rank."""
    return lora.scale * lora.rank


def _modules(lora: LoRASpec) -> str | list[str]:
    """The targets as PEFT takes them, with the names of Llama's and Qwen's layers; the head and experts left out."""
    if not isinstance(lora.targets, str):
        return list(lora.targets)
    first = lora.targets.partition("+")[0]
    return GROUPS.get(first, "all-linear")


def _listed(modules: str | list[str]) -> str:
    return modules if isinstance(modules, str) else f"[{','.join(modules)}]"


def _plain(value: Any) -> str:
    """A value as Hydra reads it in a shell."""
    return "null" if value is None else _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _call(name: str, fields: dict[str, Any]) -> str:
    words = {field: "float('inf')" if value == math.inf else repr(value) for field, value in fields.items()
             if value is not None}
    return f"{name}(\n" + "".join(f"    {field}={value},\n" for field, value in words.items()) + ")"
