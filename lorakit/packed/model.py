"""A Hugging Face causal LM turned into one that trains K configurations at once, by replacing modules in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lorakit.adapters.factors import Factors
from lorakit.adapters.peft_layers import adapted_layers, attach, body_linear_names, fused_names, peft_config
from lorakit.bases.families import (
    LOGITS_AT_ONCE,
    OTHER_ENGINE,
    UnsupportedModelError,
    head_logits,
    is_rms_norm,
    require_family,
)
from lorakit.data.tokens import IGNORE
from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.attention import ATTENTION, LONGEST
from lorakit.packed.layers import FrozenLinear, PackedLoRALinear, PackedRMSNorm, merging_pays, stacked
from lorakit.packed.llama import llama_decoder
from lorakit.packed.optimizer import Group, PackedAdamW
from lorakit.result import delta_norm
from lorakit.specs import SFTSpec


class PackedModel:
    """K configurations over one base model. Use as a context manager: on exit the base is as it was.

    Args:
        model: a causal LM of one of the `families.FAMILIES`; its weights are never changed.
        specs: one a configuration; all LoRA or all full fine-tuning.
        tokens: of one configuration in a forward pass; None: those of a supervised spec's batch.

    Raises:
        UnsupportedModelError: a family that is not known, dropout, or adapters on what is no plain linear layer.
        TypeError: full fine-tuning of a layer that the engine has no packed form of.

    Attributes:
        layers: name to the module that trains in its place.
        originals: name to the module of the base that was replaced.
        optimizer: AdamW with a learning rate per configuration.
        compiles: whether training passes run compiled decoder layers; see `compiled`.
        decoder: the CPU backend that `loss_sums` computes the decoder by, or None for the model's own.
        parameters_trained: trainable parameters of each configuration, padding not counted.
    """

    def __init__(self, model: Any, specs: Sequence[SFTSpec] | Sequence[GRPOSpec], tokens: int | None = None) -> None:
        require_family(model.config)
        self.model, self.specs = model, list[SFTSpec | GRPOSpec](specs)
        first = self.specs[0]
        if tokens is None:
            assert isinstance(first, SFTSpec), "packs of RL say how many tokens they pass"
            tokens = first.batch_size * first.max_length
        self.is_full = first.lora is None
        if any((spec.lora is None) != self.is_full for spec in specs):
            raise ValueError("a pack is either all LoRA or all full fine-tuning; split the specs")
        self.originals: dict[str, nn.Module] = {}
        self.layers: dict[str, Any] = {}
        self.decoder = None
        self._requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self._attention = model.config._attn_implementation
        self.base_square_norm = sum(float(p.detach().double().square().sum()) for p in model.parameters() if p.ndim > 1)
        try:
            groups = self._stack() if self.is_full else self._adapt(tokens)
            self.optimizer = PackedAdamW(groups, (first.beta1, first.beta2), first.epsilon, [
                math.inf if s.max_grad_norm is None else s.max_grad_norm for s in specs])
            weight, self.compiles = next(self.model.parameters()), first.torch_compile
            if weight.device.type == "cpu" and weight.dtype != torch.bfloat16 and not self.compiles:
                if self._attention == "sdpa":
                    self.model.set_attn_implementation(ATTENTION)
                self.decoder = None if first.recompute else llama_decoder(self.model.base_model)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> PackedModel:
        return self

    def __exit__(self, *_: object) -> None:
        for name, module in self.originals.items():
            replace_module(self.model, name, module)
        if self.model.config._attn_implementation != self._attention:
            self.model.set_attn_implementation(self._attention)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._requires_grad.get(name, True))

    def _swap(self, name: str, new: nn.Module) -> None:
        self.originals[name] = self.model.get_submodule(name)
        replace_module(self.model, name, new)

    def _swap_frozen(self) -> None:
        """Put linear layers and norms that do not train into the forms that multiply fastest."""
        others = [(name, module) for name, module in self.model.named_modules() if name not in self.layers]
        for name, module in others:
            if type(module) is nn.Linear and not name.endswith(".base"):
                self._swap(name, FrozenLinear(module))
            elif is_rms_norm(module, self.model.config) and module.weight.dtype == torch.float32:
                self._swap(name, PackedRMSNorm(module.weight.detach(), module.variance_epsilon))

    def _stack(self) -> list[Group]:
        count, whole = len(self.specs), self.specs[0].full_targets == "all"
        tied = whole and getattr(self.model.config, "tie_word_embeddings", False)
        head = self.model.get_output_embeddings()
        chosen = {name for name, _ in self.model.named_modules()} if whole else set(body_linear_names(self.model))
        self.model.requires_grad_(False)
        for name, module in list(self.model.named_modules()):
            if name not in chosen or (tied and module is head):
                continue
            new = stacked(module, count, is_rms_norm(module, self.model.config))
            if new is not None:
                self._swap(name, new)
                self.layers[name] = new
        if tied:
            name = next(n for n, m in self.model.named_modules() if m is head)
            self.layers[name] = stacked(head, count, is_rms_norm=False)
            self.layers[name].weight = self.model.get_input_embeddings().weight
            self._swap(name, self.layers[name])
        self._swap_frozen()
        unique = {id(p): p for layer in self.layers.values() for p in layer.parameters()}.values()
        matrices, vectors = [p for p in unique if p.ndim > 2], [p for p in unique if p.ndim <= 2]
        self.parameters_trained = [sum(p.numel() for p in unique) // count] * count
        rates = [s.learning_rate for s in self.specs]
        # As in transformers' Trainer: norms and biases are not decayed.
        groups = [Group(matrices, rates, [s.weight_decay for s in self.specs]), Group(vectors, rates, [0.0] * count)]
        return [group for group in groups if group.parameters]

    def _adapt(self, tokens: int) -> list[Group]:
        starts = self._starts()
        self.model.requires_grad_(False)
        count, rank = len(self.specs), max(s.lora.rank for s in self.specs if s.lora)
        scale = [s.lora.scale for s in self.specs if s.lora]
        names = [n for n, _ in self.model.named_modules() if any(n in start for start in starts)]
        for name in names:
            base = self.model.get_submodule(name)
            if type(base) is not nn.Linear:
                raise UnsupportedModelError(f"{name} is a {type(base).__name__}, and the packed engine adapts plain "
                                            f"linear layers: {OTHER_ENGINE}, or leave it out of targets")
            dtype, device = next(start[name][0] for start in starts if name in start).dtype, base.weight.device
            a = torch.zeros(count, rank, base.in_features, dtype=dtype, device=device)
            b = torch.zeros(count, rank, base.out_features, dtype=dtype, device=device)
            for k, start in enumerate(starts):
                if name in start:
                    start_a, start_b = start[name]
                    a[k, : len(start_a)] = start_a
                    b[k, : len(start_a)] = start_b.T
            merged = dtype == base.weight.dtype and merging_pays(tokens, rank, base.in_features, base.out_features)
            self.layers[name] = PackedLoRALinear(base, a, b, torch.tensor(scale, dtype=dtype, device=device), merged)
            self._swap(name, self.layers[name])
        self._swap_frozen()
        self.parameters_trained = [
            sum((a.numel() if s.lora and s.lora.train_a else 0) + b.numel() for a, b in start.values())
            for s, start in zip(self.specs, starts, strict=True)]
        layers, decays = [self.layers[name] for name in names], [s.weight_decay for s in self.specs]
        rates_a = [s.learning_rate if s.lora and s.lora.train_a else 0.0 for s in self.specs]
        rates_b = [s.learning_rate * s.lora.learning_rate_b_ratio for s in self.specs if s.lora]
        decays_a = [decay if rate else 0.0 for decay, rate in zip(decays, rates_a, strict=True)]
        return [Group([la.a for la in layers], rates_a, decays_a), Group([la.b for la in layers], rates_b, decays)]

    def _starts(self) -> list[Factors]:
        """The factors that `attach` gives each configuration.

        Runs that differ in their rates alone start alike, and attaching costs 30 ms, as much as a dozen small steps.
        """
        found: dict[tuple[Any, ...], Factors] = {}
        keys = [(s.lora.rank, s.lora.targets, s.lora.init_a_scale, s.seed) for s in self.specs if s.lora]
        for spec, key in zip(self.specs, keys, strict=True):
            if key in found or spec.lora is None:
                continue
            if spec.lora.only_peft:
                raise UnsupportedModelError(f"packs do not train {', '.join(spec.lora.only_peft)}: {OTHER_ENGINE}")
            if fused_names(self.model) and peft_config(spec.lora, self.model).target_parameters:
                raise UnsupportedModelError(
                    f"targets={spec.lora.targets!r} reach the fused experts of this {self.model.config.model_type} "
                    f"model, which cannot be packed: {OTHER_ENGINE}, or take targets='attention'")
            adapted = attach(self.model, spec.lora, spec.seed)
            found[key] = {name: tuple(part["default"].weight.detach().clone() for part in (layer.lora_A, layer.lora_B))
                          for name, layer in adapted_layers(adapted).items()}
            self.model = adapted.unload()
        return [found[key] for key in keys]

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        """The decoder's last states (K·B, T, d) of ids (K·B, T)."""
        if self.decoder is not None and ids.shape[1] <= LONGEST:
            return self.decoder(ids)
        states: torch.Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def loss_sums(self, input_ids: torch.Tensor, labels: torch.Tensor,
                  most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed negative log likelihood of the label tokens, and their number, per configuration.

        Args:
            input_ids: (K, B, T), padded on the right.
            labels: (K, B, T), -100 where the loss does not count.
            most: the largest number of label tokens of a configuration, where the caller knows it: to look it up here
                a GPU would have to finish all that it was given.

        Returns:
            sums (K,) in nats and counts (K,).
        """
        count = len(input_ids)
        hidden = self._states(input_ids.flatten(0, 1))
        hidden = hidden.view(count, -1, hidden.shape[-1])
        goals = functional.pad(labels[:, :, 1:], (0, 1), value=IGNORE).flatten(1)
        totals = (goals != IGNORE).sum(1)
        # Where few positions count, only those go through the head; rows with fewer of them are filled up with others.
        most = int(totals.max()) if most is None else most
        if 2 * most < goals.shape[1]:
            places = (goals != IGNORE).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
            goals = goals.gather(1, places)
            hidden = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        chunk = max(1, LOGITS_AT_ONCE // (count * self.model.config.vocab_size))
        parts = list(zip(hidden.split(chunk, 1), goals.split(chunk, 1), strict=True))
        if len(parts) > 1 and torch.is_grad_enabled():
            sums = [checkpoint(self._head_loss, *part, use_reentrant=False) for part in parts]
        else:
            sums = [self._head_loss(*part) for part in parts]
        return torch.stack(sums).sum(0), totals

    def _head_loss(self, hidden: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        logits = head_logits(self.model, hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = functional.cross_entropy(logits.flatten(0, 1), goals.flatten(), ignore_index=IGNORE, reduction="none")
        return losses.view(goals.shape).sum(1)

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
        return [delta_norm(square, self.base_square_norm) for square in squares.tolist()]

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


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at the place of that name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, module)
