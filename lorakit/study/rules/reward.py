"""The rules of the claims on what a reward tells, fixed before their records, and the measures they read.

Bits of an episode are bounded by the entropy of the rewards: advantages are made of rewards and nothing else. A stretch
of a curve mixes prompts and a policy that moves; the entropy of a mixture is no less than the mean of the entropies,
so episodes · `reward_entropy`, summed over stretches, bounds what a run was told.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from lorakit.study import experiments
from lorakit.study.curves import losses_at
from lorakit.study.evidence import FAILS, HOLDS, OPEN, SEEDS_NEEDED, UNTESTED, Finding, Outcome, Scale
from lorakit.study.frames import tidy
from lorakit.study.rates import geometric_interval, power_law
from lorakit.study.regime import pretraining_facts
from lorakit.study.statistics import Interval, mean_interval

if TYPE_CHECKING:
    from lorakit.records import Record, Store

TASKS = ("grpo", "grpo-form")
SUPERVISED, SKILLS = "rank", "reworded-skills"
ABOUT = math.sqrt(10)  # to the nearest power of ten
REWARDED, SHOWN = "secret-reward", "secret-example"
POWER, NEAR = 0.89, 0.15
FLAT = 0.1
PARTS = 4  # two arms by reward, two by example

C10_RL_RULE = (
    "Data, all on `tiny`, so that tokens are the same on both sides. Bits a supervised label token: the total log loss "
    "of one pass over reworded skills (experiment `rank`, which meets no question twice), at the arm and rate with the "
    "least mean over seeds. Bits an episode, at most: over a whole run, episodes times entropy of the rewards, stretch "
    "by stretch of the curve, divided by the episodes; every RL task of the experiments, every arm at the rate with "
    "the best mean validation accuracy at the last step. For each task and arm, bits a token over bits an episode: "
    f"geometric mean over seeds with its 95 % interval. Holds if every interval lies within a factor {ABOUT:.2g} of 1 "
    "(1, to the nearest power of ten); does not hold if one lies wholly outside, at 95 % after Bonferroni's "
    "correction; otherwise inconclusive. Episodes here have a few tokens, so what is judged is the reason of the "
    "thousandfold difference, not the number."
)
M1_RULE = (
    "Data: one secret out of N = 10, 26, 100, 676 and 10,000 on `tiny`, rank 1 and full fine-tuning. By reward it is "
    "learnt at the first point of the curve whose stretch earned a mean reward of 1/2 or more; the cost is the "
    "episodes until there. By example it is learnt at the first point where the model gives it a probability of 1/2 "
    "or more; the cost is the examples until there. Each arm's rate at each N: most seeds that learn, then the least "
    "geometric mean cost. A run that never learns counts with all of its episodes, a lower bound. The power k of cost "
    f"~ N^k is fitted seed by seed. By reward: k is about {POWER:g}, that is within ± {NEAR:g}; by example: k is about "
    f"0, within ± {FLAT:g}. Holds if the 95 % intervals of both arms lie within both bands and every run at the chosen "
    "rates learns; does not hold if an interval lies wholly outside its band, at 95 % after Bonferroni's correction "
    "(wholly above, where runs never learnt); otherwise inconclusive."
)


def told(curves: pd.DataFrame) -> pd.DataFrame:
    """What each run was told, at most: a row a run.

    Args:
        curves: of `tidy`, RL runs.

    Returns:
        id, dataset, arm, learning_rate, seed, episodes, tokens, bits (Σ episodes · entropy of rewards), marginal_bits
        (the same with the entropy of single advantages), and per_episode and per_token of `bits`.
    """
    rows = curves.sort_values(["id", "step"])
    met = rows.groupby("id")["episodes"].diff().fillna(rows["episodes"])
    rows = rows.assign(bits=met * rows["reward_entropy"], marginal_bits=met * rows["advantage_entropy"])
    found = rows.groupby(["id", "dataset", "arm", "learning_rate", "seed"], as_index=False, sort=False).agg(
        {"episodes": "max", "tokens": "max", "bits": "sum", "marginal_bits": "sum"})
    return found.assign(per_episode=found["bits"] / found["episodes"], per_token=found["bits"] / found["tokens"])


def at_best_rate(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves of each arm at its rate with the least mean validation loss at the last step; any end of a grid too.

    Args:
        curves: of `tidy`, of one model and dataset.
    """
    ends = losses_at(curves)
    means = ends.groupby(["arm", "learning_rate"])["validation_loss"].mean()
    best = set(means.groupby(level="arm").idxmin())
    return curves[[pair in best for pair in zip(curves["arm"], curves["learning_rate"], strict=True)]]


