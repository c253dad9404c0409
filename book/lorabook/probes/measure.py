"""What only a model can tell: FLOPs and bytes of one training step, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lorakit.adapters.peft_layers import attach
from lorakit.specs import LoRASpec


def _forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# torch's counter knows the fused attention of GPUs and overlooks that of the CPU; the formula is the same
FUSED_ON_CPU: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward}


def count_step(model: nn.Module, lora: LoRASpec | None, batch_size: int, length: int,
               recompute: bool = False) -> dict[str, int]:
    """Run one AdamW step of plain PEFT (or full fine-tuning) on random tokens, and count.

    Args:
        model: a causal LM without an adapter. It is changed: give a copy, or load it anew.
        lora: the adapter; None for full fine-tuning.
        batch_size, length: of the tokens.
        recompute: gradient checkpointing, non-reentrant.

    Returns:
        `flops` of matrix products; bytes of live tensors: `weights` (base), `adapter`, `gradients`, `optimizer` (its
        moments), `activations` (saved for the backward pass, each storage once; with `recompute` those outside the
        layers that are made again).
    """
    model.train().requires_grad_(True)
    base = list(model.parameters())
    subject: Any = attach(model, lora, seed=0) if lora else model
    if recompute:
        subject.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [p for p in subject.parameters() if p.requires_grad]
    standing = {t.untyped_storage().data_ptr() for t in [*subject.parameters(), *subject.buffers()]}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in standing:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    ids = torch.randint(subject.config.vocab_size, (batch_size, length), device=base[0].device)
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = subject(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    of_base = {id(p) for p in base}
    return {"flops": counter.get_total_flops(), "weights": _bytes(base),
            "adapter": _bytes(p for p in subject.parameters() if id(p) not in of_base),
            "gradients": _bytes(p.grad for p in trained), "optimizer": _bytes(moments),
            "activations": sum(saved.values())}


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
