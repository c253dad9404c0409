"""How low in rank is what full fine-tuning did? The spectrum of ΔW, and the loss when ΔW is cut to rank r."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorakit.packed.layers import PackedLinear
from lorakit.packed.model import PackedModel
from lorakit.probes import Subject
from lorakit.result import Metrics

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)


def truncated_losses(subject: Subject) -> list[Metrics]:
    """`cut_to_ranks` of packed supervised full fine-tuning, after the last step."""
    if subject.packed is None or not subject.packed.is_full or not subject.trained or "test" not in subject.splits:
        return [{} for _ in subject.specs]
    return cut_to_ranks(subject.packed, lambda: subject.losses(subject.splits["test"]))


@torch.no_grad()
def cut_to_ranks(packed: PackedModel, losses_of: Callable[[], list[float]]) -> list[Metrics]:
    """For each rank r: the share of ‖ΔW‖² in its top r directions, and the test loss with every ΔW cut to rank r.

    Only the linear layers that LoRA's `all-linear` would adapt are cut; embedding, head and norms keep all of their
    change. The weights are put back afterwards.

    Returns:
        One mapping a configuration: `delta_energy_r{r}` (0 to 1) and `truncated_test_loss_r{r}` (nats per token), and
        `truncated_test_loss_r0`, where those layers keep nothing.
    """
    head = packed.model.get_output_embeddings()
    layers = {name: layer for name, layer in packed.layers.items()
              if isinstance(layer, PackedLinear) and layer is not head}
    count = len(packed.specs)
    changed: dict[str, torch.Tensor] = {}
    parts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for name, layer in layers.items():
        original = packed.originals[name].weight
        changed[name] = layer.weight.detach().clone()
        delta = (layer.weight - original).float()
        broken = ~torch.isfinite(delta).all(dim=(1, 2))
        delta[broken] = 0  # a diverged configuration has no spectrum
        parts[name] = torch.linalg.svd(delta, full_matrices=False)
    results: list[Metrics] = [{} for _ in range(count)]
    squares = {name: s.double().square() for name, (_, s, _) in parts.items()}
    whole = sum(s.sum(1) for s in squares.values())
    largest = max(min(layer.weight.shape[1:]) for layer in layers.values())
    for rank in [0, *[r for r in RANKS if r <= largest]]:
        for name, layer in layers.items():
            u, s, v = parts[name]
            delta = (u[:, :, :rank] * s[:, None, :rank]) @ v[:, :rank]
            layer.weight.data.copy_(packed.originals[name].weight + delta)
        losses = losses_of()
        energy = sum(s[:, :rank].sum(1) for s in squares.values())
        for k in range(count):
            results[k][f"truncated_test_loss_r{rank}"] = losses[k]
            if rank:
                results[k][f"delta_energy_r{rank}"] = float(energy[k] / whole[k]) if whole[k] > 0 else None
    for name, layer in layers.items():
        layer.weight.data.copy_(changed[name])
    return results