def first_pass_bits(curves: pd.DataFrame) -> Interval:
    """Bits a label token of a first pass, at the arm and rate with the shortest mean code, over seeds.

    Args:
        curves: of `tidy`, supervised runs that meet no example twice.
    """
    rows = curves.sort_values(["id", "step"])
    met = rows.groupby("id")["tokens"].diff().fillna(rows["tokens"])
    rows = rows[rows["status"] == "ok"].assign(bits=met * rows["train_loss"] / math.log(2))
    runs = rows.groupby(["arm", "learning_rate", "seed", "id"], as_index=False).agg({"bits": "sum", "tokens": "max"})
    runs["per_token"] = runs["bits"] / runs["tokens"]
    table = runs.pivot(index="seed", columns=["arm", "learning_rate"], values="per_token").dropna(axis=1)
    return mean_interval(table[table.mean().idxmin()].tolist())


def learnt_by_reward(curves: pd.DataFrame) -> pd.DataFrame:
    """Episodes until a secret is learnt by reward: a row a run with `learnt`, `cost` and `bits` told until there.

    Learnt is the first stretch with a mean reward of 1/2 or more, so `cost` is too high by up to one stretch. A run
    that never learns has the episodes of the whole run, a lower bound.

    Args:
        curves: of `tidy`, tasks `secret-N`.
    """
    rows = curves.sort_values(["id", "step"])
    rows = rows.assign(met=rows.groupby("id")["episodes"].diff().fillna(rows["episodes"]))
    rows["bits"] = (rows["met"] * rows["reward_entropy"]).groupby(rows["id"]).cumsum()
    return _first(rows, rows["reward"] >= 0.5, "episodes", ["bits"])


def learnt_by_example(curves: pd.DataFrame) -> pd.DataFrame:
    """Examples until a secret's probability is 1/2 or more: a row a run with `learnt` and `cost`.

    Args:
        curves: of `tidy`, datasets `secret-N`, one example a step.
    """
    rows = curves.sort_values(["id", "step"])
    nats = rows["validation_loss"] * rows["tokens"] / rows["step"]
    return _first(rows, nats <= math.log(2) + 1e-9, "step", [])


def surprise(curves: pd.DataFrame, metrics: pd.DataFrame) -> dict[int, float]:
    """−log2 of the probability that the base gives each secret, by N: what an example tells before anything is learnt.

    Args:
        curves: of `tidy`, datasets `secret-N`, one example a step.
        metrics: of `runs`, the same runs.
    """
    labels = (curves["tokens"] / curves["step"]).groupby(curves["dataset"]).max()
    nats = metrics.groupby("dataset")["base_validation_loss"].mean() * labels
    return dict(sorted((secrets_of(name), bits) for name, bits in (nats / math.log(2)).items()))


def _first(rows: pd.DataFrame, reached: pd.Series, cost: str, more: list[str]) -> pd.DataFrame:
    hits = rows[reached.reindex(rows.index)].groupby("id").head(1)
    missed = rows[~rows["id"].isin(hits["id"])].groupby("id").tail(1)
    found = pd.concat([hits.assign(learnt=True), missed.assign(learnt=False)])
    count = found["dataset"].map(secrets_of)
    kept = found[["id", "dataset", "arm", "rank", "learning_rate", "seed", "learnt", *more]]
    return kept.assign(secrets=count, cost=found[cost].astype(float)).reset_index(drop=True)


def secrets_of(name: str) -> int:
    """N of `secret-N`.

    >>> secrets_of("secret-676@0f3e8d3a1b2c")
    676
    """
    return int(name.partition("@")[0].removeprefix("secret-"))


def at_chosen_rate(learnt: pd.DataFrame) -> pd.DataFrame:
    """The runs of each arm and N at its rate: most seeds that learn, then the least geometric mean cost.

    Args:
        learnt: of `learnt_by_reward` or `learnt_by_example`.
    """
    parts = []
    for _, rows in learnt.groupby(["secrets", "arm"]):
        order = {rate: (-int(one["learnt"].sum()), geometric_mean(one["cost"]))
                 for rate, one in rows.groupby("learning_rate")}
        parts.append(rows[rows["learning_rate"] == min(order, key=lambda rate: order[rate])])
    return pd.concat(parts, ignore_index=True)


