"""How many bits a dataset carries for a model: what one pass of training over it pays in log loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit.bases.models import load_model
from lorakit.data.datasets import DatasetError, TextData, load_dataset
from lorakit.data.rows import rows_of
from lorakit.data.tokens import IGNORE, TokenSplit, order, tokenize
from lorakit.packed.engine import evaluate
from lorakit.packed.model import PackedModel
from lorakit.specs import LoRASpec, SFTSpec, vary


@dataclass(frozen=True)
class DatasetBits:
    """The length of a code for a dataset's label tokens, given their prompts and the base model.

    Args:
        bits: total log loss of the pass in bits: each batch counts with the loss before the model has learnt from it.
        tokens: label tokens that were coded.
        bytes: of their text.
        base_bits: the same total for the base as it is; the difference is what learning saved.
        learning_rate: of those tried, the one with the shortest code.
        batch_size: sequences a step.
        caveats: what the number depends on, in words.

    >>> DatasetBits(bits=16.0, tokens=8, bytes=32, base_bits=24.0, learning_rate=1e-3, batch_size=1).bits_per_byte
    0.5
    """

    bits: float
    tokens: int
    bytes: int
    base_bits: float
    learning_rate: float
    batch_size: int
    caveats: tuple[str, ...] = ()

    @property
    def bits_per_token(self) -> float:
        """Bits for each label token."""
        return self.bits / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of the text behind the label tokens, comparable between tokenizers."""
        return self.bits / self.bytes if self.bytes else math.nan


def measure_dataset_bits(model: str, dataset: Any, *, rank: int | None = 16,
                         learning_rates: Sequence[float] = (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2), batch_size: int = 4,
                         max_length: int = 256, max_tokens: int | None = 100_000, seed: int = 0,
                         device: str | None = None) -> DatasetBits:
    """The prequential code length of a dataset: the total log loss of the first pass of training over it.

    Whoever holds the base and the training script can decode the data from these bits, batch by batch, so they bound
    from above what there is to learn (Dawid 1984; Rissanen 1984). All rates train together, as one pack.

    Args:
        model: as in `SFTSpec`: a name, `org/name@COMMIT`, or what `register_model` returns.
        dataset: a name, what `register_dataset` returns, or data as `register_dataset` takes them (rows, a
            file, a `datasets.Dataset`). Of a named dataset the training split is coded.
        rank: of the learner, LoRA on every linear layer; None trains all weights.
        learning_rates: the shortest code over them counts; choosing among n costs log2(n) bits, not added.
        batch_size: sequences a step; a smaller one learns earlier, and takes longer.
        max_length: tokens a sequence at most (and what the model can take); longer rows are an error.
        max_tokens: tokens (prompts count) after which to stop, so that a large dataset is sampled; None: no end.
        device: None takes a GPU if there is one.

    Raises:
        DatasetError: no rows, a row without anything to learn, or one that is too long.
        ValueError: every learning rate diverged.
    """
    data = _text(dataset)
    base, tokenizer = load_model(model)
    base = base.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    split = tokenize(data, tokenizer, min(max_length, base.config.max_position_embeddings))["train"]
    whole = split.label_tokens
    shuffled = order(seed, len(split), len(split))
    split = TokenSplit(split.input_ids[shuffled], split.labels[shuffled]).head(max_tokens or split.input_ids.numel())
    lora = None if rank is None else LoRASpec(rank=rank)
    one = SFTSpec(model=model, dataset="rows@0", lora=lora, learning_rate=1.0, batch_size=batch_size,
                  max_length=split.input_ids.shape[1], seed=seed)
    specs = vary(one, learning_rate=list(learning_rates))
    with PackedModel(base, specs[:1]) as packed:
        before = float(evaluate(packed, split.to(base.device))) * split.label_tokens
    nats = _one_pass(base, specs, split)
    costs = [value if math.isfinite(value) else math.inf for value in nats.tolist()]
    best = min(range(len(costs)), key=costs.__getitem__)
    if costs[best] == math.inf:
        raise ValueError(f"every learning rate diverged: {', '.join(f'{s.learning_rate:g}' for s in specs)}; try lower")
    rate = specs[best].learning_rate
    learner = "all weights" if rank is None else f"LoRA of rank {rank}"
    caveats = [f"an upper bound, for this base and {learner} in batches of {batch_size}: a better learner needs fewer "
               "bits, and noise that nobody can learn is counted"]
    if split.label_tokens < whole:
        caveats.append(f"{split.label_tokens:,} of {whole:,} label tokens were coded; later ones cost less each")
    if len(specs) > 1 and rate in (min(learning_rates), max(learning_rates)):
        end = "lowest" if rate == min(learning_rates) else "highest"
        caveats.append(f"the best rate, {rate:g}, is the {end} that was tried: the code may be shorter beyond it")
    return DatasetBits(costs[best] / math.log(2), split.label_tokens, _bytes(split, tokenizer), before / math.log(2),
                       rate, batch_size, tuple(caveats))


def _text(dataset: Any) -> TextData:
    if isinstance(dataset, str) and not Path(dataset).exists():
        return load_dataset(dataset)
    rows = rows_of(dataset).get("train", [])
    if not rows:
        raise DatasetError("the dataset has no rows: nothing to measure")
    return TextData("the dataset", {"train": rows})


def _one_pass(base: Any, specs: Sequence[SFTSpec], split: TokenSplit) -> torch.Tensor:
    """Total log loss of each configuration over the split, each batch before it is learnt from; (K,) in nats."""
    device, batch = base.device, specs[0].batch_size
    nats = torch.zeros(len(specs), dtype=torch.float64, device=device)
    with PackedModel(base, specs) as packed:
        for start in range(0, len(split), batch):
            ids, labels = (part[start : start + batch].to(device).expand(len(specs), -1, -1)
                           for part in (split.input_ids, split.labels))
            sums, counts = packed.loss_sums(ids, labels)
            nats += sums.detach().double()
            (sums / counts).sum().backward()
            packed.optimizer.step()
    return nats


def _bytes(split: TokenSplit, tokenizer: Any) -> int:
    coded = [row[1:][labels[1:] != IGNORE].tolist() for row, labels in zip(split.input_ids, split.labels, strict=True)]
    return sum(len(text.encode()) for text in tokenizer.batch_decode(coded, skip_special_tokens=True))
