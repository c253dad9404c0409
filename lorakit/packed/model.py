"""A Hugging Face causal LM turned into one that trains K configurations at once, by replacing modules in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lorakit.adapters.peft_layers import adapted_layers, attach, body_linear_names, fused_names, peft_config
from lorakit.bases.families import OTHER_ENGINE, UnsupportedModelError, head_logits, require_family
from lorakit.data.tokens import IGNORE
from lorakit.packed.layers import PackedLoRALinear, PackedRMSNorm, is_rms_norm, merging_pays, stacked
from lorakit.packed.optimizer import Group, PackedAdamW
from lorakit.specs import SFTSpec

LOGITS_AT_ONCE = 2**27  # K · M · vocabulary beyond which logits are made in chunks and remade in the backward pass


class PackedModel:
    """K configurations over one base model. Use as a context manager: on exit the base is as it was.

    Args:
        model: a causal LM of one of the `families.FAMILIES`; its weights are never changed.
        specs: one a configuration; all LoRA or all full fine-tuning.

    Raises:
        UnsupportedModelError: a family that is not known, dropout, or adapters on what is no plain linear layer.
        TypeError: full fine-tuning of a layer that the engine has no packed form of.

    Attributes:
        optimizer: AdamW with a learning rate per configuration.
        originals: name to the module of the base that was replaced.
        parameters_trained: trainable parameters of each configuration, padding not counted.
    """

    def __init__(self, model: Any, specs: Sequence[SFTSpec]) -> None:
        require_family(model.config)
        self.model, self.specs = model, list(specs)
        self.is_full = specs[0].lora is None
        if any((spec.lora is None) != self.is_full for spec in specs):
            raise ValueError("a pack is either all LoRA or all full fine-tuning; split the specs")
        self.originals: dict[str, nn.Module] = {}
        self._requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self.base_square_norm = sum(float(p.detach().double().square().sum()) for p in model.parameters() if p.ndim > 1)
        self.layers: dict[str, Any] = {}
        try:
            groups = self._stack() if self.is_full else self._adapt()
            first, clip = self.specs[0], None
            if any(s.max_grad_norm is not None for s in specs):
                clip = self._vector([math.inf if s.max_grad_norm is None else s.max_grad_norm for s in specs], groups)
            self.optimizer = PackedAdamW(groups, (first.beta1, first.beta2), first.epsilon, clip)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> PackedModel:
        return self

    def __exit__(self, *_: object) -> None:
        for name, module in self.originals.items():
            _replace(self.model, name, module)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._requires_grad.get(name, True))

    def _vector(self, values: list[float], like: Sequence[Group]) -> torch.Tensor:
        parameter = like[0].parameters[0]
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.tensor(values, dtype=dtype, device=parameter.device)

    def _swap(self, name: str, new: nn.Module) -> None:
        self.originals[name] = self.model.get_submodule(name)
        _replace(self.model, name, new)
        self.layers[name] = new

    def _stack(self) -> list[Group]:
        whole = self.specs[0].full_targets == "all"
        tied = whole and getattr(self.model.config, "tie_word_embeddings", False)
        head = self.model.get_output_embeddings()
        chosen = {name for name, _ in self.model.named_modules()} if whole else set(body_linear_names(self.model))
        self.model.requires_grad_(False)
        for name, module in list(self.model.named_modules()):
            if name not in chosen or (tied and module is head):
                continue
            new = stacked(module, len(self.specs))
            if new is not None:
                self._swap(name, new)
        if tied:
            name = next(n for n, m in self.model.named_modules() if m is head)
            embedding = self.model.get_input_embeddings()
            new_head = stacked(head, len(self.specs))
            new_head.weight = embedding.weight  # type: ignore[union-attr]
            self._swap(name, new_head)
        unique = {id(p): p for layer in self.layers.values() for p in layer.parameters()}.values()
        matrices, vectors = [p for p in unique if p.ndim > 2], [p for p in unique if p.ndim <= 2]
        # As in transformers' Trainer: norms and biases are not decayed.
        # A rate keeps its digits over bfloat16 weights: rounded to 8 bits it would be off by up to 0.4 %.
        dtype, device = torch.promote_types(matrices[0].dtype, torch.float32), matrices[0].device
        rate = torch.tensor([s.learning_rate for s in self.specs], dtype=dtype, device=device)
        decay = torch.tensor([s.weight_decay for s in self.specs], dtype=dtype, device=device)
        self.parameters_trained = [sum(p.numel() for p in unique) // len(self.specs)] * len(self.specs)
        groups = [Group(matrices, rate, decay)]
        return groups + ([Group(vectors, rate, torch.zeros_like(decay))] if vectors else [])

    def _adapt(self) -> list[Group]:
        # Runs that differ in their rates alone start alike; attaching costs 30 ms, as much as a dozen small steps.
        begun: dict[tuple[Any, ...], dict[str, tuple[torch.Tensor, ...]]] = {}
        starts: list[dict[str, tuple[torch.Tensor, ...]]] = []
        for spec in self.specs:
            assert spec.lora is not None
            key = (spec.lora.rank, spec.lora.targets, spec.lora.init_a_scale, spec.seed)
            if key not in begun:
                if fused_names(self.model) and peft_config(spec.lora, self.model).target_parameters:
                    raise UnsupportedModelError(
                        f"targets={spec.lora.targets!r} reach the fused experts of this {self.model.config.model_type} "
                        f"model, which cannot be packed: {OTHER_ENGINE}, or take targets='attention'")
                adapted = attach(self.model, spec.lora, spec.seed)
                begun[key] = {
                    name: tuple(part["default"].weight.detach().clone() for part in (layer.lora_A, layer.lora_B))
                    for name, layer in adapted_layers(adapted).items()}
                self.model = adapted.unload()
            starts.append(begun[key])
        self.model.requires_grad_(False)
        count, rank = len(self.specs), max(s.lora.rank for s in self.specs if s.lora)
        tokens = self.specs[0].batch_size * self.specs[0].max_length
        scale = [s.lora.scale for s in self.specs if s.lora]
        names = [n for n, _ in self.model.named_modules() if any(n in start for start in starts)]
        for name in names:
            base = self.model.get_submodule(name)
            if type(base) is not nn.Linear:
                raise UnsupportedModelError(f"{name} is a {type(base).__name__}, and the packed engine adapts plain "
                                            f"linear layers: {OTHER_ENGINE}, or leave it out of targets")
            example = next(start[name][0] for start in starts if name in start)
            a = torch.zeros(count, rank, base.in_features, dtype=example.dtype, device=base.weight.device)
            b = torch.zeros(count, rank, base.out_features, dtype=example.dtype, device=base.weight.device)
            for k, start in enumerate(starts):
                if name in start:
                    start_a, start_b = start[name]
                    a[k, : len(start_a)] = start_a
                    b[k, : len(start_a)] = start_b.T
            merged = a.dtype == base.weight.dtype and merging_pays(tokens, rank, base.in_features, base.out_features)
            self._swap(name, PackedLoRALinear(base, a, b, torch.tensor(scale, dtype=a.dtype, device=a.device), merged))
        for name, module in list(self.model.named_modules()):
            if is_rms_norm(module) and module.weight.dtype == torch.float32:
                self.originals[name] = module
                _replace(self.model, name, PackedRMSNorm(module.weight.detach(), module.variance_epsilon))
        self.parameters_trained = [
            sum((a.numel() if s.lora and s.lora.train_a else 0) + b.numel() for a, b in start.values())
            for s, start in zip(self.specs, starts, strict=True)]
        layers = [self.layers[name] for name in names]
        like = layers[0].a

        def vector(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        decay = [s.weight_decay for s in self.specs]
        rate_a = [s.learning_rate if s.lora and s.lora.train_a else 0.0 for s in self.specs]
        rate_b = [s.learning_rate * s.lora.learning_rate_b_ratio for s in self.specs if s.lora]
        frozen_decay = [d if r else 0.0 for d, r in zip(decay, rate_a, strict=True)]
        return [Group([layer.a for layer in layers], vector(rate_a), vector(frozen_decay)),
                Group([layer.b for layer in layers], vector(rate_b), vector(decay))]

    def loss_sums(self, input_ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed negative log likelihood of the label tokens, and their number, per configuration.

        Args:
            input_ids: (K, B, T), padded on the right.
            labels: (K, B, T), -100 where the loss does not count.

        Returns:
            sums (K,) in nats and counts (K,).
        """
        count, batch, length = input_ids.shape
        flat = input_ids.reshape(count * batch, length)
        hidden = self.model.base_model(input_ids=flat, use_cache=False).last_hidden_state
        targets = labels[:, :, 1:].reshape(count, -1)
        mask = targets != IGNORE
        totals = mask.sum(1)
        # Only the positions that count go through the head; rows with fewer of them repeat position 0 with weight 0.
        width = int(totals.max())
        places = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        weight = mask.gather(1, places)
        hidden = hidden.view(count, batch, length, -1)[:, :, :-1].reshape(count, batch * (length - 1), -1)
        picked = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        goals = targets.gather(1, places).where(weight, 0)
        chunk = max(1, LOGITS_AT_ONCE // (count * self.model.config.vocab_size))
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        sums = torch.zeros(count, dtype=dtype, device=hidden.device)
        for start in range(0, width, chunk):
            part = (picked[:, start : start + chunk], goals[:, start : start + chunk], weight[:, start : start + chunk])
            if width > chunk and torch.is_grad_enabled():
                sums = sums + checkpoint(self._head_loss, *part, use_reentrant=False)
            else:
                sums = sums + self._head_loss(*part)
        return sums, totals

    def _head_loss(self, hidden: torch.Tensor, goals: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = head_logits(self.model, hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = functional.cross_entropy(logits.flatten(0, 1), goals.flatten(), reduction="none").view(goals.shape)
        return losses.where(weight, 0.0).sum(1)

    def configuration(self, k: int) -> dict[str, Any]:
        """Weights of configuration k without padding: `(A (r, d_in), B (d_out, r))` a layer, or plain ones for full."""
        spec = self.specs[k]
        if spec.lora is None:
            trained = {f"{name}.{part}": p[k].detach().clone()
                       for name, layer in self.layers.items() for part, p in layer.named_parameters()}
            others = self.model.named_parameters(remove_duplicate=False)
            return {name: p.detach().clone() for name, p in others if name not in trained} | trained
        rank = spec.lora.rank
        return {name: (layer.a[k, :rank].detach().clone(), layer.b[k, :rank].detach().T.contiguous())
                for name, layer in self.layers.items() if bool(layer.a[k].any()) or bool(layer.b[k].any())}

    @torch.no_grad()
    def delta_norms(self) -> list[float]:
        """‖ΔW‖ / ‖W‖ of each configuration: Frobenius norms over all matrices of the model."""
        squares = torch.zeros(len(self.specs), dtype=torch.float64)
        for name, layer in self.layers.items():
            if isinstance(layer, PackedLoRALinear):
                # ‖Aᵀ B‖² = ⟨A Aᵀ, B Bᵀ⟩ needs r × r products only
                a, b = layer.a.double(), layer.b.double()
                inner = (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(b, b.transpose(1, 2))).sum((1, 2))
                squares += (inner * layer.scale.double().flatten().square()).cpu()
            else:
                original = self.originals[name]
                for part, p in layer.named_parameters():
                    if p.ndim > 2 and not (part == "weight" and self._is_tied_head(name)):
                        squares += (p.double() - getattr(original, part).double()).square().sum((1, 2)).cpu()
        return [math.sqrt(s / self.base_square_norm) if math.isfinite(s) else math.inf for s in squares.tolist()]

    @torch.no_grad()
    def factor_norms(self) -> tuple[list[float], list[float]]:
        """Spectral norms of A and of B of each configuration, means over its layers (LoRA only)."""
        layers = [layer for layer in self.layers.values() if isinstance(layer, PackedLoRALinear)]
        a, b = (torch.stack([_spectral_norms(getattr(layer, part)) for layer in layers]) for part in "ab")
        adapted = (a != 0).sum(0).clamp(min=1)  # a layer that a configuration leaves alone is all padding there
        return (a.sum(0) / adapted).tolist(), (b.sum(0) / adapted).tolist()

    def _is_tied_head(self, name: str) -> bool:
        return bool(getattr(self.model.config, "tie_word_embeddings", False)) and name == "lm_head"


def _spectral_norms(factor: torch.Tensor) -> torch.Tensor:
    """Largest singular value of each (r, d) of a (K, r, d); NaN where it is not finite."""
    wide = factor.double()
    wide = wide if wide.shape[1] <= wide.shape[2] else wide.transpose(1, 2)
    gram = torch.bmm(wide, wide.transpose(1, 2))
    finite = torch.isfinite(gram).all(dim=(1, 2))
    # on the CPU: a GPU takes one of these small matrices after another
    largest = torch.linalg.eigvalsh(gram.where(finite.view(-1, 1, 1), 0.0).cpu())[:, -1].clamp(min=0).sqrt()
    return largest.where(finite.cpu(), math.nan)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, module)
