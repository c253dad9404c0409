"""The rule of the claim on batch size, fixed before its records were looked at: evidence in, finding out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lorakit.study.curves import best_rate_by_validation
from lorakit.study.evidence import FAILS, HOLDS, OPEN, UNTESTED, Evidence, Finding, Outcome, combine, percent_text
from lorakit.study.regime import Regime, regime_of
from lorakit.study.rules.rank import HIGH_RANK, MARGIN
from lorakit.study.statistics import Interval, mean_interval, paired_difference

APART = 8

C5_RULE = (
    "Data: every dataset of the experiment. All batch sizes saw the same number of samples, and the rate of every arm "
    f"is chosen anew at each batch size. Ranks of {HIGH_RANK} or more, A trained. The small and the large batch are "
    "the smallest and the largest one at which the regime gate says post-training, if the large one is "
    f"{APART} times the small one or more; otherwise the dataset is not tested. Gap: test loss of LoRA minus that of "
    "full fine-tuning, each at its best rate by mean validation loss, at the last step, by seed. Growth: the gap at "
    f"the large batch minus that at the small one. Margin: {MARGIN:.0%} of full fine-tuning's mean improvement over "
    "the base at the small batch. Holds if (a) for every rank the 95 % interval of the growth lies above zero, with a "
    "mean of the margin or more, and (b) the interval of the highest rank's growth minus the lowest rank's lies within "
    "± the margin: rank does not change it. Does not hold if, at 95 % after Bonferroni's correction over all these "
    "intervals, the growth of a rank lies below the margin, or the difference of (b) wholly beyond it, on either "
    "side. Otherwise inconclusive, also with a single rank, or if full fine-tuning's improvement is not clearly above "
    "zero."
)


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


def gaps_by_batch(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None,
                  size: str = "record") -> list[Gaps]:
    """The gap of every LoRA arm at every batch size of one model and dataset, smallest batch first.

    Args:
        curves, metrics: of `tidy` and `runs`.
        peak_rate: of the base's pre-training.
        size: at `live` the gate is not asked, and a best rate at its grid's edge only warns.

    Raises:
        GridEdgeError: at `record`, a best rate is at the edge of its grid.
    """
    found = []
    for batch in sorted(curves["batch_size"].unique()):
        rows, runs = curves[curves["batch_size"] == batch], metrics[metrics["batch_size"] == batch]
        best = best_rate_by_validation(rows, "record" if size == "record" else "live")
        loss = best.pivot(index="seed", columns="arm", values="test_loss")
        full = loss["full"]
        gate = regime_of(rows if size == "record" else rows.iloc[:0], runs, peak_rate)
        lora = {str(arm): (loss[arm] - full).to_dict() for arm in loss if arm != "full"}
        found.append(Gaps(int(batch), lora, (runs["base_test_loss"].mean() - full).to_dict(), gate))
    return found


def growth(small: Gaps, large: Gaps, arm: str) -> dict[int, float]:
    """By seed, how much larger the arm's gap is at the large batch, in nats per label token."""
    return {seed: large.by_arm[arm][seed] - gap for seed, gap in small.by_arm[arm].items()}


def gap_grows_with_batch(evidence: Evidence) -> Finding:
    """C5, by `C5_RULE`."""
    return combine({d: _growths(*evidence.of(d), evidence.peak_learning_rate) for d in evidence.datasets})


def _growths(curves: pd.DataFrame, metrics: pd.DataFrame, peak_rate: float | None) -> Finding:
    all_gaps = gaps_by_batch(curves, metrics, peak_rate)
    regimes = "; ".join(f"batch {gaps.batch}: {gaps.regime}" for gaps in all_gaps)
    inside = [gaps for gaps in all_gaps if gaps.regime.name == "post-training"]
    if not inside or inside[-1].batch < APART * inside[0].batch:
        batches = ", ".join(str(gaps.batch) for gaps in inside) or "none"
        return Finding(UNTESTED, f"Batch sizes in post-training: {batches}; they must span a factor of {APART}.",
                       regime=regimes)
    small, large = inside[0], inside[-1]
    lora = curves.loc[(curves["method"] == "lora") & (curves["rank"] >= HIGH_RANK), ["arm", "rank"]].drop_duplicates()
    ranks = [arm for arm, rank in lora.sort_values("rank").itertuples(index=False) if arm == f"rank {rank:g}"]
    gain = mean_interval(list(small.improvement.values()))
    if len(ranks) < 2 or gain.low <= 0:
        return Finding(OPEN, f"Needs two ranks of {HIGH_RANK} or more and a clear improvement of full fine-tuning.",
                       regime=regimes)
    growths = [growth(small, large, arm) for arm in ranks]
    strict = 1 - 0.05 / (len(ranks) + 1)
    unit = 100 / gain.mean

    def spans(confidence: float) -> tuple[list[Interval], Interval]:
        rises = [mean_interval(list(by_seed.values()), confidence).scaled(unit) for by_seed in growths]
        return rises, paired_difference(growths[-1], growths[0], confidence).scaled(unit)

    rises, difference = spans(0.95)
    outcome = _outcome(rises, difference, *spans(strict))
    words = ", ".join(f"{arm} {percent_text(rise)}" for arm, rise in zip(ranks, rises, strict=True))
    reason = (f"From batch {small.batch} to {large.batch} the gap to full fine-tuning grew by, in % of its improvement "
              f"at batch {small.batch} (margin {MARGIN:.0%}): {words}; {ranks[-1]} against {ranks[0]}: "
              f"{percent_text(difference)}.")
    effect = f"{ranks[-1]}, growth of the gap from batch {small.batch} to {large.batch}, % of full's improvement"
    return Finding(outcome, reason, effect, rises[-1], regimes)


def _outcome(rises: Sequence[Interval], difference: Interval, strict_rises: Sequence[Interval],
             strict_difference: Interval) -> Outcome:
    margin = 100 * MARGIN
    if any(rise.high < margin for rise in strict_rises):
        return FAILS
    if strict_difference.low > margin or strict_difference.high < -margin:
        return FAILS
    grows = all(rise.low > 0 and rise.mean >= margin for rise in rises)
    return HOLDS if grows and -margin <= difference.low and difference.high <= margin else OPEN
