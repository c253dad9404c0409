"""What an adapter is: a frozen, validated description, and the checks that specs share."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

TARGET_GROUPS = ("all-linear", "attention", "mlp", "all-linear+head", "attention+head", "mlp+head", "experts",
                 "attention+experts")


class SpecError(ValueError):
    """A field of a spec has a value that cannot be run."""


def _require(ok: bool, field: str, value: object, allowed: str) -> None:
    if not ok:
        raise SpecError(f"{field}={_shown(value)} cannot be run; allowed: {allowed}")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "<a whole number of thousands of digits>"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_count(value: object, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def _is_positive(value: object) -> bool:
    # compared before it is asked whether it is finite: a whole number may be too large to become a float
    return (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
            and math.isfinite(value))


@dataclass(frozen=True, kw_only=True)
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

    rank: int = 16
    alpha: float = 32.0
    targets: str | tuple[str, ...] = "all-linear"
    train_a: bool = True
    init_a_scale: float = 1.0
    learning_rate_b_ratio: float = 1.0
    expert_rank: int | None = None
    shared_outer: bool = False

    def __post_init__(self) -> None:
        _require(_is_count(self.rank), "rank", self.rank, "a whole number of 1 or more")
        _require(_is_positive(self.alpha), "alpha", self.alpha, "a number above 0 (the article uses 32)")
        _require(_is_positive(self.init_a_scale), "init_a_scale", self.init_a_scale, "a number above 0")
        _require(_is_positive(self.learning_rate_b_ratio), "learning_rate_b_ratio", self.learning_rate_b_ratio,
                 "a number above 0 (1 trains A and B alike)")
        _require(isinstance(self.train_a, bool), "train_a", self.train_a, "True or False")
        if isinstance(self.targets, list):
            object.__setattr__(self, "targets", tuple(self.targets))
        named = isinstance(self.targets, str) and self.targets in TARGET_GROUPS
        listed = isinstance(self.targets, tuple) and self.targets and all(isinstance(t, str) for t in self.targets)
        _require(bool(named or listed), "targets", self.targets,
                 f"one of {', '.join(TARGET_GROUPS)}, or a tuple of module names such as ('q_proj', 'v_proj')")
        experts = isinstance(self.targets, str) and "experts" in self.targets
        _require(self.expert_rank is None or (experts and _is_count(self.expert_rank)), "expert_rank", self.expert_rank,
                 "a whole number of 1 or more with targets='experts' or 'attention+experts', else None")
        _require(self.shared_outer is False or (self.shared_outer is True and self.targets == "attention+experts"),
                 "shared_outer", self.shared_outer, "True with targets='attention+experts', else False")
        for field in ("alpha", "init_a_scale", "learning_rate_b_ratio"):
            object.__setattr__(self, field, float(getattr(self, field)))

    @property
    def scale(self) -> float:
        """alpha / rank, the factor on B A."""
        return self.alpha / self.rank
