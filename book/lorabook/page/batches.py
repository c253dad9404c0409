"""What a larger batch does to rates, losses and samples, from the runs of one experiment at several batch sizes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lorabook.experiments.results import Results
from lorakit.analysis.curves import losses_at, pointwise_minimum
from lorakit.analysis.rates import power_law
from lorakit.analysis.statistics import Interval

Parts = dict[int, Results]


def by_batch(ran: Results) -> Parts:
    """The runs of each batch size, smallest first."""
    return {int(batch): ran.only(batch_size=int(batch)) for batch in sorted(ran.curves["batch_size"].unique())}


def best_rates(parts: Parts) -> pd.DataFrame:
    """One row a batch size, arm and seed: `batch_size`, `arm`, `seed`, `learning_rate`."""
    return pd.DataFrame([{"batch_size": batch, "arm": arm, "seed": seed, "learning_rate": rate}
                         for batch, part in parts.items() for arm, best in part.optima().items()
                         for seed, rate in best.per_seed.items()])


def powers(rates: pd.DataFrame) -> dict[str, Interval]:
    """The power of the batch that each arm's best rate follows, seed by seed."""
    return {str(arm): power_law(rows["batch_size"], rows["learning_rate"], rows["seed"])
            for arm, rows in rates.groupby("arm", sort=False)}


def by_the_root(rates: pd.DataFrame) -> pd.DataFrame:
    """Full fine-tuning's mean rate at the smallest batch, carried on by the root of the batch, as a line of its own."""
    batches = sorted(rates["batch_size"].unique())
    first = rates[(rates["arm"] == "full") & (rates["batch_size"] == batches[0])]["learning_rate"]
    start = math.exp(float(np.log(first).mean()))
    return pd.DataFrame([{"batch_size": batch, "arm": "root of the batch",
                          "learning_rate": start * math.sqrt(batch / batches[0])} for batch in batches])


def brackets(parts: Parts) -> pd.DataFrame:
    """Where the loss at a larger batch lies between two points of the curve of the smallest one.

    Returns:
        One row an arm and batch: `low` (the smallest batch's loss after all samples), `measured`, `high` (its loss
        after as many steps as the larger batch makes) and `samples`, how many times the samples of the smallest batch
        the larger one needs for the loss that it reaches.
    """
    small = min(parts)
    curves = pointwise_minimum(parts[small].curves).groupby(["arm", "step"])["test_loss"].mean().unstack()
    steps = int(curves.columns.max())
    rows = []
    for batch, part in parts.items():
        ends = part.ends().groupby("arm", sort=False)["test_loss"].mean() if batch > small else {}
        for arm, loss in ends.items():
            curve = curves.loc[arm].cummin()
            logs = np.log(curve.index.to_numpy(float))
            after = float(np.interp(math.log(steps * small / batch), logs, curve))
            used = math.exp(float(np.interp(-loss, -curve, logs)))
            rows.append({"arm": arm, "batch": batch, "low": float(curve.iloc[-1]), "measured": float(loss),
                         "high": after, "samples": steps / used})
    return pd.DataFrame(rows).set_index(["arm", "batch"])


def left_alone(parts: Parts, arm: str, batch: int) -> float:
    """What the best rate of the smallest batch loses at a larger one, in per cent of full fine-tuning's improvement.

    The nearest trained rate stands for it.
    """
    old = parts[min(parts)].optima()[arm].grid_rate
    part = parts[batch]
    rows = losses_at(part.curves).query("arm == @arm").groupby("learning_rate")["test_loss"].mean()
    nearest = min(rows.index, key=lambda rate: abs(math.log(rate / old)))
    best = part.ends().query("arm == @arm")["test_loss"].mean()
    return float(100 * (rows[nearest] - best) / parts[min(parts)].improvement())
