"""The learning rates that the library recommends, beside the best ones of every sweep that this book ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorabook.claims.regime import pretraining_facts
from lorabook.experiments.results import recorded
from lorabook.page import ratios
from lorakit.analysis.curves import optima
from lorakit.analysis.palette import arm_rank
from lorakit.analysis.rates import regret
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import Table
from lorakit.theory.learning_rate import recommend_learning_rate


@dataclass(frozen=True)
class Advised:
    """What the rule said of one arm, and what the runs say.

    Args:
        base: the model.
        setting: data and length in a few words.
        arm: `full` or `rank 16`.
        advised, best: learning rates.
        cost: of the advised rate against the best trained one, as a share of the improvement; NaN off the grid.
        in_fit: whether these runs had a part in the rule's fit.
    """

    base: str
    setting: str
    arm: str
    advised: float
    best: float
    cost: float
    in_fit: bool

    @property
    def factor(self) -> float:
        """The advised rate over the best one."""
        return self.advised / self.best


def advised() -> list[Advised]:
    """Full fine-tuning and one rank of LoRA, sweep by sweep; the real model first."""
    short = Sweep([r for seed in ratios.SEEDS for r in recorded(f"learning-rate-smollm2-{seed}")])
    long, tiny, text = Sweep(ratios.on_gpu()), recorded("learning-rate"), recorded("rank")
    ladder = Sweep([*recorded("learning-rate-width"), *recorded("learning-rate-width-256")])
    found = [*_of(long, "SmolLM2-135M", "text, H200", "smollm2-135m", False),
             *_of(short, "SmolLM2-135M", "text", "smollm2-135m", True),
             *_of(tiny, "tiny", "skills, replay", "tiny", True)]
    for data in ("real-text", "reworded-skills", "random-associations"):
        found += _of(text.only(data), "tiny", data.replace("-", " "), "tiny", False)
    for width in (32, 64, 256):
        model = next(record.spec["model"] for record in ladder if f"-w{width}-" in record.spec["model"])
        config = {"model_type": "llama", "hidden_size": pretraining_facts(model)["hidden_size"]}
        found += _of(ladder.only(model=model), f"tiny, {width} wide", "skills, replay", config, False, rank=4)
    return found


def _of(part: Sweep, base: str, setting: str, model: Any, in_fit: bool, rank: int = 16) -> Iterator[Advised]:
    steps, untrained = int(part.runs["steps"].max()), float(part.runs["base_test_loss"].mean())
    best = optima(part.curves)
    for arm in ("full", f"rank {rank}"):
        rate = recommend_learning_rate(model, arm_rank(arm), steps=steps).learning_rate
        cost = regret(part.curves, arm, rate, untrained)
        yield Advised(base, f"{setting}, {steps:,} steps", arm, rate, best[arm].learning_rate, cost, in_fit)


def table(found: list[Advised]) -> Table:
    """One row an arm of a sweep; an asterisk marks runs that had a part in the rule's fit."""
    return Table([{
        "runs": f"{one.base}, {one.setting}" + "*" * one.in_fit, "arm": one.arm, "advised": _rate(one.advised),
        "best": _rate(one.best), "advised / best": f"{one.factor:.1f}",
        "costs": "off the grid" if one.cost != one.cost else f"{one.cost:+.0%}".replace("-", "−")} for one in found],
        "Advised and best rates; cost as a share of the arm's improvement over the base. *: had a part in the fit")


def _rate(value: float) -> str:
    return f"{value:.1e}".replace("e-0", "e-")