def geometric_mean(values: pd.Series) -> float:
    """exp of the mean logarithm, of positive numbers."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def bits_of_episodes_and_tokens(store: Store) -> list[tuple[Scale | None, Finding]]:
    """C10-RL, by `C10_RL_RULE`."""
    try:
        shown, *rewarded = (_records(store, name) for name in (SUPERVISED, *TASKS))
    except LookupError as error:
        return [(None, Finding(UNTESTED, str(error)))]
    token = first_pass_bits(tidy(record for record in shown if record.spec["dataset"].startswith(f"{SKILLS}@")))
    ratios: dict[str, list[float]] = {}
    tokens = 0
    for records in rewarded:
        runs = told(at_best_rate(tidy(records)))
        tokens = max(tokens, int(runs["tokens"].max()))
        for (task, arm), rows in runs.groupby(["dataset", "arm"], sort=False):
            ratios[f"{str(task).partition('@')[0]}, {arm}"] = [
                token.mean / bits if bits > 0 else math.inf for bits in rows["per_episode"]]
    spans = {name: geometric_interval(values) for name, values in ratios.items()}
    strict = {name: geometric_interval(values, 1 - 0.05 / len(ratios)) for name, values in ratios.items()}
    outside = [name for name, span in strict.items() if span.low > ABOUT or span.high < 1 / ABOUT]
    inside = all(span.low >= 1 / ABOUT and span.high <= ABOUT for span in spans.values())
    outcome: Outcome = FAILS if outside else HOLDS if inside else OPEN
    worst = max(spans, key=lambda name: abs(math.log(spans[name].mean)))
    words = "; ".join(f"{name} {_words(span)}" for name, span in spans.items())
    reason = f"A supervised label token brought {token.mean:.2f} bits. Bits a token over bits an episode: {words}."
    seeds = min(len(values) for values in ratios.values())
    if seeds < SEEDS_NEEDED["cpu"]:
        outcome = OPEN
    return [(_scale(tokens), Finding(outcome, reason, f"{worst}: bits a supervised token / bits an episode",
                                     spans[worst], seeds=seeds))]


def episodes_against_examples(store: Store) -> list[tuple[Scale | None, Finding]]:
    """M1, by `M1_RULE`."""
    try:
        rewarded, shown = (_records(store, name) for name in (REWARDED, SHOWN))
    except LookupError as error:
        return [(None, Finding(UNTESTED, str(error)))]
    curves = tidy(rewarded)
    costs = {"reward": at_chosen_rate(learnt_by_reward(curves)),
             "example": at_chosen_rate(learnt_by_example(tidy(shown)))}
    bands = {"reward": (POWER - NEAR, POWER + NEAR), "example": (-FLAT, FLAT)}
    words, inside, outside, spans = [], [], [], {}
    for way, rows in costs.items():
        low, high = bands[way]
        for arm, mine in rows.groupby("arm", sort=False):
            span, strict = (power(mine, confidence) for confidence in (0.95, 1 - 0.05 / PARTS))
            never = int((~mine["learnt"]).sum())
            inside.append(low <= span.low and span.high <= high and not never)
            outside.append(strict.low > high or (strict.high < low and not never))
            lost = f", a lower bound: {never} runs never learnt" if never else ""
            words.append(f"{arm} by {way} {_words(span)}{lost}")
            spans[f"{arm} by {way}: power of N"] = span
    outcome: Outcome = FAILS if any(outside) else HOLDS if all(inside) else OPEN
    seeds = int(min(rows.groupby(["arm", "secrets"])["seed"].nunique().min() for rows in costs.values()))
    effect = list(spans)[outside.index(True) if any(outside) else 0]
    if seeds < SEEDS_NEEDED["cpu"]:
        outcome = OPEN
    return [(_scale(int(curves["tokens"].max())), Finding(
        outcome, f"Power of N that the cost follows: {'; '.join(words)}.", effect, spans[effect], seeds=seeds))]


def power(rows: pd.DataFrame, confidence: float = 0.95) -> Interval:
    """The power of N that the cost follows, with its interval over seeds.

    Args:
        rows: of `at_chosen_rate`, one arm.
    """
    return power_law(rows["secrets"], rows["cost"], rows["seed"], confidence)


def _records(store: Store, name: str) -> list[Record]:
    specs = experiments.get(name).specs("cpu", "record")
    found = store.find([spec.id for spec in specs])
    if missing := sum(spec.id not in found for spec in specs):
        raise LookupError(f"Needs every run of {name}; {missing} have no record.")
    return [found[spec.id] for spec in specs]


def _scale(tokens: int) -> Scale:
    return Scale("cpu", "tiny", pretraining_facts("tiny").get("parameters"), tokens)


def _words(span: Interval) -> str:
    return f"{span.mean:.2f} ({span.low:.2f} to {span.high:.2f})".replace("-", "−")
