"""The rules for SmolLM2-135M in supervised training: texts and constants are those of `smollm2`, older than any run.

One base at one profile is one `Evidence` with every run of an experiment. What is not there yet is said, and the claim
is not tested.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lorabook.claims import layers, learning_rate, rank, smollm2
from lorabook.claims.datasets import by_data
from lorabook.claims.decisions import (
    FAILS,
    OPEN,
    PERCENT,
    Finding,
    Limit,
    decide,
    exactly,
    over_seeds,
    paired,
    ratio_of,
)
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import by_seed, improvement
from lorabook.claims.real_runs import ONE, NotYetError, Runs, each_dataset
from lorakit.analysis.curves import losses_at, optima

PER_CENT = 100 * smollm2.MARGIN
LINEAR, HIGH, TOP = "full, all-linear", f"rank {smollm2.HIGH_RANK}", "rank 64"
MIDDLE = f"rank {smollm2.MIDDLE_RANK}"
ATTENTION, MLP = "rank 26, attention", "rank 16, mlp"

ADDED_BY_BATCH = Limit("what the larger batch adds to the gap to full fine-tuning, in % of its improvement at the "
                       "smaller one", (0, math.inf), PERCENT)
ADDED_LESS = Limit("what the larger batch adds at rank 16 minus at rank 64", (-PER_CENT, PER_CENT), PERCENT,
                   outside=(-math.inf, PER_CENT))


def _only(evidence: Evidence) -> Runs:
    """The runs of the one dataset that an experiment on text has."""
    return Runs(*evidence.of(evidence.datasets[0]))


def equal_to_full(evidence: Evidence) -> Finding:
    """E1's rule for C1."""
    runs = _only(evidence)
    full, gain = runs.confirmed("full"), runs.gain()
    lora = {arm: runs.confirmed(arm) for arm in (HIGH, TOP)}
    limits = [rank.EQUAL.measured(f"{arm} − full", paired(loss, full, 100 / gain)) for arm, loss in lora.items()]
    try:
        linear = runs.confirmed(LINEAR)
        beside = "; ".join(str(rank.EQUAL.measured(f"{arm} − {LINEAR}", paired(loss, linear, 100 / gain)))
                           for arm, loss in lora.items())
    except NotYetError as error:
        beside = str(error).rstrip(".")
    return decide(limits, after=f"Beside it, deciding nothing, against the linear layers alone: {beside}.",
                  seeds=len(full))


def ten_times(evidence: Evidence) -> Finding:
    """E1's rule for C3: three parts, each printed with its own state."""
    runs = _only(evidence)
    best = optima(runs.screen("full", ONE, MIDDLE, HIGH, TOP))
    agree = [best[TOP].per_seed[seed] / rate < smollm2.SHIFT for seed, rate in best[MIDDLE].per_seed.items()]
    moved = best[TOP].grid_rate / best[MIDDLE].grid_rate
    steady = learning_rate.STEADY.measured(f"best rate of {TOP} / {MIDDLE}", ratio_of(best[TOP], best[MIDDLE]),
                                           can_hold=False)
    if all(agree) and moved == 1:
        said = f"chosen rate of {TOP} / {MIDDLE} (both seeds' ratios below {smollm2.SHIFT:g})"
        steady = steady.measured(said, exactly(moved), can_hold=True)
    return decide([
        learning_rate.TENFOLD.measured(f"best rate of {HIGH} / full", ratio_of(best[HIGH], best["full"])), steady,
        learning_rate.LOWER.measured(f"best rate of {ONE} / {HIGH}", ratio_of(best[ONE], best[HIGH]))],
        seeds=len(best[HIGH].per_seed))


