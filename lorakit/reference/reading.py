"""Which spec a trainer of one's own follows, read off its arguments, adapter and rows; and what no spec can say."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import nn

from lorakit.adapters.peft_layers import LINEAR, adapted_layers, body_linear_names, component_of
from lorakit.bases.model_checks import weights_hash
from lorakit.grpo_spec import CORRECTIONS, LOSSES, GRPOSpec
from lorakit.local_models import CheckpointError, name_checkpoint
from lorakit.reference.grpo import grpo_options
from lorakit.reference.sft import sft_options
from lorakit.schedules import SCHEDULES
from lorakit.specs import LoRASpec, SFTSpec

# Fields of TRL's configurations that change no number, or that the spec or the hash of the rows speaks for.
CIRCUMSTANCES = re.compile(
    "output_dir|.*eval.*|log(ging)?_.*|save_.*|(push_to_)?hub.*|report_to|run_name|project|trackio_.*|disable_tqdm|"
    "dataloader_.*|use_cpu|ddp_.*|fsdp.*|deepspeed|parallelism_config|accelerator_config|local_rank|debug|"
    "gradient_checkpointing.*|torch_compile.*|torch_empty_cache.*|activation_offloading|use_cache|num_train_epochs|"
    "resume.*|restore.*|load_best.*|metric_for.*|greater.*|do_.*|include_.*|skip_.*|prediction_.*|ignore_data_skip|"
    "data_seed|shuffle_dataset|train_sampling_strategy|length_column_name|label_names|remove_unused.*|dataset_.*|"
    "max_length|truncation_mode|chat_template.*|eos_token|pad_to.*|packing_strategy|model_init_kwargs|"
    "trust_remote_code|per_device_.*|gradient_accumulation_steps|generation_batch_size|steps_per_generation|num_.*|"
    "reward_weights|auto_find.*|enable_jit.*|tf32|average_tokens.*|project|full_determinism|shuffle.*|ds3_.*|"
    "max_tool.*|use_transformers.*|transformers_continuous.*|cache_implementation|vllm_(mode|server_.*|group_port)")
KNOWN_TYPES = ("float32", "bfloat16", "float64")
OF_PEFT = ("r", "lora_alpha", "target_modules", "base_model_name_or_path", "revision", "inference_mode", "task_type",
           "peft_type", "peft_version", "auto_mapping", "exclude_modules")


def model_name(model: Any) -> str:
    """The name of a trainer's base: the hub's with its commit, a folder's content, or `own@` its weights' hash."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    place, commit = str(getattr(base.config, "_name_or_path", "") or ""), getattr(base.config, "_commit_hash", None)
    if place and Path(place).is_dir():
        try:
            return name_checkpoint(Path(place))
        except CheckpointError:
            pass
    elif commit and re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        return f"{place}@{commit}"
    return "own@" + weights_hash({name.replace(".base_layer", ""): tensor for name, tensor in base.state_dict().items()
                                  if ".lora_" not in name})


