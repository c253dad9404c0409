"""The rules for SmolLM2-135M in reinforcement learning: texts and constants are those of `smollm2`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

from lorabook.claims import grpo, learning_rate, rl_tasks, smollm2
from lorabook.claims.datasets import by_data
from lorabook.claims.decisions import Finding, decide, paired, ratio_of
from lorabook.claims.evidence import Evidence
from lorabook.claims.rank import by_seed
from lorabook.claims.real_base import ATTENTION, HIGH, MLP
from lorabook.claims.real_runs import ONE, NotYetError, RLRuns, each_dataset
from lorabook.experiments.smollm2 import E3_TASKS, FRESH_RL
from lorakit.analysis.curves import losses_at, optima

PER_CENT = 100 * smollm2.E3_MARGIN
APART = replace(grpo.APART, what="test accuracy of attention alone minus the MLP alone, in % of full fine-tuning's "
                "gain", unit=grpo.GAINED, outside=(-math.inf, -PER_CENT))


def _on_tasks(evidence: Evidence, judge: Callable[[RLRuns], Finding], tasks: Collection[str] = E3_TASKS) -> Finding:
    """`judge` on the runs of each task, a verdict for each."""
    return by_data(each_dataset(evidence, lambda task: judge(RLRuns(*evidence.of(task))), tasks), ())


def equal_in_rl(evidence: Evidence) -> Finding:
    """E3's rule for C8; the band of part (b) is judged apart, in the reason."""
    return _on_tasks(evidence, _equal_in_rl)


def _equal_in_rl(runs: RLRuns) -> Finding:
    said = runs.precondition
    reached = {arm: runs.confirmed(arm, "test_accuracy") for arm in ("full", ONE, HIGH)}
    gain = runs.gain()
    gaps = [grpo.EQUAL.measured(f"{arm} − full", paired(reached[arm], reached["full"], 100 / gain))
            for arm in (ONE, HIGH)]
    counts = rl_tasks.good_rates(runs.screen("full", ONE, HIGH), gain)
    wider = decide([grpo.WIDER.measured(f"{arm} − full", paired(counts[arm], counts["full"])) for arm in (ONE, HIGH)])
    after = " ".join(filter(None, (f"The band, apart ({wider.outcome}): {wider.reason}", runs.heaps(reached))))
    return decide(gaps, before=said, after=after, seeds=len(reached["full"]))


def ten_times_in_rl(evidence: Evidence) -> Finding:
    """E3's rule for C3-RL."""
    def judge(runs: RLRuns) -> Finding:
        best = optima(runs.screen("full", ONE, HIGH))
        return decide([grpo.IN_RL.measured(f"best rate of {arm} / full", ratio_of(best[arm], best["full"]))
                       for arm in (ONE, HIGH)], seeds=len(best["full"].per_seed))

    return _on_tasks(evidence, judge)


def ten_times_at_rank_one(evidence: Evidence) -> Finding:
    """E3's rule for T1: the screened seeds and the fresh ones."""
    def judge(runs: RLRuns) -> Finding:
        said, gain, rate = runs.precondition, runs.gain(), runs.chosen("full")
        values = {}
        for arm, at in (("full", rate), (ONE, learning_rate.TEN * rate)):
            same = (runs.curves["learning_rate"] / at - 1).abs() < grpo.SAME
            near = runs.curves[same & (runs.curves["arm"] == arm)]
            if near.empty:
                raise NotYetError(f"{arm} was not run at {at:.3g}.")
            values[arm] = by_seed(losses_at(near), arm, "test_accuracy")
        both = sorted(values["full"].keys() & values[ONE].keys())
        if not set(FRESH_RL) <= set(both):
            raise NotYetError(f"Needs {len(FRESH_RL)} fresh seeds of {ONE} at {learning_rate.TEN * rate:.3g}.")
        one, full = ({seed: values[arm][seed] for seed in both} for arm in (ONE, "full"))
        return decide([grpo.AS_WELL.measured(f"{ONE} at {10 * rate:.3g} − full at {rate:.3g}", paired(
            one, full, 100 / gain))], before=said, seeds=len(both))

    return _on_tasks(evidence, judge)


def mlp_carries_it_in_rl(evidence: Evidence) -> Finding:
    """E3's rule for C6-RL, on the sums."""
    def judge(runs: RLRuns) -> Finding:
        attention, mlp = (runs.confirmed(arm, "test_accuracy") for arm in (ATTENTION, MLP))
        return decide([APART.measured(f"{ATTENTION} − {MLP}", paired(attention, mlp, 100 / runs.gain()))],
                      seeds=len(mlp))

    return _on_tasks(evidence, judge, E3_TASKS[:1])
