"""The rules of the claims on learning rates: evidence in, finding out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pandas as pd

from lorabook.claims import regime, window
from lorabook.claims.claim import claim
from lorabook.claims.decisions import (
    HOLDS,
    OPEN,
    PERCENT,
    RATIO,
    UNTESTED,
    At,
    Finding,
    Limit,
    combine,
    decide,
    paired,
    ratio_of,
)
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import ARTICLE, HIGH_RANK, by_rank, plain
from lorabook.claims.regime import regime_of
from lorakit.analysis.curves import arms, best_rate_by_validation, losses_at, optima
from lorakit.analysis.rates import geometric_interval
from lorakit.analysis.statistics import mean_interval

TEN, ABOUT = 10.0, 1.5
MIDDLE_RANK = 4
SHIFT = 2.0
SHORT, LONG, END = 100, 200, 1000  # steps: of a short run, of one to compare it with, of a long one
A1_STEPS = 2
SMOLLM2_RATES = tuple(f"learning-rate-smollm2-{seed}" for seed in range(5))

TENFOLD = Limit("best rate of a high rank over full fine-tuning's", (TEN / ABOUT, TEN * ABOUT), RATIO)
STEADY = Limit("best rate of the highest rank over that of the lowest middle rank", (0, SHIFT), RATIO)
LOWER = Limit("best rate of rank 1 over that of the highest rank", (0, 1), RATIO)
FALL = Limit("ratio of best rates, LoRA over full fine-tuning, at the early step over the same at the last step",
             (1, math.inf), RATIO)
GROWN = Limit("spectral norm of B over that of A at the last step, at the best trained rate, each a mean over layers",
              (1, math.inf), RATIO)
RISE = Limit("LoRA's loss minus full fine-tuning's, each in % of its own improvement over the base", (0, math.inf),
             replace(PERCENT, words="% of the improvement"))


def _in_post_training(evidence: Evidence, judge: Callable[[pd.DataFrame, pd.DataFrame], Finding]) -> Finding:
    """`judge` on every dataset inside the gate, combined; the regimes of all in words."""
    findings, regimes = {}, []
    for dataset in evidence.datasets:
        curves, metrics = (plain(frame) for frame in evidence.of(dataset))
        gate = regime_of(curves, metrics, evidence.peak_learning_rate)
        regimes.append(f"{dataset.partition('@')[0]}: {gate}")
        inside = gate.name == "post-training"
        findings[dataset] = judge(curves, metrics) if inside else Finding(UNTESTED, f"{gate}.")
    return replace(combine(findings), regime="; ".join(regimes))


@claim("C3", source=ARTICLE, chapter="06-learning-rate", experiments=("learning-rate", *SMOLLM2_RATES),
       limits=[TENFOLD, STEADY, LOWER], written="2026-11-22T02:38", changed=window.CHANGED,
       why=f"{window.WHY} {regime.WHY}",
       scope="Post-training on Tulu 3 and OpenThoughts 3, Llama 3 and Qwen3 models, alpha 32, ranks 1 to 512.")
def ten_times(evidence: Evidence) -> Finding:
    """the best learning rate of high-rank LoRA is about ten times that of full fine-tuning, moves by less than a factor
    of two from rank 4 upwards, and is lower at rank 1

    Data: every dataset of the experiment where the regime gate says post-training, runs with alpha 32, losses at the
    last step. {window.WORDS} High ranks are those of {HIGH_RANK} or more, middle ones those of {MIDDLE_RANK} or more.
    Inconclusive also where the ranks that a limit needs were not trained. No dataset in post-training: not tested.
    """
    return _in_post_training(evidence, _ten_times)


def _ten_times(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    best = optima(curves)
    ranks = {rank: best[arm] for rank, arm in by_rank(curves).items()}
    high = [rank for rank in ranks if rank >= HIGH_RANK]
    if "full" not in best or not high:
        return Finding(UNTESTED, f"Needs full fine-tuning and a rank of {HIGH_RANK} or more.")
    top, middle = max(high), min(rank for rank in ranks if rank >= MIDDLE_RANK)
    limits = [TENFOLD.measured(f"best rate of rank {rank} / full", ratio_of(ranks[rank], best["full"]))
              for rank in high]
    if middle < top:
        limits.append(STEADY.measured(f"best rate of rank {top} / rank {middle}", ratio_of(ranks[top], ranks[middle])))
    if 1 in ranks:
        limits.append(LOWER.measured(f"best rate of rank 1 / rank {top}", ratio_of(ranks[1], ranks[top])))
    found = decide(limits)
    if found.outcome == HOLDS and not (middle < top and 1 in ranks):
        return replace(found, outcome=OPEN, reason=f"{found.reason} Not all ranks that a limit needs were trained.")
    return found


APART = "The halves of the claim are judged apart: one interval decided for both, and the page printed the other. "


@claim("C14", source=ARTICLE, chapter="06-learning-rate", experiments=("learning-rate",), limits=[FALL],
       written="2026-11-22T02:38", changed=window.CHANGED, why=f"{APART}{window.WHY} {regime.WHY}",
       scope="Runs of about 100 steps against longer ones (anecdotal, the source says); Tulu 3 and OpenThoughts 3.")
def shorter_means_more(evidence: Evidence) -> Finding:
    """the shorter the run, the larger the ratio of the best learning rates of LoRA and full fine-tuning

    Data: every dataset of the experiment where the regime gate says post-training, the highest rank with alpha 32. The
    early step is the last evaluated one up to {SHORT}; ratios are compared seed by seed, best rates as in C3.
    Inconclusive also if the runs are shorter than {LONG} steps, or a best rate at step {SHORT} is an end of its grid.
    No dataset in post-training: not tested.
    """
    return _in_post_training(evidence, _shorter_means_more)


def _shorter_means_more(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    lora = [arm for arm in arms(curves) if arm != "full"]
    last = int(curves["step"].max())
    if not lora or last < LONG:
        return Finding(OPEN, f"Needs LoRA runs of {LONG} steps or more.")
    early = int(curves.loc[curves["step"] <= SHORT, "step"].max())
    return decide([FALL.measured(f"{lora[-1]}, ratio at step {early} / ratio at step {last}",
                                 fall_of_ratio(curves, lora[-1], early))])


def fall_of_ratio(curves: pd.DataFrame, arm: str, early: int) -> At:
    """The ratio of best rates, an arm's over full fine-tuning's, at an early step over the same at the last step."""
    pair = curves[curves["arm"].isin(["full", arm])]
    logs: list[dict[int, float]] = []
    for step in (early, int(curves["step"].max())):
        best = optima(pair, step=step)
        logs.append({seed: math.log(rate / best["full"].per_seed[seed]) for seed, rate in best[arm].per_seed.items()})
    return lambda confidence: paired(logs[0], logs[1])(confidence).exp()


@claim("C14-B", source=ARTICLE, chapter="06-learning-rate", experiments=("learning-rate",), limits=[GROWN],
       written="2026-11-22T02:38", changed=regime.CHANGED,
       why=f"{APART}The source speaks of the end of long runs: fewer than {END:,} steps test nothing. {regime.WHY}",
       scope="Long runs; Tulu 3 and OpenThoughts 3.")
def b_outgrows_a(evidence: Evidence) -> Finding:
    """by the end of a run B has grown larger than A

    Data: every dataset of the experiment where the regime gate says post-training, the highest rank with alpha 32, seed
    by seed. Runs of fewer than {END:,} steps, or no dataset in post-training: not tested.
    """
    return _in_post_training(evidence, _b_outgrows_a)


def _b_outgrows_a(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    lora = [arm for arm in arms(curves) if arm != "full"]
    return grown_b(curves, lora[-1]) if lora else Finding(UNTESTED, "Needs LoRA.")


def grown_b(curves: pd.DataFrame, arm: str) -> Finding:
    """Whether an arm's B is larger than its A at the end of long runs."""
    ends, last = norms_at_best(curves, arm), int(curves["step"].max())
    grown = GROWN.measured(f"{arm}, norm of B / norm of A at step {last}",
                           partial(geometric_interval, ends["norm_b"] / ends["norm_a"]))
    return decide([grown]) if last >= END else Finding(UNTESTED, f"Runs of {last} steps are not long; there, {grown}.")


