"""What an adapter is: a frozen, validated description."""

from __future__ import annotations

from typing import Annotated

from lorakit.spec_fields import Count, Flag, Listed, Name, Positive, allowed, require, spec

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
        alpha: numerator of the scale, > 0; 32 is the article's choice at every rank.
        targets: `all-linear` (every linear layer but the head, as in PEFT), `attention`, `mlp`, each also with
            `+head`; `experts` (fused expert parameters) or `attention+experts`; or a tuple of module-name suffixes.
        train_a: False freezes A at its random start, so only B learns.
        init_a_scale: factor on A's initial values, > 0.
        learning_rate_b_ratio: learning rate of B divided by that of A, > 0 (LoRA+, arXiv 2402.12354).
        expert_rank: rank of the adapters on fused experts, scaled by alpha / expert_rank; None means `rank`.
        shared_outer: gate, up and down of each expert get adapters of their own, but the factor on the hidden side
            is one for all experts of a layer (Tinker's layout); False: PEFT's, a pair for each expert and parameter.

    >>> LoRASpec(rank=4).scale
    8.0
    """

    rank: Count = 16
    alpha: Annotated[Positive, allowed("a number above 0 (the article uses 32)")] = 32.0
    targets: Annotated[Name | tuple[Name, ...], Listed, allowed(TARGETS)] = "all-linear"
    train_a: Flag = True
    init_a_scale: Positive = 1.0
    learning_rate_b_ratio: Annotated[Positive, allowed("a number above 0 (1 trains A and B alike)")] = 1.0
    expert_rank: Annotated[Count | None, allowed(EXPERT_RANK)] = None
    shared_outer: Annotated[Flag, allowed(SHARED_OUTER)] = False

    def __post_init__(self) -> None:
        named = isinstance(self.targets, str)
        require(self, "targets", self.targets in TARGET_GROUPS if named else self.targets != (), TARGETS)
        experts = named and "experts" in self.targets
        require(self, "expert_rank", self.expert_rank is None or experts, EXPERT_RANK)
        require(self, "shared_outer", not self.shared_outer or self.targets == "attention+experts", SHARED_OUTER)

    @property
    def scale(self) -> float:
        """alpha / rank, the factor on B A."""
        return self.alpha / self.rank
