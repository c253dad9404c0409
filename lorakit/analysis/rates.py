"""Best learning rates over run length, and what another rate would have cost."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lorakit.analysis.curves import arms, losses_at, optima
from lorakit.analysis.statistics import GridEdgeError, Interval, mean_interval


def best_by_length(curves: pd.DataFrame) -> pd.DataFrame:
    """Best rate of every arm for every run length: columns `arm`, `rank`, `step`, `seed`, `learning_rate`.

    With a constant rate a step is the length of a finished run. Where the best trained rate is an end of the grid, the
    optimum may lie outside, and the arm has no row at that step.

    Args:
        curves: of `tidy`, of one model, dataset and batch size.
    """
    rows = []
    for step in sorted(int(step) for step in curves["step"].unique() if step > 0):
        for arm in arms(curves):
            one = curves[curves["arm"] == arm]
            try:
                best = optima(one, step=step)[arm]
            except GridEdgeError:
                continue
            rows += [{"arm": arm, "rank": one["rank"].iloc[0], "step": step, "seed": seed, "learning_rate": rate}
                     for seed, rate in best.per_seed.items()]
    return pd.DataFrame(rows, columns=["arm", "rank", "step", "seed", "learning_rate"])


def ratios(best: pd.DataFrame) -> pd.DataFrame:
    """LoRA's best rate over full fine-tuning's, with the same step and seed: the rows of LoRA with a column `ratio`.

    Args:
        best: of `best_by_length`, of arms with the same seeds, since a seed's value belongs to all of its arm's.
    """
    under = best.query("arm == 'full'")[["step", "seed", "learning_rate"]]
    both = best[best["arm"] != "full"].merge(under, on=["step", "seed"], suffixes=("", "_full"))
    return both.assign(ratio=both["learning_rate"] / both["learning_rate_full"])


def geometric_interval(values: pd.Series | list[float], confidence: float = 0.95) -> Interval:
    """Geometric mean over seeds with the t interval of the logarithms.

    >>> round(geometric_interval([2.0, 8.0]).mean, 9)
    4.0
    """
    return mean_interval([math.log(value) for value in values], confidence).exp()


def regret(curves: pd.DataFrame, arm: str, rate: float, base: float, step: int | None = None) -> float:
    """What training at `rate` costs against the arm's best trained rate, as a share of its improvement over the base.

    The mean test loss over seeds is read off the U-curve, linear between trained rates in log(rate); the best rate is
    the one that validation chose. Between two trained rates the result can be below zero.

    Args:
        curves: of `tidy`, of one model, dataset and batch size.
        base: test loss of the untrained base, nats per label token.
        step: the run length; None for the last step.

    Returns:
        the share; NaN where `rate` lies outside the grid or next to a rate at which a run diverged.
    """
    rows = losses_at(curves[curves["arm"] == arm], step).groupby("learning_rate")[["validation_loss", "test_loss"]]
    means = rows.mean().sort_index()
    least = float(means.loc[means["validation_loss"].idxmin(), "test_loss"])
    logs = np.log(means.index.to_numpy(dtype=float))
    here = float(np.interp(math.log(rate), logs, means["test_loss"], left=math.nan, right=math.nan))
    return (here - least) / (base - least) if math.isfinite(here) else math.nan


def power_law(x: pd.Series, y: pd.Series, seeds: pd.Series, confidence: float = 0.95) -> Interval:
    """The exponent k of y ~ x^k, fitted in logarithms seed by seed, with its interval over seeds.

    >>> x, seeds = pd.Series([1.0, 2.0, 4.0] * 2), pd.Series([0] * 3 + [1] * 3)
    >>> round(power_law(x, 3 * x**2, seeds).mean, 9)
    2.0
    """
    frame = pd.DataFrame({"x": np.log(x), "y": np.log(y), "seed": seeds})
    slopes = [float(np.polyfit(part["x"], part["y"], 1)[0]) for _, part in frame.groupby("seed")]
    return mean_interval(slopes, confidence)
