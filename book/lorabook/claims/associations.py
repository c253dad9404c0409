"""How much of the random associations each arm has stored, and when: bits from losses, beside C2's steps of leaving."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lorakit.analysis.curves import pointwise_minimum
from lorakit.analysis.statistics import Interval, mean_interval
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import ByArm

BITS = 6144.0  # of all pairs
NOTHING_STORED = math.log(16)  # the loss of knowing the letters and nothing else, nats


@dataclass(frozen=True)
class Stored:
    """What one arm stored.

    Args:
        weights: that were trained.
        bits: stored at the end, over seeds.
        half: the step at which half of all bits were stored, infinite where a seed has stored less at the end.
    """

    weights: int
    bits: Interval
    half: Interval

    @property
    def per_weight(self) -> float:
        """Bits a trained weight."""
        return self.bits.mean / self.weights


def stored(sweep: Sweep) -> ByArm[Stored]:
    """What each arm stored at its best rate, and when half of it: at the best rate of each step.

    A loss is a code length: what a pair still costs is not stored. Validation and test are two halves of the pairs.
    Between evaluations bits are linear in log steps.

    Args:
        sweep: of runs on `random-associations`.
    """
    ends, curves, weights = sweep.ends(), pointwise_minimum(sweep.curves), sweep.runs.groupby("arm")["parameters"].max()
    ends, curves = ends.assign(bits=_bits), curves.assign(bits=_bits)
    found = {arm: Stored(int(weights[arm]), mean_interval(ends.loc[ends["arm"] == arm, "bits"].tolist()),
                         mean_interval([_half(one) for _, one in curves[curves["arm"] == arm].groupby("seed")]))
             for arm in sweep.arms}
    return ByArm(found, f"Bits of random associations, of {BITS:,.0f}", lambda one: {
        "weights": f"{one.weights:,}", "bits stored": f"{one.bits:,.0f}", "a weight": f"{one.per_weight:.3f}",
        "half of them at step": f"{one.half:.0f}" if math.isfinite(one.half.mean) else "– (not reached)"})


def smallest_that_stored_all(found: ByArm[Stored]) -> str:
    """The lowest rank whose whole interval is within a hundredth of all bits; `none` where no rank's is."""
    return next((arm for arm, one in found.items() if arm != "full" and one.bits.low > 0.99 * BITS), "none")


def _bits(rows: pd.DataFrame) -> pd.Series:
    left = (rows["validation_loss"] + rows["test_loss"]) / 2 / NOTHING_STORED
    return (BITS * (1 - left)).clip(lower=0)


def _half(run: pd.DataFrame) -> float:
    run = run[run["step"] > 0].sort_values("step")
    if run["bits"].max() < BITS / 2:
        return math.inf
    after = int(np.argmax(run["bits"] >= BITS / 2))
    around = run.iloc[max(after - 1, 0):after + 1]
    return float(np.exp(np.interp(BITS / 2, around["bits"], np.log(around["step"]))))
