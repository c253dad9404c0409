"""Rules that predict a rank, raced: how far each lies from the rank that runs needed, in doublings.

Written on 2026-11-26, after the records of all cases. The rank that a case needed is where the loss comes within a
margin of the reference's: of full fine-tuning's in our runs, of the largest rank's in the public ones, which have no
full fine-tuning. It is read between trained ranks, linearly in the logarithm of the rank; below the lowest or above the
highest it is a bound, and no rule is wrong beyond a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorabook.claims.decisions import Finding, Limit, Unit, decide, over_seeds
from lorabook.claims.forecast import bits_carried
from lorabook.claims.rank import MARGIN
from lorabook.experiments.results import recorded
from lorakit.analysis.curves import best_rate_by_validation
from lorakit.analysis.palette import arm_rank
from lorakit.analysis.statistics import mean_interval
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import Table
from lorakit.theory.capacity import ADVISED, BITS_PER_PARAMETER

DOUBLINGS = Unit("", "doublings", signed=True, form=".2f")
BETTER = Limit("error of recommend_rank's floor minus that of a constant fitted on the other half, in doublings",
               (-math.inf, 0), DOUBLINGS)


@dataclass(frozen=True)
class Case:
    """One dataset on one base.

    Args:
        name: base and data.
        rows, tokens: that a run met; tokens are those with a loss.
        bits: that they carry: the shortest first pass, or known.
        unit: weights of an adapter for each unit of rank.
        low, high: the rank needed lies between them; equal where it was read between trained ranks.
    """

    name: str
    rows: float
    tokens: float
    bits: float
    unit: float
    low: float
    high: float

    def error(self, rank: float) -> float:
        """How many doublings a rank lies above the needed one; below it, negative; 0 where a bound allows it."""
        if rank < self.low:
            return math.log2(rank / self.low)
        return math.log2(rank / self.high) if rank > self.high else 0.0


Predictor = Callable[[Case], float]


def floor(case: Case) -> float:
    """The smallest rank that holds the bits: `recommend_rank`'s."""
    return float(max(1, math.ceil(case.bits / (BITS_PER_PARAMETER * case.unit))))


def by_rows(case: Case) -> float:
    """Axolotl's proposal, its pull request 3691: the more rows, the higher the rank."""
    return float(next((rank for limit, rank in ((1_000, 8), (10_000, 16), (100_000, 32)) if case.rows < limit), 64))


def always(rank: int) -> Predictor:
    """One rank for every case."""
    return lambda case: float(rank)


def as_many_weights(case: Case) -> float:
    """The LoRA primer's: as many weights as there are label tokens."""
    return float(max(1, math.ceil(case.tokens / case.unit)))


RULES: Mapping[str, Predictor] = {
    "recommend_rank's floor": floor,
    f"{ADVISED[0]} times the floor": lambda case: ADVISED[0] * floor(case),
    "by rows (axolotl)": by_rows,
    "weights ≥ tokens (primer)": as_many_weights,
    **{f"always {rank}": always(rank) for rank in (8, 16, 32)},
}


def needed(deficits: Mapping[int, float], margin: float) -> tuple[float, float]:
    """Between which ranks a deficit comes to a margin for good; equal ends where it was read between trained ranks.

    >>> [round(rank, 2) for rank in needed({1: 4.0, 4: 1.0, 16: 0.0}, 2.0)]
    [2.52, 2.52]
    >>> needed({1: 1.0, 4: 0.5}, 2.0)
    (0.0, 1.0)
    """
    ranks = sorted(deficits)
    above = [k for k, rank in enumerate(ranks) if deficits[rank] > margin]
    if not above:
        return 0.0, float(ranks[0])
    last = above[-1]
    if last == len(ranks) - 1:
        return float(ranks[last]), math.inf
    a, b = ranks[last], ranks[last + 1]
    share = (deficits[a] - margin) / (deficits[a] - deficits[b])
    rank = 2 ** (math.log2(a) + share * math.log2(b / a))
    return rank, rank


