"""The rules of the claims on what a reward tells, fixed before their records, and the measures they read.

Bits of an episode are bounded by the entropy of the rewards: advantages are made of rewards and nothing else. A stretch
of a curve mixes prompts and a policy that moves; the entropy of a mixture is no less than the mean of the entropies,
so episodes · `reward_entropy`, summed over stretches, bounds what a run was told.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import geometric_mean
from typing import TYPE_CHECKING

import pandas as pd

from lorabook.claims.claim import claim
from lorabook.claims.decisions import OPEN, UNTESTED, Finding, Limit, Unit, decide
from lorabook.claims.evidence import SEEDS_NEEDED, Scale, every_record
from lorabook.claims.regime import pretraining_facts
from lorabook.experiments.reward import SECRETS
from lorakit.analysis.curves import losses_at
from lorakit.analysis.frames import tidy
from lorakit.analysis.rates import geometric_interval, power_law
from lorakit.analysis.statistics import Interval, mean_interval
from lorakit.theory.reward import spread_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorabook.experiments.results import Results
    from lorakit.records import Store

TASKS = ("grpo", "grpo-form")
SUPERVISED, SKILLS = "rank", "reworded-skills"
ABOUT = math.sqrt(10)  # to the nearest power of ten
REWARDED, SHOWN = "secret-reward", "secret-example"
POWER, NEAR = 0.89, 0.15
FLAT = 0.1
ADAMS = 0.999  # beta2, where nothing else is tried

TOKEN_OVER_EPISODE = Limit("bits a supervised token over bits an episode", (1 / ABOUT, ABOUT),
                           Unit("", "bits a supervised token / bits an episode", form=".2f"))
POWER_UNIT = Unit("", "power of N", form=".2f")
BY_REWARD = Limit("power of N that the cost by reward follows", (POWER - NEAR, POWER + NEAR), POWER_UNIT)
BY_EXAMPLE = Limit("power of N that the cost by example follows", (-FLAT, FLAT), POWER_UNIT)


def stretches(curves: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.Series]:
    """The points of curves, run by run in the order of their steps, and what each stretch before one adds to a column.

    Args:
        curves: of `tidy`.
        column: what is counted along a run, such as `tokens` or `episodes`.
    """
    rows = curves.sort_values(["id", "step"])
    return rows, rows.groupby("id")[column].diff().fillna(rows[column])


def told(curves: pd.DataFrame) -> pd.DataFrame:
    """What each run was told, at most: a row a run.

    Args:
        curves: of `tidy`, RL runs.

    Returns:
        id, dataset, arm, learning_rate, seed, episodes, tokens, bits (Σ episodes · entropy of rewards), marginal_bits
        (the same with the entropy of single advantages), and per_episode and per_token of `bits`.
    """
    rows, met = stretches(curves, "episodes")
    rows = rows.assign(bits=met * rows["reward_entropy"], marginal_bits=met * rows["advantage_entropy"])
    found = rows.groupby(["id", "dataset", "arm", "learning_rate", "seed"], as_index=False, sort=False).agg(
        {"episodes": "max", "tokens": "max", "bits": "sum", "marginal_bits": "sum"})
    return found.assign(per_episode=found["bits"] / found["episodes"], per_token=found["bits"] / found["tokens"])


def told_by_spread(curves: pd.DataFrame, group_size: int) -> pd.Series:
    """What each run was told, at most, by the share of its groups without spread: bits by id.

    Args:
        curves: of `tidy`, RL runs paid right or wrong.
    """
    rows, met = stretches(curves, "episodes")
    bits = met / group_size * rows["zero_spread"].map(lambda share: spread_bits(share, group_size))
    return bits.groupby(rows["id"]).sum()


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
    rows, met = stretches(curves, "tokens")
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
    rows, met = stretches(curves, "episodes")
    rows["bits"] = (met * rows["reward_entropy"]).groupby(rows["id"]).cumsum()
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
    return dict(sorted(zip(secrets(nats.index.to_series()), nats / math.log(2), strict=True)))


def secrets(datasets: pd.Series) -> pd.Series:
    """How many secrets there could be, for pinned names of datasets or tasks."""
    return datasets.str.split("@").str[0].map(SECRETS)


def _first(rows: pd.DataFrame, reached: pd.Series, cost: str, more: list[str]) -> pd.DataFrame:
    hits = rows[reached.reindex(rows.index)].groupby("id").head(1)
    missed = rows[~rows["id"].isin(hits["id"])].groupby("id").tail(1)
    found = pd.concat([hits.assign(learnt=True), missed.assign(learnt=False)])
    kept = found[["id", "dataset", "arm", "rank", "learning_rate", "seed", "learnt", *more]]
    return kept.assign(secrets=secrets(found["dataset"]), cost=found[cost].astype(float)).reset_index(drop=True)


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


def after_a_wait(sweeps: Sequence[Results]) -> pd.DataFrame:
    """How runs of the largest secret end, by arm, rate and Adam's beta2: how many succeed, succeed once, learn.

    Args:
        sweeps: of `secret-reward` and `secret-wait`.
    """
    runs = pd.concat([part.runs.assign(beta2=[spec.beta2 for spec in part.specs]) for part in sweeps])
    runs = runs[secrets(runs["dataset"]) == secrets(runs["dataset"]).max()]
    runs = runs.merge(pd.concat([learnt_by_reward(part.curves) for part in sweeps])[["id", "learnt"]])
    runs = runs.assign(succeeded=runs["groups_with_spread"] > 0, once=runs["groups_with_spread"] == 1)
    found = runs.groupby(["arm", "learning_rate", "beta2"]).agg(**{
        "runs": ("id", "size"), "with a success": ("succeeded", "sum"), "and never another": ("once", "sum"),
        "learnt": ("learnt", "sum"), "loss on base text": ("base_text_loss_before", "mean"),
        "after": ("base_text_loss_after", "mean")})
    return found.round(2)


def calm_costs(sweeps: Sequence[Results]) -> pd.DataFrame:
    """Costs as of `at_chosen_rate` where the lower rate of `secret-wait` is among those to choose from."""
    calm = {spec.id for part in sweeps for spec in part.specs if spec.beta2 == ADAMS}
    learnt = pd.concat([learnt_by_reward(part.curves) for part in sweeps])
    return at_chosen_rate(learnt[learnt["id"].isin(calm)])


@claim("C10-RL", source="schulman2025lora", chapter="08-reward", computed=True, experiments=(SUPERVISED, *TASKS),
       limits=[TOKEN_OVER_EPISODE], written="2026-11-22T06:07",
       why="Its supervised runs, and the first of its RL runs, had been made for other claims.",
       scope="Policy gradients with a reward for the whole episode, episodes of thousands of tokens; an argument.")
def bits_of_episodes_and_tokens(store: Store) -> list[tuple[Scale | None, Finding]]:
    """an episode of reinforcement learning tells about as many bits as one token of supervised training, so that with
    episodes of a thousand tokens and more a token tells about a thousand times less

    Data, all on `tiny`, so that tokens are the same on both sides. Bits a supervised label token: the total log loss of
    one pass over reworded skills (experiment `rank`, which meets no question twice), at the arm and rate with the least
    mean over seeds. Bits an episode, at most: over a whole run, episodes times entropy of the rewards, stretch by
    stretch of the curve, divided by the episodes; every RL task of the experiments, every arm at the rate with the best
    mean validation accuracy at the last step. For each task and arm the ratio, a geometric mean over seeds; the limits
    are 1, to the nearest power of ten. Episodes here have a few tokens, so what is judged is the reason of the
    thousandfold difference, not the number.
    """
    try:
        shown, *rewarded = (every_record(store, name) for name in (SUPERVISED, *TASKS))
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
    limits = [TOKEN_OVER_EPISODE.measured(name, partial(geometric_interval, values)) for name, values in ratios.items()]
    return [_with_seeds(min(map(len, ratios.values())), tokens, decide(
        limits, before=f"A supervised label token brought {token.mean:.2f} bits."))]


@claim("M1", source="bledden2025memorization", chapter="08-reward", computed=True, experiments=(REWARDED, SHOWN),
       limits=[BY_REWARD, BY_EXAMPLE], written="2026-11-22T06:07",
       scope="A small network from scratch, N of 10, 100 and 500, 10 seeds; 19, 129 and 599 episodes, 2 examples.")
def episodes_against_examples(store: Store) -> list[tuple[Scale | None, Finding]]:
    """to learn one secret out of N takes a number of episodes that grows as about the 0.9th power of N where a reward
    says right or wrong, and one number of examples whatever N where the answer is shown

    Data: one secret out of N = 10, 26, 100, 676 and 10,000 on `tiny`, rank 1 and full fine-tuning. By reward it is
    learnt at the first point of the curve whose stretch earned a mean reward of 1/2 or more; the cost is the episodes
    until there. By example it is learnt at the first point where the model gives it a probability of 1/2 or more; the
    cost is the examples until there. Each arm's rate at each N: most seeds that learn, then the least geometric mean
    cost. A run that never learns counts with all of its episodes, a lower bound: the power of such an arm cannot hold,
    and fails only wholly above. The power k of cost ~ N^k is fitted seed by seed.
    """
    try:
        rewarded, shown = (every_record(store, name) for name in (REWARDED, SHOWN))
    except LookupError as error:
        return [(None, Finding(UNTESTED, str(error)))]
    curves = tidy(rewarded)
    costs = {"reward": (BY_REWARD, at_chosen_rate(learnt_by_reward(curves))),
             "example": (BY_EXAMPLE, at_chosen_rate(learnt_by_example(tidy(shown))))}
    limits, bounds = [], []
    for way, (limit, rows) in costs.items():
        for arm, mine in rows.groupby("arm", sort=False):
            never = int((~mine["learnt"]).sum())
            open_below = {"can_hold": False, "outside": (-math.inf, limit.inside[1])} if never else {}
            limits.append(limit.measured(f"{arm} by {way}", partial(power, mine), **open_below))
            bounds += [f"{arm} by {way} is a lower bound: {never} runs never learnt."] if never else []
    seeds = min(rows.groupby(["arm", "secrets"])["seed"].nunique().min() for _, rows in costs.values())
    return [_with_seeds(int(seeds), int(curves["tokens"].max()), decide(limits, after=" ".join(bounds)))]


def power(rows: pd.DataFrame, confidence: float = 0.95) -> Interval:
    """The power of N that the cost follows, with its interval over seeds.

    Args:
        rows: of `at_chosen_rate`, one arm.
    """
    return power_law(rows["secrets"], rows["cost"], rows["seed"], confidence)


def _with_seeds(seeds: int, tokens: int, found: Finding) -> tuple[Scale, Finding]:
    """The finding at the scale of `tiny`, inconclusive where a verdict needs more seeds."""
    outcome = found.outcome if seeds >= SEEDS_NEEDED["cpu"] else OPEN
    return (Scale("cpu", "tiny", pretraining_facts("tiny").get("parameters"), tokens, embedded=True),
            replace(found, outcome=outcome, seeds=seeds))
