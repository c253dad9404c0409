"""What a rehearsal runs on: bases of the same architecture and tokenizer type, cut down, and rows of the same columns.

They lie in a folder as the hub's own caches would (`models--ORG--NAME/snapshots/COMMIT`, and datasets that were
prepared once), so that whatever loads a base or a dataset from the hub runs as it stands, offline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from lorabook.data import datasets, gsm8k
from lorakit.bases.models import register_model
from lorakit.data.datasets import register_dataset
from lorakit.theory.known import KNOWN

WIDTH, LAYERS, HEADS, HEAD = 64, 2, 4, 32
VOCABULARY = {"gpt2": 10240, "llama3": 4096, "qwen": 4096}  # the first has to know 4,096 words as a token each
EXPERTS, PER_TOKEN = 4, 2
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # as tiktoken splits
CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# Each base: the row of `lorakit.theory.known` that its shape is cut from, its kind of tokenizer, and what else its
# configuration says.
ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}
BASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "smollm2-135m-instruct-q4": ("smollm2-135m", "gpt2", {"max_position_embeddings": 8192}),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("smollm2-135m", "gpt2", {"max_position_embeddings": 8192}),
    "meta-llama/Llama-3.1-8B": ("llama-3.1-8b", "llama3",
                                {"max_position_embeddings": 131072, "rope_parameters": ROPE}),
    "Qwen/Qwen3-8B": ("qwen3-8b", "qwen", {"max_position_embeddings": 40960}),
    "Qwen/Qwen3-30B-A3B": ("qwen3-30b-a3b", "qwen", {"max_position_embeddings": 40960, "norm_topk_prob": True}),
}
TOO_LONG = "word " * 3000  # one conversation is longer than any `max_length`, as some of the hub's are
# Each dataset of the hub: its configuration, and its rows by split, with the hub's columns.
ROWS: dict[str, tuple[str, dict[str, list[dict[str, Any]]]]] = {
    "allenai/tulu-3-sft-mixture": ("default", {"train": [
        {"id": f"row_{n}", "source": "made for a rehearsal", "messages": [
            {"role": "user", "content": f"Count from {n} to {n + 9}."},
            {"role": "assistant", "content": TOO_LONG if n == 7 else " ".join(map(str, range(n, n + 10)))},
            {"role": "user", "content": "Thanks."}][: 2 + n % 2]} for n in range(240)]}),
    "openai/gsm8k": ("main", {split: [
        {"question": f"Ana has {n} {what} and buys {n + 3} more. How many {what} has she?",
         "answer": f"She has {n} + {n + 3} = <<{n}+{n + 3}={2 * n + 3}>>{2 * n + 3} {what}.\n#### {2 * n + 3:,}"}
        for n in range(2, 122)] for split, what in (("train", "apples"), ("test", "pears"))}),
}


def tokenizer_of(kind: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as the family has it, learnt from these texts.

    Args:
        kind: `gpt2` (digits one by one; SmolLM2), `llama3` (begins each text with a token of its own, has no padding
            and no chat template) or `qwen` (normalizes, begins with nothing).
    """
    tokenizer = Tokenizer(models.BPE())
    split = (pre_tokenizers.Digits(individual_digits=True) if kind == "gpt2"
             else pre_tokenizers.Split(Regex(WORDS), behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")])
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    special = {"llama3": ["<|begin_of_text|>", "<|end_of_text|>"]}.get(kind, ["<|endoftext|>", "<|im_start|>",
                                                                              "<|im_end|>"])
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY[kind], special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    if kind == "llama3":
        tokenizer.post_processor = TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], 0)])
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])
    begin = {"bos_token": "<|im_start|>"} if kind == "gpt2" else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML,
                                   pad_token="<|im_end|>" if kind == "gpt2" else "<|endoftext|>", **begin)


def small_model(known: str, tokenizer: PreTrainedTokenizerFast, more: dict[str, Any]) -> Any:
    """A random model of a known one's architecture in bfloat16: `LAYERS` layers of `WIDTH`, its heads shared alike."""
    shape = KNOWN[known]
    shared = shape["num_attention_heads"] // shape["num_key_value_heads"]
    fields = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "head_dim": HEAD,
              "num_attention_heads": HEADS, "num_key_value_heads": max(1, HEADS // shared),
              "vocab_size": len(tokenizer), "tie_word_embeddings": shape["tie_word_embeddings"],
              "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
              "pad_token_id": tokenizer.pad_token_id} | more
    if "num_experts" in shape:
        fields |= {"num_experts": EXPERTS, "num_experts_per_tok": PER_TOKEN, "moe_intermediate_size": WIDTH}
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape["model_type"], **fields)
    return AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()


