"""What an experiment is, and the two ways of listing its runs that every chapter shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec, vary

PROFILES = ("cpu", "gpu", "paper")
SIZES = ("live", "record")
Specs = Callable[[], list[SFTSpec]] | Callable[[], list[GRPOSpec]]
AnySpec = TypeVar("AnySpec", SFTSpec, GRPOSpec)


@dataclass(frozen=True)
class Experiment:
    """A question and the runs that answer it.

    Args:
        name: also the name of the file of its records.
        question: one sentence.
        runs: (profile, size) to a function that lists the specs; absent where it is not defined.
        engine: of `lorakit.sweep.sweeps` that runs them, unless a spec asks for another: see `engine_for`.
        probes: of `lorabook.probes`, made with each run. A record without one lacks its metrics, and is a run all the
            same.
        under_way: its records come in over days; until they are whole a page may read them as `optional` alone.
    """

    name: str
    question: str
    runs: dict[tuple[str, str], Specs] = field(default_factory=dict)
    engine: str = "packed"
    probes: tuple[str, ...] = ("base text",)
    under_way: bool = False

    def specs(self, profile: str, size: str) -> list[Any]:
        """The specs of a profile and size; an empty list where the experiment is not defined."""
        for value, allowed, what in ((profile, PROFILES, "profile"), (size, SIZES, "size")):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")
        make = self.runs.get((profile, size))
        return make() if make else []

    def engine_for(self, specs: Iterable[Any]) -> str:
        """The engine that can run these specs: vLLM samples under TRL alone."""
        return "trl" if any(spec.use_vllm for spec in specs) else self.engine


def arms(base: AnySpec, ranks: Iterable[int], lora_rates: Iterable[float], full_rates: Iterable[float],
         seeds: int) -> list[AnySpec]:
    """Every rank over the LoRA rates and full fine-tuning over its own, equally dense, with each seed."""
    lora = vary(base, rank=ranks, learning_rate=lora_rates, seed=range(seeds))
    return lora + vary(base, lora=[None], learning_rate=full_rates, seed=range(seeds))


def grid(center: float, points: int, per_decade: int = 3) -> list[float]:
    """`points` rates around `center`, log-spaced, `per_decade` to a factor of ten, rounded to 3 digits.

    >>> grid(1e-3, 3)
    [0.000464, 0.001, 0.00215]
    """
    half = points // 2
    return [float(f"{center * 10 ** (i / per_decade):.3g}") for i in range(-half, points - half)]