def adapter_of(model: Any, rl: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec's fields `lora` and `full_targets`, and what of the adapter they cannot say.

    Args:
        model: of a trainer.
        rl: whether the spec is a GRPOSpec, which has no dropout, and may lack PiSSA.

    Raises:
        ValueError: an adapter of PEFT that is no LoRA.
    """
    if not isinstance(model, PeftModel):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        linear = {f"{name}.{part}" for name in body_linear_names(model)
                  for part, _ in model.get_submodule(name).named_parameters()}
        unsaid = {} if trained in (linear, set(dict(model.named_parameters()))) else {"trained": sorted(trained)}
        return {"lora": None, "full_targets": "all-linear" if trained == linear else "all"}, unsaid
    config = model.peft_config[model.active_adapter]
    if not isinstance(config, LoraConfig):
        raise ValueError(f"the model carries PEFT's {type(config).__name__}, and a record describes LoRA or full "
                         "fine-tuning: train one of these, or leave the Recorder out")
    plain, said = LoraConfig().to_dict(), [*OF_PEFT, "use_rslora", "use_dora"]
    variants = {"rslora": config.use_rslora, "dora": config.use_dora}
    if not rl:
        variants |= {"dropout": config.lora_dropout,
                     "pissa": config.init_lora_weights == "pissa" and not config.use_dora}
        said += ["lora_dropout"] + ["init_lora_weights"] * variants["pissa"]
    unsaid = {f"peft.{name}": value for name, value in config.to_dict().items()
              if name not in said and value != plain.get(name)}
    targets = _targets(model.get_base_model(), set(adapted_layers(model)))
    return {"lora": LoRASpec(rank=config.r, alpha=config.lora_alpha, targets=targets, **variants)}, unsaid


def _targets(base: nn.Module, adapted: set[str]) -> str | tuple[str, ...]:
    """The group that the adapted layers are, or their names."""
    free = [name for name, module in base.named_modules() if isinstance(module, LINEAR)
            and not any(name == layer or name.startswith(f"{layer}.") for layer in adapted)]
    part = {name: component_of(name, base) for name in (*adapted, *free)}
    parts, left = {part[name] for name in adapted}, {part[name] for name in free}
    head = "+head" if "head" in parts else ""
    if not left - {"head"} and not parts & left:
        return f"all-linear{head}"
    if not parts & left and len(parts - {"head"}) == 1 and (one := min(parts - {"head"})) in ("attention", "mlp"):
        return one + head
    short = {name.rpartition(".")[2] for name in adapted}
    exact = {name for name in part if name.rpartition(".")[2] in short} == adapted
    return tuple(sorted(short if exact else adapted))


def common_fields(args: Any, state: Any, model: Any) -> dict[str, Any]:
    """What specs of both kinds take from a trainer's arguments."""
    dtype, kind = dtype_of(model), _plain(args.lr_scheduler_type)
    schedule, warmup = {"constant_with_warmup": "constant"}.get(kind, kind), args.warmup_steps
    known = schedule in SCHEDULES and args.get_warmup_steps(state.max_steps) < state.max_steps
    curved = {"schedule": schedule, "warmup": 0 if kind == "constant" else int(warmup) if warmup >= 1 else warmup}
    return {**(curved if known else {}),
            "learning_rate": args.learning_rate, "steps": state.max_steps, "seed": args.seed,
            "weight_decay": args.weight_decay, "max_grad_norm": args.max_grad_norm or None, "beta1": args.adam_beta1,
            "beta2": args.adam_beta2, "epsilon": args.adam_epsilon,
            "dtype": dtype if dtype in KNOWN_TYPES else "float32", "tf32": bool(args.tf32) and dtype != "float64"}


def dtype_of(model: Any) -> str:
    """The type of the base's weights."""
    return str(next(p for name, p in model.named_parameters() if ".lora_" not in name).dtype).removeprefix("torch.")


def sft_fields(args: Any, longest: int) -> dict[str, Any]:
    """What an `SFTSpec` takes from an `SFTConfig`; `longest` is the length of the longest row."""
    rows = args.per_device_train_batch_size * args.world_size
    return {"batch_size": rows, "accumulation": args.gradient_accumulation_steps,
            "max_length": args.max_length or longest}


def grpo_fields(args: Any) -> dict[str, Any]:
    """What a `GRPOSpec` takes from a `GRPOConfig`."""
    rows = args.per_device_train_batch_size * args.world_size
    episodes = rows * args.gradient_accumulation_steps
    found = {"prompts_per_step": max(1, episodes // args.num_generations), "group_size": args.num_generations,
             "max_completion_length": args.max_completion_length, "temperature": args.temperature,
             "scale_rewards": {"True": "group", "False": "none"}.get(str(args.scale_rewards), args.scale_rewards),
             "clip": None if math.isinf(args.epsilon) else args.epsilon, "iterations": args.num_iterations,
             "kl_coefficient": args.beta, "mask_truncated": args.mask_truncated_completions, "use_vllm": args.use_vllm}
    if found["clip"] is not None and args.epsilon_high not in (None, args.epsilon):
        found["clip_high"] = args.epsilon_high
    if args.loss_type in LOSSES:
        found["loss"] = args.loss_type
    mode, cap = args.vllm_importance_sampling_mode, args.vllm_importance_sampling_clip_max
    if args.use_vllm and not args.vllm_importance_sampling_correction:
        found["importance_sampling"] = "none"
    elif args.use_vllm and mode in CORRECTIONS:
        found |= {"importance_sampling": mode, "importance_cap": None if cap is None or math.isinf(cap) else cap}
    return found


def unsaid_settings(spec: SFTSpec | GRPOSpec, args: Any, model: Any, optimizer: Any) -> dict[str, Any]:
    """Settings that change numbers and that a spec has no field for, by name: what differs from TRL's for the spec."""
    options = (grpo_options(spec, args.output_dir, args.device) if isinstance(spec, GRPOSpec)
               else sft_options(spec, args.output_dir, args.device))
    given = {field.name: (_plain(getattr(args, field.name)), _plain(options.get(field.name, _default(field))))
             for field in fields(args) if not CIRCUMSTANCES.fullmatch(field.name)}
    found = {name: value for name, (value, expected) in given.items() if value != expected}
    idle = {"disable_dropout": not any(isinstance(m, nn.Dropout) and m.p for m in model.modules()),
            "router_aux_loss_coef": not hasattr(model.config, "router_aux_loss_coef"),
            "use_bias_correction_kl": not getattr(args, "beta", 0)}
    found = {name: value for name, value in found.items() if not idle.get(name, False)
             and (getattr(args, "use_vllm", False) or not name.startswith("vllm_"))}
    if dtype_of(model) != spec.dtype:
        found["dtype"] = dtype_of(model)
    if isinstance(spec, GRPOSpec) and args.steps_per_generation != args.gradient_accumulation_steps:
        found["steps_per_generation"] = args.steps_per_generation
    optimizer = getattr(optimizer, "optimizer", optimizer)
    rates = {group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}
    if not isinstance(optimizer, torch.optim.AdamW) or rates != {args.learning_rate}:
        found["optimizer"] = f"{type(optimizer).__name__}, rates {sorted(rates)}"
    return found


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, enum.Enum) else value
    value = {"adamw_torch_fused": "adamw_torch"}.get(value, value) if isinstance(value, str) else value
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


@dataclass(frozen=True)
class Rows:
    """What a trainer's rows are known by.

    Args:
        pin: 12 hex digits of the hash of all rows in their order; of a stream, of the word.
        keys: one for each different row: its tokens, or its prompt.
        longest: tokens of the longest row.
    """

    pin: str
    keys: frozenset[Any]
    longest: int

    @classmethod
    def of(cls, data: Any) -> Rows:
        """Read a trainer's prepared dataset once."""
        digest, keys, longest = hashlib.sha256(), set(), 1
        whole: Any = data if hasattr(data, "__len__") else [{"stream": True}]
        for row in whole:
            digest.update(json.dumps(dict(row), sort_keys=True, default=str).encode())
            keys.add(key_of(row))
            longest = max(longest, len(row.get("input_ids", ())))
        return cls(digest.hexdigest()[:12], frozenset(keys), longest)


def key_of(row: Any) -> Any:
    """A row's tokens, or the text of its prompt (of its last message)."""
    if "input_ids" in row:
        return hash(tuple(row["input_ids"]))
    prompt = row.get("prompt")
    return prompt[-1]["content"] if isinstance(prompt, list) and prompt else prompt
