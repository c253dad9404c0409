"""Which part of a model holds how much of the gradient: shares of the empirical tangent kernel, by component."""

from __future__ import annotations

import copy
from typing import Any

import pandas
import torch

from lorakit.adapters.peft_layers import adapted_layers, attach, component_of
from lorakit.data.tokens import IGNORE, TokenSplit
from lorakit.specs import LoRASpec


def gradient_shares(model: Any, split: TokenSplit, tokens: int = 256, seed: int = 0,
                    lora: LoRASpec | None = None) -> pandas.DataFrame:
    """Split the empirical tangent kernel of a base model over its components.

    With g_i the gradient of log p(token i | its prefix), the kernel is K_ij = g_i · g_j. It is a sum over the weights,
    so each component holds a share of it, and the shares add up to 1. Two numbers of K are split: its trace
    Σ_i ‖g_i‖², the size of the gradients of single tokens, and its sum ‖Σ_i g_i‖², the size of the gradient of them
    all, which is what the first step of gradient descent on these tokens sees.

    Args:
        model: a causal LM without an adapter; left as it is.
        split: sequences with labels.
        tokens: label tokens to draw, 1 or more; all are taken where there are fewer.
        seed: of the draw, and of A.
        lora: take the gradients of this adapter's weights at its start instead; since B is zero there, A's are.

    Returns:
        One row a component: `component`, `parameters` (whose gradients were taken), and the shares
        `parameter_share`, `kernel_share` (of the trace) and `gradient_share` (of the sum), each 0 to 1.

    Raises:
        ValueError: no label token to draw.
    """
    places = (split.labels[:, 1:] != IGNORE).nonzero()
    if tokens < 1 or not len(places):
        raise ValueError(f"tokens={tokens} of {len(places)} label tokens: nothing to take a gradient of")
    chosen = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:tokens]]
    names, parameters, trained = _parameters(model, lora, seed)
    trace = torch.zeros(len(parameters), dtype=torch.float64)
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    for row in chosen[:, 0].unique().tolist():
        ids = split.input_ids[row : row + 1].to(parameters[0].device)
        log_p = trained(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        for place in chosen[chosen[:, 0] == row, 1].tolist():
            wanted = log_p[place, split.labels[row, place + 1]]
            gradients = torch.autograd.grad(wanted, parameters, retain_graph=True, allow_unused=True)
            for index, gradient in enumerate(gradients):
                if gradient is not None:  # an expert that this token does not visit
                    trace[index] += gradient.double().square().sum().item()
                    total[index] += gradient.double()
    frame = pandas.DataFrame({
        "component": names, "parameters": [p.numel() for p in parameters], "kernel_share": trace.tolist(),
        "gradient_share": [float(t.square().sum()) for t in total]}).groupby("component", sort=False).sum()
    frame.insert(1, "parameter_share", frame["parameters"])
    shares = ["parameter_share", "kernel_share", "gradient_share"]
    frame[shares] = frame[shares] / frame[shares].sum()
    return frame.reset_index()


def _parameters(model: Any, lora: LoRASpec | None, seed: int) -> tuple[list[str], list[torch.nn.Parameter], Any]:
    """The component and the parameter of each gradient, and a copy of the model that gives it."""
    trained = copy.deepcopy(model).requires_grad_(lora is None)
    if lora is None:
        named = list(trained.named_parameters())
        return [component_of(name, trained) for name, _ in named], [p for _, p in named], trained
    adapted = attach(trained, lora, seed)
    pairs = [(component_of(name.replace(".base_layer", ""), model), p)
             for name, layer in adapted_layers(adapted).items()
             for n, p in layer.named_parameters() if n.startswith(("lora_A.", "lora_B.")) and p.requires_grad]
    return [kind for kind, _ in pairs], [p for _, p in pairs], adapted
