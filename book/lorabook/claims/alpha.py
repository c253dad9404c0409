"""The rules of alpha against learning rate and of high rank in RL, written on 2026-11-26 before their first runs.

The texts are the rules; the functions below them apply them to runs that are whole, and say of others: not run. Until
all are there a rule is not tested, unless what there is decides it; Bonferroni's correction counts every limit of the
rule, measured or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from lorabook.claims.decisions import (
    FAILS,
    HOLDS,
    OPEN,
    PERCENT,
    UNTESTED,
    Finding,
    Limit,
    Outcome,
    Unit,
    decide,
    paired,
)
from lorabook.claims.rank import MARGIN, PER_CENT
from lorabook.experiments.alpha import BATCHES, GROWING, HIGH, LOW, RANKS, SETTINGS
from lorabook.experiments.results import Results
from lorakit.analysis.curves import best_rate_by_validation, losses_at
from lorakit.analysis.statistics import GridEdgeError
from lorakit.analysis.sweep import Sweep

ALPHA_RULE = (
    "Ranks 4, 16 and 128 on `tiny`, post-training with replay, 206 steps, five seeds; alpha 8, 32 and 128, each at its "
    "own best rate by mean validation loss; four settings: plain Adam with its usual epsilon of 1e-8, and the same "
    "with weight decay 0.1, with clipping at 1, or without its epsilon (1e-30). Test loss minus that of alpha 32, "
    "paired by seed, in per cent of the mean improvement at alpha 32. That alpha does nothing that the rate cannot do "
    f"holds if every 95 % interval lies within ± {MARGIN:.0%} in every setting; does not hold if one lies wholly "
    "beyond after Bonferroni's correction; otherwise inconclusive."
)
HIGH_RANK_RULE = (
    "GRPO on `tiny`, copying, equally many episodes in steps of 8 or 32 problems times 8 completions, three seeds. (a) "
    "Alpha fixed at 32: test accuracy of ranks 64 and 128 minus rank 8's, each at its best rate by mean validation "
    f"accuracy, paired by seed. No collapse: every 95 % interval lies above minus {MARGIN:.0%} of rank 8's gain. (b) "
    "At rank 8's best rate: alpha of four times the rank minus alpha 32, for ranks 64 and 128. High rank collapses "
    "where alpha grows with it if both intervals lie below 0 at one batch size or both; it does not if both lie above "
    f"minus {MARGIN:.0%} at both. Otherwise inconclusive, after Bonferroni's correction where a limit refutes."
)

ALPHAS, USUAL = (8, 128), 32
LEFT = Limit("test loss minus that of alpha 32, in % of its improvement", (-PER_CENT, PER_CENT),
             replace(PERCENT, words="% of the improvement at alpha 32"))
GAINED = Unit(" %", "% of rank 8's gain", signed=True)
STEADY = Limit("test accuracy minus rank 8's, alpha 32, in % of its gain", (-PER_CENT, math.inf), GAINED)
COLLAPSE = Limit("test accuracy at rank 8's best rate, alpha of four times the rank minus alpha 32, in % of rank 8's "
                 "gain", (-math.inf, 0), GAINED, outside=(-math.inf, -PER_CENT), fails_first=True)


def arm_of(rank: int, alpha: int) -> str:
    """What a sweep calls a rank with an alpha."""
    return f"rank {rank}" + (f", alpha {alpha}" if alpha != USUAL else "")


def left_of_alpha(sweep: Sweep) -> dict[tuple[int, int], Limit]:
    """What is left of alpha once the rate is tuned: by rank and alpha, against alpha 32 at the same rank.

    Raises:
        GridEdgeError: a best rate is an end of its grid.
    """
    ends = best_rate_by_validation(sweep.curves)
    loss = ends.pivot(index="seed", columns="arm", values="test_loss")
    base = float(sweep.runs["base_test_loss"].mean())
    found = {}
    for rank in RANKS:
        usual = loss[arm_of(rank, USUAL)]
        unit = 100 / (base - float(usual.mean()))
        for alpha in ALPHAS:
            apart = paired(loss[arm_of(rank, alpha)].to_dict(), usual.to_dict(), unit)
            found[rank, alpha] = LEFT.measured(f"rank {rank}, alpha {alpha} − {USUAL}", apart)
    return found


def alpha_verdict(settings: Mapping[str, Sweep | None]) -> Finding:
    """The verdict of `ALPHA_RULE`.

    Args:
        settings: of `SETTINGS`, each with its runs; None where they are not whole.
    """
    limits, missing = [], [words for name, words in SETTINGS.items() if settings.get(name) is None]
    for name, words in SETTINGS.items():
        if (sweep := settings.get(name)) is None:
            continue
        try:
            limits += [replace(limit, label=f"{words}, {limit.label}") for limit in left_of_alpha(sweep).values()]
        except GridEdgeError as error:
            return Finding(OPEN, f"With {words}: {error}.")
    return _decided(limits, len(SETTINGS) * len(RANKS) * len(ALPHAS), missing)


def high_rank_runs(ran: Results) -> dict[int, Sweep | None]:
    """By problems a step, the runs of `grpo-high-rank`; None where they are not whole."""
    found: dict[int, Sweep | None] = {}
    for problems in BATCHES:
        defined = sum(spec.prompts_per_step == problems for spec in ran.specs)
        part = ran.only(batch_size=problems * ran.specs[0].group_size) if ran.missing < len(ran.specs) else None
        found[problems] = part if part is not None and len(part.records) == defined else None
    return found


def high_rank_verdicts(batches: Mapping[int, Sweep | None]) -> tuple[Finding, Finding]:
    """The verdicts of `HIGH_RANK_RULE`: no collapse with alpha fixed, and collapse where alpha grows with the rank.

    Args:
        batches: by problems a step, the runs; None where they are not whole.
    """
    missing = [f"{problems} problems a step" for problems, sweep in batches.items() if sweep is None]
    fixed, growing = [], []
    for problems, sweep in batches.items():
        if sweep is None:
            continue
        try:
            ends = best_rate_by_validation(sweep.curves[sweep.curves["arm"].isin(
                [f"rank {rank}" for rank in (LOW, *HIGH)])])
        except GridEdgeError as error:
            edge = Finding(OPEN, f"With {problems} problems a step: {error}.")
            return edge, edge
        best = ends.pivot(index="seed", columns="arm", values="test_accuracy")
        low = best[f"rank {LOW}"]
        unit = 100 / (float(low.mean()) - float(sweep.runs["base_test_accuracy"].mean()))
        rate = float(ends.loc[ends["arm"] == f"rank {LOW}", "learning_rate"].iloc[0])
        last = losses_at(sweep.curves)
        at = last[last["learning_rate"] == rate].pivot(index="seed", columns="arm", values="test_accuracy")
        for rank in HIGH:
            where = f"{problems} problems a step, rank {rank}"
            fixed.append(STEADY.measured(where, paired(best[f"rank {rank}"].to_dict(), low.to_dict(), unit)))
            growing.append(COLLAPSE.measured(f"{where} at {rate:g}", paired(
                at[arm_of(rank, GROWING * rank)].to_dict(), at[f"rank {rank}"].to_dict(), unit)))
    count = len(batches) * len(HIGH)
    pairs = [growing[place : place + len(HIGH)] for place in range(0, len(growing), len(HIGH))]
    falls = any(all(limit.span.high < 0 for limit in pair) for pair in pairs)
    none = all(limit.state(1 - 0.05 / count) == FAILS for limit in growing)
    outcome: Outcome = HOLDS if falls else UNTESTED if missing else FAILS if none else OPEN
    return _decided(fixed, count, missing), replace(_decided(growing, count, missing), outcome=outcome)


def _decided(limits: list[Limit], count: int, missing: list[str]) -> Finding:
    """A decision over what was run, as one of `count` limits; where runs are missing, a refutation alone stands."""
    after = f"Not run in full: {', '.join(missing)}." if missing else ""
    if not limits:
        return Finding(UNTESTED, after)
    found = decide(limits, count=count, after=after)
    return replace(found, outcome=UNTESTED) if missing and found.outcome != FAILS else found
