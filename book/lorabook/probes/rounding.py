"""What adapters lose when they are stored in bfloat16."""

from __future__ import annotations

import torch

from lorakit.probes import Subject
from lorakit.result import Metrics


@torch.no_grad()
def rounded_losses(subject: Subject) -> list[Metrics]:
    """`validation_loss_bf16` and `test_loss_bf16` of packed supervised LoRA; the adapter is put back afterwards."""
    packed = subject.packed
    if packed is None or packed.is_full or not subject.trained:
        return [{} for _ in subject.specs]
    exact = packed.optimizer.flat.clone()
    packed.optimizer.flat.copy_(exact.bfloat16())
    losses = {f"{name}_loss_bf16": subject.losses(split) for name, split in subject.splits.items()}
    packed.optimizer.flat.copy_(exact)
    return [{name: values[k] for name, values in losses.items()} for k in range(len(subject.specs))]
