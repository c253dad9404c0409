"""The bases that benchmarks train: random weights of a known shape, so that nothing has to be fetched."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from lorakit.bases.models import byte_tokenizer, embedded_record, load_model, register_model
from lorakit.data.datasets import load_dataset
from lorakit.data.tokens import TokenSplit, tokenize
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec

SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2}
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
           "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 8192}
RANDOM = {"small": SMALL, "smollm2-shape": SMOLLM2}  # 131,072 and 106 million weights in linear layers


@cache
def base_name(which: str) -> str:
    """An embedded model's name, or that of a random one in `RANDOM`, registered here."""
    if which not in RANDOM:
        return which
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = LlamaConfig(**embedded_record("tiny")["config"] | RANDOM[which])
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), config.vocab_size)])
    return register_model(which, LlamaForCausalLM(config), tokenizer)


@cache
def _model(name: str, dtype: str, device: str) -> tuple[Any, Any]:
    model, tokenizer = load_model(name, dtype=getattr(torch, dtype))
    return model.to(device), tokenizer


@cache
def _splits(name: str, dtype: str, device: str, dataset: str, length: int) -> dict[str, TokenSplit]:
    return tokenize(load_dataset(dataset), _model(name, dtype, device)[1], length)


def model_of(spec: SFTSpec | GRPOSpec, device: str) -> tuple[Any, Any]:
    """Base and tokenizer of a spec, kept in this process; on a CPU it then computes in one thread."""
    if device == "cpu":
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    return _model(spec.model, spec.dtype, device)


def load(spec: SFTSpec, device: str) -> tuple[Any, Any, dict[str, TokenSplit]]:
    """Base, tokenizer and token arrays of a spec, kept in this process."""
    return *model_of(spec, device), _splits(spec.model, spec.dtype, device, spec.dataset, spec.max_length)
