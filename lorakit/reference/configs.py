"""A spec in the words of other people's trainers: PEFT's LoraConfig, TRL's SFTConfig or GRPOConfig."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.utils import is_torch_tf32_available

from lorakit import sources
from lorakit.adapters import peft_layers
from lorakit.grpo_spec import GRPOSpec
from lorakit.reference.grpo import grpo_options
from lorakit.reference.sft import sft_options
from lorakit.specs import LoRASpec, SFTSpec

# How a run is shown and kept, which no number depends on: left to TRL's defaults, and to the caller.
LEFT_OPEN = ("report_to", "save_strategy", "eval_strategy", "disable_tqdm", "logging_strategy", "logging_steps")


def peft_config(spec: SFTSpec | GRPOSpec | LoRASpec, model: nn.Module | None = None) -> Any:
    """PEFT's `LoraConfig` of a spec's adapter: the same layers, rank and scale as lorakit trains.

    PEFT draws A when the adapter is attached: call `torch.manual_seed(spec.seed)` just before to start as lorakit does.

    Args:
        spec: of a run, or of an adapter alone.
        model: the base that will carry it; with it the targets are checked. Without it a group becomes the module
            names of a Llama- or Qwen-type model.

    Raises:
        ValueError: full fine-tuning, or an adapter that PEFT's configuration cannot describe.
        TargetsError: a target that matches nothing; the message lists the names that exist.

    >>> config = peft_config(LoRASpec(rank=4, targets="attention"))
    >>> sorted(config.target_modules), config.r, config.lora_alpha
    (['k_proj', 'o_proj', 'q_proj', 'v_proj'], 4, 32.0)
    """
    lora = spec if isinstance(spec, LoRASpec) else spec.lora
    if lora is None:
        raise ValueError("the spec is full fine-tuning (lora=None): there is no adapter, so give the trainer no "
                         "peft_config")
    _refuse("LoraConfig", {"train_a=False": not lora.train_a, "shared_outer=True": lora.shared_outer,
                           f"init_a_scale={lora.init_a_scale}": lora.init_a_scale != 1})
    return peft_layers.peft_config(lora, model)


def trl_config(spec: SFTSpec | GRPOSpec, output_dir: str = "trl-output", **options: Any) -> Any:
    """TRL's `SFTConfig` or `GRPOConfig` of a spec: trained with it, TRL takes the steps that `engine="trl"` takes.

    Rows (problems) come in the order of your dataset, where lorakit draws an order from the seed: shuffle it first.
    Longer rows than `max_length` are cut, as TRL does. The adapter is `peft_config`'s, the base is loaded in the spec's
    dtype, and its evaluations are `Recorder`'s.

    Args:
        spec: of a run.
        output_dir: where TRL writes.
        options: fields of TRL's configuration that replace these, such as `report_to` or `logging_steps`.

    Raises:
        ValueError: the spec asks for what TRL's configuration cannot say.

    >>> spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, batch_size=8, seed=3)
    >>> config = trl_config(spec, logging_steps=5)
    >>> config.max_steps, config.per_device_train_batch_size, config.learning_rate, config.seed, config.logging_steps
    (300, 8, 0.001, 3, 5)
    """
    from trl import GRPOConfig, SFTConfig

    ratio, device = spec.lora.learning_rate_b_ratio if spec.lora else 1.0, torch.device(
        "cuda" if torch.cuda.is_available() else "cpu")
    _refuse("configuration", {
        f"learning_rate_b_ratio={ratio} (its optimizer is yours to build: peft.optimizers has LoRA+)": ratio != 1,
        "dtype='bfloat16' with lora=None (its float32 masters; take dtype='float32' and bf16=True)":
            spec.lora is None and spec.dtype == "bfloat16",
        "full_targets='all-linear' (freeze the other layers yourself)": spec.full_targets != "all",
        **({} if isinstance(spec, SFTSpec) else {
            f"format_steps={spec.format_steps}": spec.format_steps > 0,
            "merge_to_sample=True without vLLM": spec.merge_to_sample and not spec.use_vllm})})
    if isinstance(spec, GRPOSpec):
        fields = grpo_options(spec, output_dir, device, components=sources.rewards().get(spec.reward or "", 1))
    else:
        fields = sft_options(spec, output_dir, device) | {"max_length": spec.max_length, "dataset_kwargs": None}
    fields = {name: value for name, value in fields.items() if name not in LEFT_OPEN}
    fields |= {"tf32": True} if spec.tf32 and is_torch_tf32_available() else {}  # elsewhere it is refused
    return (SFTConfig if isinstance(spec, SFTSpec) else GRPOConfig)(**fields | options)


def _refuse(what: str, unsaid: dict[str, bool]) -> None:
    found = [words for words, asked in unsaid.items() if asked]
    if found:
        raise ValueError(f"this {what} cannot say {', '.join(found)}: leave it out, or train with lorakit.run(…, "
                         "engine='trl')")
