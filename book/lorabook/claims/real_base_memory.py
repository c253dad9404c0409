"""E4's rules for SmolLM2-135M: strings beyond what low ranks hold; texts are those of `smollm2`."""

from __future__ import annotations

import math
from itertools import combinations

import pandas as pd

from lorabook.claims.decisions import FAILS, HOLDS, OPEN, Finding, Limit, Outcome, Unit, decide, over_seeds
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import MARGIN, by_seed, improvement
from lorabook.claims.real_runs import Runs
from lorakit.analysis.curves import COMMON, common_curve, departure_by_seed, departure_step, pointwise_minimum

TOKENS, BITS = 122 * 63, 12  # of all strings, and of each token
RANKS = (1, 2, 4, 16)
FRESH_SEEDS = 3
TWO, FACTOR = 2.0, 1.25
LEARNT = 0.99  # of the bits: all of them
PER_WEIGHT = Limit("bits that rank 1 stores a weight", (TWO / FACTOR, TWO * FACTOR),
                   Unit("", "bits stored a weight", form=".2f"))


def _runs(evidence: Evidence) -> Runs:
    return Runs(*evidence.of(evidence.datasets[0]), fresh_seeds=FRESH_SEEDS)


def _arm(rank: int) -> str:
    return f"rank {rank}, v_proj"


def _bits(runs: Runs, arm: str) -> dict[int, float]:
    """Bits learnt at the end, by seed: validation and test text are the two halves of what is learnt."""
    losses = [runs.confirmed(arm, f"{half}_loss") for half in ("validation", "test")]
    return {seed: TOKENS * (BITS - (loss + losses[1][seed]) / 2 / math.log(2)) for seed, loss in losses[0].items()}


def bits_of_weights(evidence: Evidence) -> Finding:
    """E4's rule for C10's bits a weight."""
    runs = _runs(evidence)
    weights = float(runs.metrics.loc[runs.metrics["arm"] == _arm(1), "parameters"].max())
    stored = [bits / weights for bits in _bits(runs, _arm(1)).values()]
    return decide([PER_WEIGHT.measured("", over_seeds(stored))], corrected=False, seeds=len(stored))


def rank_sets_departure(evidence: Evidence) -> Finding:
    """E4's rule for C2."""
    runs = _runs(evidence)
    arms = [_arm(rank) for rank in RANKS]
    learnt = {arm: _bits(runs, arm) for arm in ("full", *arms)}  # raises where fresh seeds are missing
    fresh = pd.concat([runs.fresh[(runs.fresh["arm"] == arm) & (runs.fresh["learning_rate"] == runs.chosen(arm))]
                       for arm in learnt])
    curves = pointwise_minimum(fresh)
    common = common_curve(curves)
    gain = improvement(by_seed(common[common["step"] == common["step"].max()], COMMON), runs.metrics)
    margin = MARGIN * gain.mean
    steps = {arm: departure_step(curves, arm, margin=margin) for arm in arms}
    seeds = {arm: departure_by_seed(curves, arm, margin=margin) for arm in arms}
    left = [step for step in steps.values() if step is not None]
    best = max(sum(bits.values()) / len(bits) for bits in learnt.values()) / (TOKENS * BITS)
    against = [f"{high} before {low}" for low, high in combinations(arms, 2) if all(
        _order(seeds[high][seed]) < _order(seeds[low][seed]) < math.inf for seed in seeds[low])]
    words = ", ".join(f"{arm} {'never' if step is None else f'at step {step}'}" for arm, step in steps.items())
    outcome: Outcome = OPEN
    if against:
        outcome = FAILS
    elif len(left) >= 3 and left == sorted(set(left)) and best < LEARNT:
        outcome = HOLDS
    reason = (f"Leaving the best arm's curve: {words}. The best arm learnt {best:.0%} of the bits. On every seed "
              f"against the order of ranks: {', '.join(against) or 'no two'}.")
    return Finding(outcome, reason, seeds=min(len(bits) for bits in learnt.values()))


def _order(step: int | None) -> float:
    return math.inf if step is None else step
