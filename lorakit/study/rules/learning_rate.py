"""The rules of the claims on learning rates, fixed before their records were looked at: evidence in, finding out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lorakit.study.curves import arms, best_rate_by_validation, optima
from lorakit.study.evidence import FAILS, HOLDS, OPEN, SEEDS_NEEDED, UNTESTED, Evidence, Finding, Outcome, Scale
from lorakit.study.frames import runs, tidy
from lorakit.study.regime import Regime, pretraining_facts, regime_of
from lorakit.study.statistics import GridEdgeError, Interval, Optimum, mean_interval, ratio_interval

if TYPE_CHECKING:
    from lorakit.records import Store

TEN, ABOUT = 10.0, 1.5
HIGH_RANK, MIDDLE_RANK = 16, 4
SHIFT = 2.0
SHORT = 100
FLAT = 0.25
WIDTH_RANK = 4
WIDTHS = "learning-rate-width"

C3_RULE = (
    "Data: every dataset of the experiment where the regime gate says post-training, runs with alpha 32. An arm's best "
    "rate is the minimum of its U-curve of validation loss at the last step, seed by seed; ratios of best rates are "
    "geometric means over seeds with paired 95 % intervals. Three parts. (a) For every rank of "
    f"{HIGH_RANK} or more, LoRA's best rate over full fine-tuning's: the interval lies within a factor {ABOUT:g} of "
    f"{TEN:g}. (b) The best rate of the highest rank over that of the lowest rank of {MIDDLE_RANK} or more: the "
    f"interval lies below {SHIFT:g}. (c) The best rate of rank 1 over that of the highest rank: the interval lies below "
    "1. Holds if all parts do on every such dataset. Does not hold if on one dataset the interval of a part lies "
    "wholly outside, at 95 % after Bonferroni's correction over all its intervals. Otherwise inconclusive. No dataset "
    "in post-training: not tested."
)
C13_RULE = (
    f"Data: the width ladder of embedded models with the same data and steps, full fine-tuning and rank {WIDTH_RANK}, "
    "each width where the regime gate says post-training. For each seed, the slope of log(LoRA's best rate / full "
    "fine-tuning's) on log(width). Paper predicts the slopes 0 (constant), 1/2 and 1. Holds if the slope's 95 % "
    f"interval over seeds lies within ± {FLAT:g}, that is nearer to 0 than to 1/2; does not hold if it lies wholly "
    "beyond, on either side; otherwise inconclusive. Fewer than three widths in post-training: not tested. The seeds "
    "are those of fine-tuning: each width is one pre-trained base."
)
C14_RULE = (
    "Data: every dataset of the experiment where the regime gate says post-training, the highest rank with alpha 32. "
    f"(a) The ratio of best rates, LoRA over full fine-tuning, at the last evaluated step up to {SHORT}, over the same "
    "ratio at the last step, seed by seed: the 95 % interval lies above 1. (b) At the last step, at the best trained "
    "rate, the spectral norm of B over that of A, each a mean over layers: the interval lies above 1. Holds if both "
    "do on every such dataset, does not hold if an interval lies wholly below 1, otherwise inconclusive; also if the "
    f"runs are shorter than {2 * SHORT} steps, or a best rate at step {SHORT} is an end of its grid. No dataset in "
    "post-training: not tested."
)
