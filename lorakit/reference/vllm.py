"""Sampling with vLLM under TRL's trainer: what TRL does not say to it, and when it cannot be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lorakit.grpo_spec import GRPOSpec
from lorakit.rl.stops import Stops


def require_vllm(spec: GRPOSpec) -> None:
    """Raise unless this machine and TRL can sample as the spec says.

    Raises:
        ModuleNotFoundError: vLLM is not installed.
        ValueError: an unmerged adapter; TRL gives vLLM merged weights only.
    """
    if not spec.use_vllm:
        return
    if importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError("use_vllm=True needs the package vllm (`pip install '.[train,vllm]' -c "
                                  "constraints.txt` in a clone of lorakit, on Linux with Python 3.13 and glibc 2.31 or "
                                  "newer); without it, run the spec with use_vllm=False")
    if spec.lora is not None and not spec.merge_to_sample:
        raise ValueError("TRL merges the adapter into the base before it gives vLLM the weights: say so with "
                         "merge_to_sample=True, or sample with the adapter itself, with use_vllm=False")


def vllm_sampling_options(stop: Stops) -> dict[str, Any]:
    """vLLM's sampling parameters for what ends a completion; its end stays, as everywhere else."""
    text = {"stop": [stop.text], "include_stop_str_in_output": True, "skip_special_tokens": False} if stop.text else {}
    return {"stop_token_ids": list(stop), **text}


@contextmanager
def loading(spec: GRPOSpec, device: torch.device) -> Iterator[None]:
    """Have vLLM load the base in the spec's dtype and draw from its seed: TRL names no dtype and the seed 0.

    Raises:
        RuntimeError: a second run with vLLM in one process.
    """
    if not spec.use_vllm:
        yield
        return
    if torch.distributed.is_initialized():
        raise RuntimeError("this process has run vLLM before, which gives its memory and its process group back only "
                           "at the end of the process: train each spec in a process of its own, as lorakit.run does")
    from trl.generation import vllm_generation

    load = vllm_generation.LLM
    own = {"dtype": spec.dtype, "seed": spec.seed, "enforce_eager": device.type == "cpu"}
    vllm_generation.LLM = lambda **named: load(**{**named, **own})
    try:
        yield
    finally:
        vllm_generation.LLM = load


def give_weights_by_reload(generation: Any) -> None:
    """Let TRL's `VLLMGeneration` give the learner's weights by vLLM's own reload, which also renews what it packed.

    TRL fills parameters; those that a CPU's kernels read were packed, and removed, when the model was loaded.
    """
    def sync_weights() -> None:
        generation.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": generation._iter_named_params()})
        generation.llm.reset_prefix_cache()

    generation.sync_weights = sync_weights