def case_of(sweep: Sweep, name: str) -> Case:
    """The case of a sweep of full fine-tuning and several ranks, each arm at its best rate, means over seeds."""
    ends = best_rate_by_validation(sweep.curves, sweep.size)
    loss = ends.groupby("arm")["test_loss"].mean()
    deficits = {rank: float(loss[arm] - loss["full"]) for arm in loss.index if (rank := arm_rank(arm)) is not None}
    lora = sweep.runs[sweep.runs["method"] == "lora"]
    first, tokens = sweep.runs.iloc[0], float(sweep.runs["tokens"].max())
    return Case(name, float(first["steps"] * first["batch_size"]), tokens, bits_carried(sweep)[0],
                float((lora["parameters"] / lora["rank"]).max()), *needed(deficits, MARGIN * sweep.improvement()))


def own() -> list[Case]:
    """Every base and dataset of this book with full fine-tuning and two ranks or more."""
    found = [case_of(recorded("rank").only(data), f"tiny, {data.replace('-', ' ')}")
             for data in ("real-text", "reworded-skills", "random-associations")]
    found.append(case_of(recorded("rank-replay"), "tiny, skills with replay"))
    bases = recorded("learning-rate-bases")
    for model in sorted(set(bases.runs["model"])):
        part = [r for r in bases if r.spec["model"] == model and "full_targets" not in r.spec]
        found.append(case_of(Sweep(part), f"{model.partition('@')[0]}, skills with replay"))
    found.append(case_of(recorded("rank-forecast"), "tiny-w64-s0, new skills"))
    long = [r for seed in range(2) for r in recorded(f"smollm2-rank-{seed}", "gpu") if "full_targets" not in r.spec]
    return [*found, case_of(Sweep(long), "SmolLM2-135M, real text")]


def public(kept: Mapping[str, Mapping[str, float]], rows: float, tokens: float, bits: float) -> list[Case]:
    """The public cases, from the figures that `lorabook.page.public` keeps of each model."""
    return [Case(name, rows, tokens, bits, one["unit"], one["low"], one["high"]) for name, one in kept.items()]


def fitted(cases: Sequence[Case], rule: Predictor) -> Iterator[float]:
    """Errors of a rule times one constant, fitted to the cases of even place and tested on those of odd, and back."""
    halves = [cases[0::2], cases[1::2]]
    tested = [_errors(test, rule, _best_factor(fit, rule)) for fit, test in (halves[::-1], halves)]
    places = [iter(tested[0]), iter(tested[1])]
    for place in range(len(cases)):
        yield next(places[place % 2])


def _best_factor(cases: Sequence[Case], rule: Predictor) -> float:
    factors = 2 ** np.arange(-6, 8.001, 0.25)
    means = [np.mean(np.abs(_errors(cases, rule, factor))) for factor in factors]
    least = np.flatnonzero(np.isclose(means, min(means)))
    return float(factors[least[len(least) // 2]])


def _errors(cases: Iterable[Case], rule: Predictor, factor: float = 1.0) -> list[float]:
    return [case.error(factor * rule(case)) for case in cases]


def errors(cases: Sequence[Case]) -> dict[str, list[float]]:
    """Every rule's errors in doublings, case by case; the last two have one constant fitted on the other half."""
    found = {name: _errors(cases, rule) for name, rule in RULES.items()}
    return found | {"the floor times a fitted factor": list(fitted(cases, floor)),
                    "a fitted constant": list(fitted(cases, always(1)))}


def table(groups: Mapping[str, Sequence[Case]]) -> Table:
    """Mean error of every rule without its sign, with the interval over cases, and how often it is too low."""
    columns = {name: errors(cases) for name, cases in groups.items()}
    return Table([{"rule": rule} | {key: value for name, found in columns.items() for key, value in (
        (name, f"{mean_interval([abs(e) for e in found[rule]]):.2f}"),
        (f"too low, of {len(found[rule])}", str(sum(e < 0 for e in found[rule]))))}
                  for rule in next(iter(columns.values()))],
                 "Distance from the rank needed, in doublings: mean and 95 % interval over cases")


def verdict(cases: Sequence[Case]) -> Finding:
    """Whether the floor comes nearer to the needed rank than a constant that was fitted on the other half."""
    found = errors(cases)
    apart = [abs(a) - abs(b) for a, b in zip(found["recommend_rank's floor"], found["a fitted constant"], strict=True)]
    return decide([BETTER.measured("", over_seeds(apart))], seeds=0)
