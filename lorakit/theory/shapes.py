"""Shapes of causal language models: how many weights each component has, and how many a LoRA adapter adds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lorakit.theory.configs import ConfigFields, fields_of, known_config
from lorakit.theory.families import shape_fields
from lorakit.theory.matrices import Matrix, waste_message
from lorakit.theory.quantization import Quantization

COMPONENTS = ("attention", "mlp", "experts", "router", "head", "embedding", "norms")
EXPERT_LAYOUTS = ("peft", "fused", "separate", "shared-outer")
TARGETS = {"all-linear": ("attention", "mlp"), "attention": ("attention",), "mlp": ("mlp",),
           "all-linear+head": ("attention", "mlp", "head")}


class RankWasteWarning(UserWarning):
    """A LoRA rank exceeds the smaller side of a matrix, so part of the adapter can add nothing."""


@dataclass(frozen=True)
class ModelShape:
    """Every weight of a causal language model, by component. Counted: matrices, biases, norms. No buffers.

    Args:
        name: what to call it.
        matrices: kinds of weight matrices; an expert matrix's `count` is layers × experts.
        vectors: weights in vectors (norms, biases), by component.
        tied: whether head and embedding share one matrix; its weights then count as the embedding's alone.
        hidden_size, layers: as in the config.
        query_size, key_size: width of a token's queries, and of its keys, over all heads.
        inner_size: width that a token has inside the MLP, over all experts that it visits.
        head_dim: width of one attention head.
        norms, head_norms: as in `families.Family`.
        experts: experts of each sparse layer, or None.
        active_experts: experts that one token visits, or None.
        peft_reaches_experts: whether PEFT 0.21's all-linear adapts fused experts and routers of this type.
        quantization: the format of a quantised base, or None.
        note: what a reader of any count should know, or None.

    >>> shape = ModelShape.of("llama-3.1-8b")
    >>> shape.parameters
    8030261248
    >>> shape.per_unit_rank()
    {'attention': 851968, 'mlp': 1769472, 'head': 132352}
    """

    name: str
    matrices: tuple[Matrix, ...]
    vectors: Mapping[str, int]
    tied: bool
    hidden_size: int
    layers: int
    query_size: int
    key_size: int
    inner_size: int
    head_dim: int
    norms: int = 2
    head_norms: str | None = None
    experts: int | None = None
    active_experts: int | None = None
    peft_reaches_experts: bool = True
    quantization: Quantization | None = None
    note: str | None = None

    @classmethod
    def of(cls, source: Any) -> ModelShape:
        """The shape of a known name, a Hugging Face config (dict or object) or a loaded model (its `.config`).

        Raises:
            UnknownNameError: a name that `known_config` does not know.
            ConfigError: the config lacks a field, or its model_type is not one of `families.MODEL_TYPES`.

        >>> ModelShape.of("tiny").parameters
        393856
        """
        if isinstance(source, str):
            return cls.from_config(known_config(source), name=source)
        config = getattr(source, "config", source)
        return cls.from_config(config, name=getattr(config, "name_or_path", None) or None)

    @classmethod
    def from_config(cls, config: Any, name: str | None = None) -> ModelShape:
        """The shape that a Hugging Face config describes, as a dict (config.json) or an object with `to_dict`."""
        return cls(**shape_fields(ConfigFields(fields_of(config)), name))

    @property
    def parameters_by_component(self) -> dict[str, int]:
        """Weights of each component that has any; a tied head has none of its own."""
        out = {c: sum(m.d_out * m.d_in * m.count for m in self.matrices if m.component == c) + self.vectors.get(c, 0)
               for c in COMPONENTS if not (c == "head" and self.tied)}
        return {component: count for component, count in out.items() if count}

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(self.parameters_by_component.values())

    def weight_bytes(self, wide: int) -> int:
        """Bytes of all weights at `wide` bytes each; of a quantised base's matrices, at the bits of its format.

        >>> ModelShape.of("tiny").weight_bytes(4)
        1575424
        """
        if self.quantization is None:
            return self.parameters * wide
        packed = sum(m.d_out * m.d_in * m.count for m in self.matrices if m.component in self.quantization.components)
        return (self.parameters - packed) * wide + round(packed * self.quantization.bits / 8)

    def adapted(self, targets: str | tuple[str, ...] = "all-linear", head: bool = False,
                experts: str | None = "peft") -> list[Matrix]:
        """The matrices that a selection adapts, each as LoRA sees it.

        Args:
            targets: `all-linear`, `attention`, `mlp` (the dense one), `all-linear+head`, or a tuple of matrix names.
            head: also adapt the head.
            experts: `peft` does as PEFT 0.21: the two all-linear groups reach Qwen's and Mixtral's fused experts (gate
                and up together, at twice the rank) and routers, but no dense MLP of the same model; the other groups,
                and all groups on gpt-oss, reach neither. None leaves experts and routers out. The rest adds experts to
                any group: `fused` the two fused matrices of each (PEFT's target_parameters); `separate` gate, up and
                down of each; `shared-outer` the same, sharing over a layer's experts the factor on the hidden side.
        """
        if experts is not None and experts not in EXPERT_LAYOUTS:
            raise ValueError(f"experts={experts!r}; allowed: None (left out), {', '.join(EXPERT_LAYOUTS)}")
        if isinstance(targets, str) and targets not in TARGETS:
            raise ValueError(f"targets={targets!r}; allowed: {', '.join(TARGETS)}, or a tuple of matrix names")
        if not isinstance(targets, str):
            names = {m.name for m in self.matrices if m.component in ("attention", "mlp", "head")}
            if unknown := [t for t in targets if t not in names]:
                raise ValueError(f"no matrix is called {unknown[0]!r}; available: {', '.join(sorted(names))}")
            chosen = [m for m in self.matrices if m.name in targets]
        else:
            chosen = [m for m in self.matrices if m.component in TARGETS[targets]]
        if head:
            chosen += [m for m in self.matrices if m.component == "head" and m not in chosen]
        if experts == "peft":
            if self.experts and self.peft_reaches_experts and str(targets).startswith("all-linear"):
                # PEFT moves gate, up and down by name to the experts, and so loses the dense layers of a mixed model
                chosen = [m for m in chosen if m.component != "mlp"]
                chosen += [replace(m, rank_factor=2 if m.name == "gate_up_proj" else 1) for m in self.matrices
                           if m.component in ("experts", "router")]
        elif experts == "fused":
            chosen += [m for m in self.matrices if m.component == "experts"]
        elif experts:
            shared = (self.experts or 1) if experts == "shared-outer" else 1
            for m in (m for m in self.matrices if m.component == "experts"):
                if m.name == "down_proj":
                    chosen.append(Matrix("experts", m.name, m.d_out, m.d_in, m.count, share_b=shared))
                else:
                    half = (m.d_out // 2, m.d_in, m.count, shared)
                    chosen += [Matrix("experts", "gate_proj", *half), Matrix("experts", "up_proj", *half)]
        return chosen

    def lora_parameters(self, rank: int, targets: str | tuple[str, ...] = "all-linear", head: bool = False,
                        experts: str | None = "peft", expert_rank: int | None = None) -> dict[str, int]:
        """Adapter weights of each component that a selection adapts: Σ rank · (d_out + d_in), biases none.

        Args:
            rank: rank of every adapter, 1 or more.
            targets, head, experts: as in `adapted`.
            expert_rank: rank of the experts' adapters; None means `rank`. Schulman et al. divide by `active_experts`.

        Warns:
            RankWasteWarning: a rank exceeds the smaller side of a matrix.

        >>> ModelShape.of("tiny").lora_parameters(1, head=True)  # 2 · 4 · (128 + 128), 2 · 3 · (128 + 256), 128 + 256
        {'attention': 2048, 'mlp': 2304, 'head': 384}
        """
        for field, value in (("rank", rank), ("expert_rank", 1 if expert_rank is None else expert_rank)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field}={value!r}; allowed: a whole number of 1 or more")
        chosen = self.adapted(targets, head, experts)
        out: dict[str, int] = {}
        for m in chosen:
            used = (expert_rank or rank) if m.component == "experts" else rank
            out[m.component] = out.get(m.component, 0) + m.lora_parameters(used)
        dense = [m for m in chosen if m.component != "experts"]
        expert = [m for m in chosen if m.component == "experts"]
        for r, matrices in ((rank, dense), (expert_rank or rank, expert)):
            if message := waste_message(r, matrices):
                warnings.warn(message, RankWasteWarning, stacklevel=2)
        return out

    def per_unit_rank(self, experts: str | None = "peft") -> dict[str, int]:
        """Adapter weights that one unit of rank adds to each component, the head included."""
        return self.lora_parameters(1, "all-linear+head", experts=experts)

    def wasted_parameters(self, rank: int, targets: str | tuple[str, ...] = "all-linear", head: bool = False,
                          experts: str | None = "peft") -> int:
        """Adapter weights beyond the rank that each (d_out, d_in) matrix can have, Σ (rank - min) · (d_out + d_in).

        >>> ModelShape.of("tiny").wasted_parameters(128), ModelShape.of("tiny").wasted_parameters(129)
        (0, 4352)
        """
        return sum(m.wasted_parameters(rank) for m in self.adapted(targets, head, experts))

