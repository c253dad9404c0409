"""What an adapter is: a frozen, validated description."""

from __future__ import annotations

import math
from typing import Annotated

from lorakit.spec_fields import Count, Decay, Flag, Listed, Name, Positive, allowed, require, spec

TARGET_GROUPS = ("all-linear", "attention", "mlp", "all-linear+head", "attention+head", "mlp+head", "experts",
                 "attention+experts")
TARGETS = f"one of {', '.join(TARGET_GROUPS)}, or a tuple of module names such as ('q_proj', 'v_proj')"
EXPERT_RANK = "a whole number of 1 or more with targets='experts' or 'attention+experts', else None"
SHARED_OUTER = "True with targets='attention+experts', else False"


@spec
class LoRASpec:
    """A LoRA adapter: W' = W + (alpha / rank) · B A, A ~ U(±1/√d_in), B = 0 (PEFT's parametrisation).

    Args:
        rank: inner dimension, 1 or more.
        alpha: numerator of the scale, > 0; 32 at every rank is the choice of Schulman et al. 2025.
        targets: `all-linear` (every linear layer but the head, as in PEFT), `attention`, `mlp`, each also with
            `+head`; `experts` (fused expert parameters) or `attention+experts`; or a tuple of module-name suffixes.
        train_a: False freezes A at its random start, so only B learns.
        init_a_scale: factor on A's initial values, > 0.
        learning_rate_b_ratio: learning rate of B divided by that of A, > 0 (LoRA+, arXiv 2402.12354).
        expert_rank: rank of the adapters on fused experts, scaled by alpha / expert_rank; None means `rank`.
        shared_outer: gate, up and down of each expert get adapters of their own, but the factor on the hidden side
            is one for all experts of a layer (Tinker's layout); False: PEFT's, a pair for each expert and parameter.
        rslora: scale by alpha / √rank (rsLoRA, arXiv 2312.03732).
        dropout: probability with which the adapter does not see an input, 0 up to, not including, 1; engines peft, trl.
        dora: W + B A gives the weights of each output their direction alone, and their length is learnt apart (DoRA,
            arXiv 2402.09353); engines peft, trl.
        pissa: A and B start from the largest singular vectors of W, and what remains of W is frozen (PiSSA,
            arXiv 2404.02948); engines peft, trl. Exports are plain LoRA of twice the rank over the base as it was.

    >>> LoRASpec(rank=4).scale
    8.0
    """

    rank: Count = 16
    alpha: Annotated[Positive, allowed("a number above 0 (Schulman et al. 2025 use 32)")] = 32.0
    targets: Annotated[Name | tuple[Name, ...], Listed, allowed(TARGETS)] = "all-linear"
    train_a: Flag = True
    init_a_scale: Positive = 1.0
    learning_rate_b_ratio: Annotated[Positive, allowed("a number above 0 (1 trains A and B alike)")] = 1.0
    expert_rank: Annotated[Count | None, allowed(EXPERT_RANK)] = None
    shared_outer: Annotated[Flag, allowed(SHARED_OUTER)] = False
    rslora: Flag = False
    dropout: Decay = 0.0
    dora: Flag = False
    pissa: Flag = False

    def __post_init__(self) -> None:
        named = isinstance(self.targets, str)
        require(self, "targets", self.targets in TARGET_GROUPS if named else self.targets != (), TARGETS)
        experts = named and "experts" in self.targets
        require(self, "expert_rank", self.expert_rank is None or experts, EXPERT_RANK)
        require(self, "shared_outer", not self.shared_outer or self.targets == "attention+experts", SHARED_OUTER)
        require(self, "pissa", not (self.pissa and (self.dora or self.init_a_scale != 1)),
                "True with dora=False and init_a_scale=1, or False")
        for field in ("dropout", "dora", "pissa"):
            require(self, field, not (experts and getattr(self, field)),
                    "the default with targets that name experts (PEFT's fused experts know no such variant)")

    @property
    def scale(self) -> float:
        """The factor on B A, alpha / rank, or alpha / √rank with `rslora`."""
        return self.scale_of(self.rank)

    def scale_of(self, rank: int) -> float:
        """The scale of an adapter of another rank, as on fused experts."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    @property
    def only_peft(self) -> list[str]:
        """The fields that ask for what PEFT's layers can and packs cannot."""
        return [f"{name}={getattr(self, name)}" for name in ("dropout", "dora", "pissa") if getattr(self, name)]
