"""What makes a supervised pack faster on a CPU, with the same arithmetic.

Quicker products and layers, attention over short sequences, whole decoder layers at once where they are known, AdamW.
Packs of reinforcement learning keep the plain parts, with which their records were made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from lorakit.bases.families import head_logits
from lorakit.data.tokens import IGNORE
from lorakit.packed.attention import ATTENTION
from lorakit.packed.layers import PackedLinear, PackedLoRALinear
from lorakit.packed.llama import quick_decoder
from lorakit.packed.model import LOGITS_AT_ONCE, PackedModel, _replace
from lorakit.packed.onednn import FrozenLinear, QuickLinear, QuickLoRALinear, onednn_multiplies
from lorakit.packed.optimizer import PackedAdamW


@contextmanager
def hastened(packed: PackedModel) -> Iterator[None]:
    """Quicker parts for a pack on a CPU, float32 or float64; on another device, or over other weights, nothing.

    Losses and gradients stay what they were, up to rounding.
    """
    first, model = packed.optimizer.parameters[0], packed.model
    base = {p.dtype for p in model.parameters()}
    if first.device.type != "cpu" or not base <= {torch.float32, torch.float64}:
        yield
        return
    packed.optimizer = FusedAdamW(packed.optimizer)
    before, decoder = model.config._attn_implementation, model.base_model
    if base == {torch.float32} and onednn_multiplies():
        _quicken(packed)
        quick = None if packed.specs[0].recompute else quick_decoder(decoder)
        setattr(model, model.base_model_prefix, quick or decoder)
    if before == "sdpa":
        model.set_attn_implementation(ATTENTION)
    packed.loss_sums = partial(loss_sums, packed)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del packed.loss_sums
        setattr(model, model.base_model_prefix, decoder)
        model.set_attn_implementation(before)


def _quicken(packed: PackedModel) -> None:
    """Put the layers that multiply by oneDNN in the place of the plain ones."""
    for name, layer in packed.layers.items():
        if isinstance(layer, (PackedLoRALinear, PackedLinear)):
            quick = QuickLinear(layer) if isinstance(layer, PackedLinear) else QuickLoRALinear(layer)
            packed.layers[name] = quick
            _replace(packed.model, name, quick)
    for name, module in list(packed.model.named_modules()):
        if type(module) is nn.Linear and not name.endswith(".base"):
            packed.originals[name] = module
            _replace(packed.model, name, FrozenLinear(module))


def loss_sums(packed: PackedModel, input_ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`PackedModel.loss_sums`, without picking positions where at least half of them count.

    Args:
        input_ids: (K, B, T), padded on the right.
        labels: (K, B, T), -100 where the loss does not count.

    Returns:
        sums (K,) in nats and counts (K,).
    """
    goals = functional.pad(labels[:, :, 1:], (0, 1), value=IGNORE)
    counts = (goals != IGNORE).sum((1, 2))
    if (2 * int(counts.min()) < goals[0].numel()
            or goals.numel() * packed.model.config.vocab_size > LOGITS_AT_ONCE):
        return PackedModel.loss_sums(packed, input_ids, labels)
    flat = input_ids.reshape(-1, input_ids.shape[-1])
    logits = head_logits(packed.model, packed.model.base_model(input_ids=flat, use_cache=False).last_hidden_state)
    losses = functional.cross_entropy(logits.view(-1, logits.shape[-1]), goals.flatten(), ignore_index=IGNORE,
                                      reduction="none")
    return losses.view(len(labels), -1).sum(1), counts


class FusedAdamW(PackedAdamW):
    """A `PackedAdamW`, in whatever state it is, whose update is torch's fused one: one call a configuration."""

    def __init__(self, plain: PackedAdamW) -> None:
        vars(self).update(vars(plain))
        buffers = (self.flat, self.grad, self.mean, self.square)
        together: dict[tuple[int, float, float], list[list[torch.Tensor]]] = {}
        for span, rates, decays in self.spans:
            for k, settings in enumerate(zip(rates.tolist(), decays.tolist(), strict=True)):
                together.setdefault((k, *settings), []).append([buffer[k, span] for buffer in buffers])
        self._updates = [(settings, [list(column) for column in zip(*parts, strict=True)])
                         for settings, parts in together.items()]

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """One update from the accumulated gradients; returns their norms (K,), before clipping."""
        norm = self.gather()
        if self.max_grad_norm is not None:
            self.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1))
        self.steps += 1
        now = torch.tensor(float(self.steps))
        for (_, rate, decay), parts in self._updates:
            torch._fused_adamw_(*parts, [], [now] * len(parts[0]), amsgrad=False, beta1=self.betas[0],
                                beta2=self.betas[1], lr=rate, weight_decay=decay, eps=self.epsilon, maximize=False)
        return norm
