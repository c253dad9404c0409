"""Full fine-tuning's change cut to a rank after training, against LoRA trained at that rank."""

from __future__ import annotations

import pandas as pd

from lorakit.analysis.differences import Difference, Unit, difference
from lorakit.analysis.statistics import Interval, mean_interval
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import ByArm


def cut_minus_trained(sweep: Sweep) -> ByArm[Difference]:
    """By rank, the test loss of the cut runs minus LoRA's, paired by seed, each trained at its best rate.

    In per cent of full fine-tuning's improvement over the base; positive: cutting is worse.

    Args:
        sweep: full fine-tuning with the probe `truncation`, and LoRA of some of its ranks.
    """
    cut, ends = _cut(sweep), sweep.ends().pivot(index="seed", columns="arm", values="test_loss")
    unit = Unit.of_improvement(sweep.improvement(), "full")
    ranks = [arm for arm in sweep.arms if f"truncated_test_loss_{_short(arm)}" in cut]
    found = {arm: difference(ends[[arm]].assign(cut=cut[f"truncated_test_loss_{_short(arm)}"]), "cut", arm, unit)
             for arm in ranks}
    return ByArm(found, f"Full fine-tuning cut to the rank, minus LoRA trained at it, {unit.name}",
                 lambda gap: {"difference": f"{gap:+.1f}", "verdict": gap.word})


def energy(sweep: Sweep, rank: int) -> Interval:
    """The share of ‖ΔW‖² of full fine-tuning that its largest `rank` directions hold, over seeds."""
    return mean_interval(_cut(sweep)[f"delta_energy_r{rank}"].tolist())


def of_the_other_weights(sweep: Sweep) -> float:
    """The share of full fine-tuning's improvement that embedding, head and norms make without the other layers."""
    base = sweep.runs["base_test_loss"].mean()
    return float(base - _cut(sweep)["truncated_test_loss_r0"].mean()) / sweep.improvement()


def _cut(sweep: Sweep) -> pd.DataFrame:
    return sweep.only(arm="full").at_best().runs.set_index("seed")


def _short(arm: str) -> str:
    return f"r{arm.removeprefix('rank ')}"