def same_first_steps(evidence: Evidence) -> Finding:
    """E1's rule for C4."""
    runs = _only(evidence)
    rate = runs.chosen(HIGH)
    rows = runs.early[runs.early["learning_rate"] == rate]
    arms = (ONE, MIDDLE, HIGH, TOP)
    seeds = min(rows[rows["arm"] == arm]["seed"].nunique() for arm in arms)
    if seeds < smollm2.CONFIRMED:
        raise NotYetError(f"Needs {smollm2.CONFIRMED} fresh seeds of the first steps at {rate:g}; there are {seeds}.")
    at = {step: losses_at(rows, step) for step in sorted(rows.loc[rows["step"] > 0, "step"].unique())}
    gain = improvement(by_seed(at[smollm2.EARLY_STEPS], TOP), runs.metrics)
    if gain.low <= 0:
        raise NotYetError(f"By step {smollm2.EARLY_STEPS} {TOP} has not clearly improved on the base.")
    return decide([rank.SAME_START.measured(f"{arm} at step {step} − {TOP}", paired(
        by_seed(ends, arm), by_seed(ends, TOP), 100 / gain.mean)) for arm in arms[:-1] for step, ends in at.items()],
        before=f"At learning rate {rate:g}.", seeds=seeds)


def shorter_means_more(evidence: Evidence) -> Finding:
    """E1's rule for C14, its part (a)."""
    curves = _only(evidence).screen("full", HIGH)
    early = int(curves.loc[curves["step"] <= smollm2.SHORT, "step"].max())
    fall = learning_rate.fall_of_ratio(curves, HIGH, early)
    label = f"{HIGH}, ratio at step {early} / ratio at step {curves['step'].max()}"
    return decide([learning_rate.FALL.measured(label, fall)], seeds=fall(0.95).n)


def b_outgrows_a(evidence: Evidence) -> Finding:
    """E1's rule for C14, its part (b), judged apart."""
    curves = _only(evidence).screen(HIGH)
    return replace(learning_rate.grown_b(curves, HIGH), seeds=curves["seed"].nunique())


def mlp_carries_it(evidence: Evidence) -> Finding:
    """E2's rule for C6: a verdict for each dataset."""
    def judge(dataset: str) -> Finding:
        runs = Runs(*evidence.of(dataset))
        unit = 100 / runs.gain()
        attention, mlp, whole = (runs.confirmed(arm) for arm in (ATTENTION, MLP, HIGH))
        return decide([layers.APART.measured(f"{ATTENTION} − {MLP}", paired(attention, mlp, unit)),
                       layers.ADDED.measured(f"{MLP} − {HIGH}", paired(mlp, whole, unit))], seeds=len(mlp))

    return by_data(each_dataset(evidence, judge), layers.MADE_UP)


def gap_grows_with_batch(evidence: Evidence) -> Finding:
    """E5's rule for C5; what rank adds is judged apart, in the reason."""
    curves, metrics = evidence.of(evidence.datasets[0])
    small, large = (Runs(curves[curves["batch_size"] == batch], metrics[metrics["batch_size"] == batch])
                    for batch in (curves["batch_size"].min(), curves["batch_size"].max()))
    unit = 100 / small.gain()
    added = {}
    for arm in (HIGH, TOP):
        gaps = [{seed: loss - at.confirmed("full")[seed] for seed, loss in at.confirmed(arm).items()}
                for at in (small, large)]
        added[arm] = {seed: gaps[1][seed] - gap for seed, gap in gaps[0].items()}
    limits = [ADDED_BY_BATCH.measured(arm, over_seeds(list(by.values()), unit)) for arm, by in added.items()]
    less = decide([ADDED_LESS.measured(f"{HIGH} − {TOP}", paired(added[HIGH], added[TOP], unit))])
    found = decide(limits, after=f"Rank, apart ({less.outcome}): {less.reason}", seeds=len(added[TOP]))
    strict = [limit.at(1 - 0.05 / len(limits)) for limit in limits]
    if found.outcome == OPEN and all(span.low > -PER_CENT and span.high < PER_CENT for span in strict):
        why = f"Both lie within ±{PER_CENT:g} %: the larger batch adds nothing."
        return replace(found, outcome=FAILS, reason=f"{found.reason} {why}")
    return found