@contextmanager
def stand_ins(specs: Sequence[Any], folder: Path) -> Iterator[list[Any]]:
    """The specs on small bases, those of the hub under their own names; processes started inside find them offline.

    Args:
        specs: supervised and RL.
        folder: gets the caches of the hub and of lorakit.
    """
    hub, rows = folder / "hf" / "hub", folder / "hf" / "datasets"
    places = {"HF_HOME": str(folder / "hf"), "HF_HUB_CACHE": str(hub), "HF_DATASETS_CACHE": str(rows),
              "HF_HUB_OFFLINE": "1", "LORAKIT_CACHE": str(folder / "lorakit"), "LORAKIT_DATA": ""}
    transformers_logging.disable_progress_bar()
    for name, (configuration, splits) in ROWS.items():
        prepare_rows(name, configuration, splits, rows)
    with mock.patch.dict(os.environ, places):
        small = {model: _base(model, hub) for model in dict.fromkeys(spec.model for spec in specs)}
        answers = _worked_answers()
        changes = [{"model": small[spec.model]}
                   | ({"dataset": answers} if getattr(spec, "dataset", "").startswith("gsm8k-answers@") else {})
                   for spec in specs]
        yield [replace(spec, **change) for spec, change in zip(specs, changes, strict=True)]


def _base(pinned: str, hub: Path) -> str:
    """Make the small base that stands for a pinned name; returns the name that specs are to have."""
    name, _, commit = pinned.partition("@")
    if name not in BASES:
        raise ValueError(f"no small base stands for {name}: give it a row in lorabook.rehearsal.stand_ins.BASES "
                         f"(it has {', '.join(BASES)})")
    known, kind, more = BASES[name]
    tokenizer = tokenizer_of(kind, texts(kind))
    model = small_model(known, tokenizer, more)
    if "/" not in name:
        return register_model(f"small-{name}", model, tokenizer)
    folder = hub / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return pinned


@cache
def texts(kind: str) -> list[str]:
    """What a tokenizer learns from: datasets of the book that are made here, and the stand-ins' rows.

    The real ones have a token for each of the random words, or for most pairs of letters; so what a row must fit into
    is learnt from the more often.
    """
    found = [json.dumps(row) for _, splits in ROWS.values() for rows in splits.values() for row in rows]
    for data, times in ((datasets.real_text(), 1), (datasets.random_words(122), 20 * (kind == "gpt2")),
                        (datasets.random_strings(1536), 1 if kind == "gpt2" else 4),
                        (datasets.random_associations(), 1)):
        found += times * ["".join(text for text, _ in row) for row in data.splits["train"] if isinstance(row, list)]
    return found


def _worked_answers() -> str:
    """GSM8K's worked answers, made of the stand-ins' rows as they are of the hub's: their name pins their content."""
    _, rows = ROWS[gsm8k.NAME]
    with mock.patch.object(gsm8k, "_rows", rows.__getitem__):
        splits = gsm8k.worked_answers()
    return register_dataset("small-gsm8k-answers", {split: [{"prompt": asked[0], "completion": told[0]} for asked, told
                                                            in made] for split, made in splits.items()})


def prepare_rows(name: str, configuration: str, splits: dict[str, list[dict[str, Any]]], cache_folder: Path) -> None:
    """Leave rows in the cache of `datasets` as if they had been loaded from the hub once."""
    from datasets import DatasetInfo, GeneratorBasedBuilder, SplitGenerator, disable_progress_bars

    class Rows(GeneratorBasedBuilder):
        """Rows that are at hand."""

        def _info(self) -> Any:
            return DatasetInfo()

        def _split_generators(self, _: Any) -> list[Any]:
            return [SplitGenerator(name=split, gen_kwargs={"rows": rows}) for split, rows in splits.items()]

        def _generate_examples(self, rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
            yield from enumerate(rows)

    disable_progress_bars()
    Rows(cache_dir=str(cache_folder), repo_id=name, dataset_name=name.split("/")[-1], config_name=configuration,
         hash="rehearsal").download_and_prepare()
