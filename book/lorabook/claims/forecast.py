"""Does the calculator's rank come out where LoRA of that rank equals full fine-tuning?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorabook.claims.associations import BITS
from lorabook.claims.rank import MARGIN
from lorabook.claims.reward import stretches
from lorakit.analysis.curves import arms, best_rate_by_validation
from lorakit.analysis.statistics import equivalent, paired_difference
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import Table
from lorakit.theory.capacity import BASELINE_RANK, recommend_rank

KNOWN = {"random-associations": BITS}  # and met more than once, so that no first pass counts them


@dataclass(frozen=True)
class Forecast:
    """One dataset: what was predicted, and what was needed.

    Args:
        bits: that the data carry: their shortest first pass, or known.
        learnt: of these, those that a run had learnt at its end.
        rank: predicted for all bits.
        rank_for_learnt: predicted for the bits learnt.
        too_low: the highest rank that is clearly worse than full fine-tuning; 0: none.
        equal: the lowest that is equal to it; None: none.
    """

    bits: float
    learnt: float
    rank: int
    rank_for_learnt: int
    too_low: int
    equal: int | None

    def fits(self, rank: int) -> bool:
        """Whether a rank lies above those that are too low, and not above the lowest that is equal."""
        return self.too_low < rank and (self.equal is None or rank <= self.equal)

    @property
    def word(self) -> str:
        """Of the predicted rank: right, too low or too high."""
        return "right" if self.fits(self.rank) else "too low" if self.rank <= self.too_low else "too high"

    @property
    def constant_fits(self) -> bool:
        """Whether always taking rank 8 would have been right."""
        return self.fits(BASELINE_RANK)


def forecast(sweep: Sweep, model: Any) -> Forecast:
    """The forecast for one dataset, and its test.

    Equal means that the 95 % interval of the paired difference lies within a twentieth of full fine-tuning's
    improvement; each arm is at its best rate.

    Args:
        sweep: full fine-tuning and several ranks on one dataset.
        model: their base, as `recommend_rank` takes it.
    """
    bits, learnt = bits_carried(sweep)
    ends = best_rate_by_validation(sweep.curves, sweep.size)
    loss = ends.pivot(index="seed", columns="arm", values="test_loss")
    margin = MARGIN * sweep.improvement()
    tests = {int(arm.removeprefix("rank ")): equivalent(paired_difference(loss[arm], loss["full"]), margin)
             for arm in arms(ends) if arm != "full"}
    return Forecast(bits, learnt, recommend_rank(model, bits=bits).rank, recommend_rank(model, bits=learnt).rank,
                    max((rank for rank, test in tests.items() if test == "different"), default=0),
                    min((rank for rank, test in tests.items() if test == "equal"), default=None))


def table(found: Mapping[str, Forecast]) -> Table:
    """Forecasts by dataset."""
    return Table([{"dataset": name, "bits": f"{one.bits:,.0f}", "floor": f"{one.rank}",
                   "too low": f"{one.too_low or '–'}", "equal": f"{one.equal or '–'}",
                   "the floor": one.word, f"rank {BASELINE_RANK}": "right" if one.constant_fits else "wrong"}
                  for name, one in found.items()], "The floor; the highest rank that is clearly too low, the lowest "
                 f"equal to full fine-tuning; and whether the floor, or always rank {BASELINE_RANK}, is right")


def bits_carried(sweep: Sweep) -> tuple[float, float]:
    """Bits that a dataset carries, by the shortest first pass or known, and those of them that were learnt."""
    dataset = str(sweep.runs["dataset"].iloc[0]).partition("@")[0]
    if dataset in KNOWN:
        return KNOWN[dataset], KNOWN[dataset]
    rows, met = stretches(sweep.curves, "tokens")
    nats = (rows["train_loss"] * met).groupby(rows["id"]).sum()  # a pass from its mean losses between evaluations
    runs = sweep.runs.assign(bits=sweep.runs["id"].map(nats) / math.log(2),
                             end=sweep.runs["tokens"] * sweep.runs["test_loss"] / math.log(2))
    cost = runs.groupby(["arm", "learning_rate"])[["bits", "end"]].mean()
    best = cost.loc[cost["bits"].idxmin()]
    return float(best["bits"]), float(max(best["bits"] - best["end"], 0.0))