def norms_at_best(curves: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Rows of the last step at the arm's best trained rate, one a seed, with `norm_a` and `norm_b`."""
    one = curves[curves["arm"] == arm]
    best = float(best_rate_by_validation(one)["learning_rate"].iloc[0])
    return one[(one["learning_rate"] == best) & (one["step"] == one["step"].max())]


@claim("A1", source="anyscale2023lora", chapter="06-learning-rate", experiments=("learning-rate",), limits=[RISE],
       written="2026-11-22T02:57", scope="Llama 2 on SQL and GSM8K, where 1e-4 was unstable and 3e-5 was not.")
def more_sensitive(evidence: Evidence) -> Finding:
    """LoRA is more sensitive than full fine-tuning to a learning rate that is about three times too high

    Written after the pilot, which hinted at it, and before the records. Data: every dataset of the experiment, runs
    with alpha 32, full fine-tuning and the highest rank. Each arm at its best trained rate by mean validation loss, and
    at the rate {A1_STEPS} places further up the same grid (a factor of about 3), final test loss, paired by seed.
    Inconclusive also where a grid ends too early.
    """
    return combine({dataset: _more_sensitive(*(plain(frame) for frame in evidence.of(dataset)))
                    for dataset in evidence.datasets})


def _more_sensitive(curves: pd.DataFrame, metrics: pd.DataFrame) -> Finding:
    names = arms(curves)
    if len(names) < 2 or names[0] != "full":
        return Finding(UNTESTED, "Needs full fine-tuning and LoRA.")
    base = float(metrics["base_test_loss"].mean())
    lora, full = (rise_above_best(curves, arm, base) for arm in (names[-1], "full"))
    if lora is None or full is None:
        return Finding(OPEN, f"A grid ends less than {A1_STEPS} places above its best rate.")
    means = [mean_interval(list(rise.values())).mean for rise in (lora, full)]
    reason = (f"{A1_STEPS} places above its best rate {names[-1]} loses {means[0]:.1f} % of its improvement, full "
              f"fine-tuning {means[1]:.1f} %.")
    return decide([RISE.measured(f"{names[-1]}'s loss minus full fine-tuning's", paired(lora, full))], before=reason)


def rise_above_best(curves: pd.DataFrame, arm: str, base: float, places: int = A1_STEPS) -> dict[int, float] | None:
    """What training above the best rate costs, by seed, in per cent of the arm's improvement; None off the grid.

    Args:
        base: test loss of the untrained base; a run that diverged counts as no better than that.
        places: how far up the grid of trained rates.
    """
    ends = losses_at(curves[curves["arm"] == arm])
    validation = ends.pivot(index="seed", columns="learning_rate", values="validation_loss")
    test = ends.pivot(index="seed", columns="learning_rate", values="test_loss").clip(upper=base)
    best = int(validation.mean().to_numpy().argmin())
    if best + places >= len(test.columns):
        return None
    gain = base - float(test.iloc[:, best].mean())
    rise = 100 * (test.iloc[:, best + places] - test.iloc[:, best]) / gain
    return {int(seed): float(value) for seed, value in rise.items()}
