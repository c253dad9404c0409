"""The named lists of specs behind each figure, per profile and size: the only place where they are written.

What is fixed here was fixed before the record runs, from a pilot with one seed on `tiny` (November 2026): which
rates bracket the best one for every arm, and how many steps the random associations need.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lorakit.specs import SFTSpec, UnknownNameError, vary

PROFILES = ("cpu", "gpu", "paper")
SIZES = ("live", "record")
Specs = Callable[[], list[SFTSpec]]


@dataclass(frozen=True)
class Experiment:
    """A question and the runs that answer it.

    Args:
        name: also the name of the file of its records.
        question: one sentence.
        runs: (profile, size) to a function that lists the specs; absent where it is not defined.
    """

    name: str
    question: str
    runs: dict[tuple[str, str], Specs] = field(default_factory=dict)

    def specs(self, profile: str, size: str) -> list[SFTSpec]:
        """The specs of a profile and size; an empty list where the experiment is not defined."""
        for value, allowed, what in ((profile, PROFILES, "profile"), (size, SIZES, "size")):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")
        make = self.runs.get((profile, size))
        return make() if make else []


def _arms(base: SFTSpec, ranks: list[int], lora_rates: list[float], full_rates: list[float],
          seeds: int) -> list[SFTSpec]:
    """Every rank over the LoRA rates and full fine-tuning over its own, equally dense, with each seed."""
    lora = vary(base, rank=ranks, learning_rate=lora_rates, seed=range(seeds))
    return lora + vary(replace(base, lora=None), learning_rate=full_rates, seed=range(seeds))


def grid(center: float, points: int, per_decade: int = 3) -> list[float]:
    """`points` rates around `center`, log-spaced, `per_decade` to a factor of ten, rounded to 3 digits.

    >>> grid(1e-3, 3)
    [0.000464, 0.001, 0.00215]
    """
    half = points // 2
    return [float(f"{center * 10 ** (i / per_decade):.3g}") for i in range(-half, points - half)]


ASSOCIATIONS = SFTSpec(dataset="random-associations", learning_rate=1e-3, steps=800, evaluations=16)
SKILLS = SFTSpec(dataset="reworded-skills", learning_rate=1e-3, batch_size=8, max_length=40, evaluations=14)
TEXT = SFTSpec(dataset="real-text", learning_rate=1e-3, evaluations=14)
RANKS = [1, 2, 4, 8, 16, 64, 128]


def _rank_record() -> list[SFTSpec]:
    return [spec for base in (ASSOCIATIONS, SKILLS, TEXT)
            for spec in _arms(base, RANKS, grid(2.15e-3, 6), grid(1e-3, 6), seeds=5)]


def _rank_live() -> list[SFTSpec]:
    short = replace(ASSOCIATIONS, steps=200, evaluations=10)
    return _arms(short, [1, 16], [1e-3, 2.15e-3, 4.64e-3], [4.64e-4, 1e-3, 2.15e-3], seeds=2)


SMOLLM2 = SFTSpec(model="smollm2-135m-instruct-q4", dataset="real-text", learning_rate=1e-4, batch_size=2, steps=60,
                  evaluations=8, evaluation_tokens=1024)


def _smollm2_cpu() -> list[SFTSpec]:
    return _arms(SMOLLM2, [16], [1e-4, 3e-4, 1e-3], [1e-5, 3e-5, 1e-4], seeds=1)


def _rank_gpu() -> list[SFTSpec]:
    base = replace(SMOLLM2, batch_size=8, max_length=256, steps=300, evaluations=14, evaluation_tokens=16384,
                   dtype="float32")
    return _arms(base, [1, 16, 64, 128], grid(3e-4, 5, per_decade=2), grid(3e-5, 5, per_decade=2), seeds=3)


EXPERIMENTS = {
    experiment.name: experiment for experiment in (
        Experiment("rank", "At which rank does LoRA train like full fine-tuning, and when does a rank fall behind?", {
            ("cpu", "record"): _rank_record, ("cpu", "live"): _rank_live,
            ("gpu", "record"): _rank_gpu,
        }),
        Experiment("rank-smollm2", "Sixty steps of SmolLM2-135M on two cores: rank 16 beside full fine-tuning.", {
            ("cpu", "record"): _smollm2_cpu,
        }),
    )
}


def get(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        UnknownNameError: there is none; the message lists those that exist.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownNameError(f"no experiment {name!r}; {hint}experiments: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
