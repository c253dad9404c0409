"""The rule of the claim on batch size: evidence in, finding out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lorabook.claims import regime
from lorabook.claims.claim import claim
from lorabook.claims.decisions import OPEN, PERCENT, UNTESTED, Finding, Limit, combine, decide, over_seeds, paired
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import ARTICLE, HIGH_RANK, PER_CENT, by_rank, plain
from lorabook.claims.regime import Regime, regime_of
from lorakit.analysis.curves import best_rate_by_validation
from lorakit.analysis.statistics import mean_interval

APART, SMALLEST, FEWEST = 8, 32, 30  # factor between batches; sequences of the smallest; steps at the largest

GROWTH = Limit("growth of the gap to full fine-tuning from the small to the large batch, in % of its improvement at "
               "the small one", (0, math.inf), PERCENT, outside=(PER_CENT, math.inf), least_mean=PER_CENT)
ALIKE = Limit("the highest rank's growth minus the lowest rank's", (-PER_CENT, PER_CENT), PERCENT)


@dataclass(frozen=True)
class Gaps:
    """LoRA's test loss above full fine-tuning's at one batch size, and what 100 % means.

    Args:
        batch: sequences a step.
        by_arm: for each LoRA arm its gap by seed, in nats per label token.
        improvement: full fine-tuning's over the base, by seed, in nats per label token.
        regime: of full fine-tuning at this batch size.
    """

    batch: int
    by_arm: dict[str, dict[int, float]]
    improvement: dict[int, float]
    regime: Regime


def gaps_by_batch(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None) -> list[Gaps]:
    """The gap of every LoRA arm at every batch size of one model and dataset, smallest batch first.

    Args:
        curves, metrics: of `tidy` and `runs`.
        peak_rate: of the base's pre-training.

    Raises:
        GridEdgeError: a best rate is at the edge of its grid.
    """
    found = []
    for batch in sorted(curves["batch_size"].unique()):
        rows, runs = curves[curves["batch_size"] == batch], metrics[metrics["batch_size"] == batch]
        best = best_rate_by_validation(rows)
        loss = best.pivot(index="seed", columns="arm", values="test_loss")
        full = loss["full"]
        gate = regime_of(rows, runs, peak_rate)
        lora = {str(arm): (loss[arm] - full).to_dict() for arm in loss if arm != "full"}
        found.append(Gaps(int(batch), lora, (runs["base_test_loss"].mean() - full).to_dict(), gate))
    return found


def growth(small: Gaps, large: Gaps, arm: str) -> dict[int, float]:
    """By seed, how much larger the arm's gap is at the large batch, in nats per label token."""
    return {seed: large.by_arm[arm][seed] - gap for seed, gap in small.by_arm[arm].items()}


@claim("C5", source=ARTICLE, chapter="07-batch-size", experiments=("batch-size",), limits=[GROWTH, ALIKE],
       written="2026-11-22T02:46", changed=regime.CHANGED,
       why="The source's claim starts at batches of 32, so that a null below them decides nothing. " + regime.WHY,
       scope="In some settings: 10,000 examples of OpenThoughts3, batches of 32 and more.")
def gap_grows_with_batch(evidence: Evidence) -> Finding:
    """the gap between LoRA and full fine-tuning grows with the batch size, alike at every rank

    Data: every dataset of the experiment. All batch sizes saw the same number of samples, and the rate of every arm is
    chosen anew at each batch size. Ranks of {HIGH_RANK} or more, A trained. The small and the large batch are the
    smallest and the largest one, from {SMALLEST} sequences up and with {FEWEST} steps or more, at which the regime gate
    says post-training, if the large one is {APART} times the small one or more; otherwise the dataset is not tested.
    Gap: test loss of LoRA minus that of full fine-tuning, each at its best rate by mean validation loss, at the last
    step, by seed. Inconclusive also with a single rank, or if full fine-tuning's improvement at the small batch is not
    clearly above zero.
    """
    return combine({d: _growths(*evidence.of(d), evidence.peak_learning_rate) for d in evidence.datasets})


def _growths(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None) -> Finding:
    all_gaps = gaps_by_batch(curves, metrics, peak_rate)
    regimes = "; ".join(f"batch {gaps.batch}: {gaps.regime}" for gaps in all_gaps)
    steps = metrics.groupby("batch_size")["steps"].min()
    inside = [gaps for gaps in all_gaps if gaps.regime.name == "post-training" and gaps.batch >= SMALLEST
              and steps[gaps.batch] >= FEWEST]
    if not inside or inside[-1].batch < APART * inside[0].batch:
        batches, every = (", ".join(str(gaps.batch) for gaps in some) or "none" for some in (inside, all_gaps))
        return Finding(UNTESTED, f"Of batches of {every}, in post-training, of {SMALLEST} sequences or more and with "
                       f"{FEWEST} steps or more: {batches}; they must span a factor of {APART}.", regime=regimes)
    small, large = inside[0], inside[-1]
    lora = [arm for rank, arm in by_rank(plain(curves)).items() if rank >= HIGH_RANK]
    gain = mean_interval(list(small.improvement.values()))
    if len(lora) < 2 or gain.low <= 0:
        return Finding(OPEN, f"Needs two ranks of {HIGH_RANK} or more and a clear improvement of full fine-tuning.",
                       regime=regimes)
    growths = [growth(small, large, arm) for arm in lora]
    unit = 100 / gain.mean
    way = f"growth of the gap from batch {small.batch} to {large.batch}"
    grown = [GROWTH.measured(f"{arm}, {way}", over_seeds(list(by_seed.values()), unit))
             for arm, by_seed in zip(lora, growths, strict=True)]
    alike = ALIKE.measured(f"{lora[-1]} − {lora[0]}", paired(growths[-1], growths[0], unit))
    return decide([*grown, alike], regime=regimes)
