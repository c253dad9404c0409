"""The rules of the claims on capacity, fixed before their records were looked at, and the measures they read.

A pilot came first (November 2026, one seed, 90 seconds of one core): rank 1 of `tiny-w64-s0` held 1.2 to 1.3 bits a
weight after 200 exposures. It chose the rates and the alphabet; the rule of C10 was written with it in view.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lorabook.claims.claim import claim
from lorabook.claims.decisions import (
    FAILS,
    RATIO,
    UNTESTED,
    Finding,
    Limit,
    Unit,
    decide,
    exactly,
    over_seeds,
)
from lorabook.claims.evidence import Evidence, Scale
from lorabook.claims.learning_rate import ARTICLE, SMOLLM2_RATES
from lorabook.experiments.capacity import STRING_SETS
from lorakit.analysis.curves import best_rate_by_validation, pointwise_minimum
from lorakit.analysis.statistics import Interval, mean_interval
from lorakit.theory.capacity import BITS_PER_PARAMETER, adapter_bits, association_bits, episode_bits
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.records import Store

SYMBOLS, LENGTH = 64, 63  # of a random string: 378 bits
ENOUGH_EXPOSURES = 1000
SATURATED = 0.05  # doubling the exposures adds less
ABOUT_TWO = (1.5, 2.5)  # bits a weight
ABOUT_ONE = (0.5, 2.0)  # bits a token

PER_TOKEN = Limit("bits a label token of a first pass over a dataset of text", ABOUT_ONE,
                  Unit("", "bits a token", form=".2f"))
BOUND = Limit("least cost of a first pass over random strings, in their bits", (0.99, math.inf),
              Unit("", "", form=".3f"))
ONE_BIT = Limit("bits that a binary reward tells an episode", (0.99, 1.01), Unit("", "", form=".3f"))
ROOM = Limit("bits held by rank 1 / bits of the example", (1, math.inf), RATIO)
PER_WEIGHT = Limit("bits stored a weight", ABOUT_TWO, Unit("", "bits stored a weight, a lower bound", form=".2f"))


def stored_bits(curves: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """What each arm has stored of its random strings: H(strings) − their code length, a row an arm, seed and step.

    At every step the rate is the one with the least mean validation loss (half of the strings); bits count both
    halves. The base's own share is nothing: it cannot know strings that were drawn at random.

    Args:
        curves: of `tidy`; rows of other datasets are left out.
        metrics: of `runs`, for the number of weights trained.

    Returns:
        the columns of `pointwise_minimum`, and dataset, strings, exposures, bits, parameters, per_parameter (bits a
        weight), offered (bits a weight in the data), edge (whether the rate is an end of its grid).
    """
    parts = []
    for (model, dataset, _), rows in curves.groupby(["model", "dataset", "batch_size"], sort=False):
        count = STRING_SETS.get(dataset.partition("@")[0])
        if count is None:
            continue
        best = pointwise_minimum(rows)
        mine = metrics[(metrics["model"] == model) & (metrics["dataset"] == dataset)]
        weights = mine.groupby("arm")["parameters"].max()
        known = association_bits(count, SYMBOLS, LENGTH)
        cost = count * LENGTH * (best["validation_loss"] + best["test_loss"]) / 2 / math.log(2)
        grid = best["arm"].map(rows.groupby("arm")["learning_rate"].agg(["min", "max"]).apply(tuple, axis=1))
        edge = [rate in ends for rate, ends in zip(best["learning_rate"], grid, strict=True)]
        best = best.assign(model=model, edge=edge, dataset=dataset, strings=count, bits=known - cost,
                           exposures=best["step"] * int(rows["batch_size"].iloc[0]) / count,
                           parameters=best["arm"].map(weights).astype(int))
        parts.append(best.assign(per_parameter=best["bits"] / best["parameters"], offered=known / best["parameters"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["arm", "exposures", "per_parameter"])


def bits_at(rows: pd.DataFrame, exposures: float) -> dict[int, float]:
    """Bits stored after so many exposures, by seed; between evaluations they are linear in log(exposures).

    Args:
        rows: of `stored_bits`, one arm on one dataset.
        exposures: no more than the runs had.
    """
    found = {}
    for seed, one in rows.sort_values("exposures").groupby("seed"):
        found[int(seed)] = float(np.interp(math.log(exposures), np.log(one["exposures"]), one["bits"]))
    return found


def last_doubling(rows: pd.DataFrame) -> Interval:
    """What the last doubling of exposures added to the bits stored, as a share of them, over seeds."""
    last = float(rows["exposures"].max())
    ends, halves = bits_at(rows, last), bits_at(rows, last / 2)
    return mean_interval([end / halves[seed] - 1 if halves[seed] > 0 else math.inf for seed, end in ends.items()])


def first_pass(metrics: pd.DataFrame) -> pd.DataFrame:
    """Runs that met every row once at most, with `bits_per_token` and, for random strings, `cost` (1 is their bits).

    Args:
        metrics: of `runs`, of experiments whose runs on text end before the data do.
    """
    if "train_nats" not in metrics:
        return metrics.iloc[:0].assign(bits_per_token=[], cost=[])
    rows = metrics[metrics["train_nats"].notna()].copy()
    strings = rows["dataset"].str.split("@").str[0].map(STRING_SETS).astype(float)
    rows = rows[strings.isna() | (rows["steps"] * rows["batch_size"] <= strings)]
    per_token = rows["train_nats"] / rows["tokens"] / math.log(2)
    return rows.assign(bits_per_token=per_token, cost=(per_token / math.log2(SYMBOLS)).where(strings.notna()))


APART = ("Bits a token and bits a weight are two claims, and one was printed with the other's number: each has its own "
         "verdict now.")


@claim("C10", source=ARTICLE, chapter="03-capacity", experiments=("dataset-bits", *SMOLLM2_RATES), seeds=3,
       limits=[PER_TOKEN, BOUND], corrected=False, written="2026-11-22T02:57", changed="2026-11-26", why=APART,
       scope="Datasets for language models, tokens that are pieces of words.")
def bits_of_tokens(evidence: Evidence) -> Finding:
    """fine-tuning data carry about one bit a token, measured by the loss of the first pass

    For every dataset of text that was met once, the first pass's total log loss in bits per label token, at the rate
    and arm with the least mean over seeds. Not tested on the embedded models, whose tokens are bytes. The instrument is
    tried on random strings, whose bits are known: the cheapest run's first pass may cost no less.
    """
    passes = first_pass(evidence.metrics)
    control, text = passes["cost"].dropna(), passes[passes["cost"].isna()]
    least = float(control.min())
    said = f"{len(control)} first passes over random strings cost {least:.3f} times their bits or more."
    limits = [] if control.empty else [BOUND.measured("", exactly(least))]
    broken = limits and limits[0].state(0.95) == FAILS
    if evidence.embedded and not broken:
        return Finding(UNTESTED, f"A token of this base is a byte. {said if limits else ''}".strip())
    texts = [] if evidence.embedded else _per_token(text)
    if not texts and not broken:
        return Finding(UNTESTED, "No first pass over text was run.")
    return decide([*texts, *limits], corrected=False, before=said if limits else "")


def _per_token(text: pd.DataFrame) -> list[Limit]:
    limits = []
    for dataset, rows in text.groupby("dataset"):
        table = rows.pivot_table(index="seed", columns=["arm", "learning_rate", "batch_size"], values="bits_per_token")
        name, least = str(dataset).partition("@")[0], table[table.mean().idxmin()].tolist()
        limits.append(PER_TOKEN.measured(name, over_seeds(least)))
    return limits


@claim("C10-W", source=ARTICLE, chapter="03-capacity", experiments=("capacity",), seeds=3, limits=[PER_WEIGHT],
       corrected=False, written="2026-11-22T02:57", changed="2026-11-26", why=APART,
       scope="The source takes its two bits a weight from studies of pre-training.")
def bits_of_weights(evidence: Evidence) -> Finding:
    """a trained weight holds about two bits

    Of the LoRA arms that met random strings {ENOUGH_EXPOSURES} times, as in the source, the one that stored most a
    weight, at its best rate (chosen on one half of the strings). Bits stored are a lower bound of what fits: an
    interval wholly below the range refutes only if the arm is saturated, that is if the whole interval of what the last
    doubling of exposures added lies under {SATURATED:.0%}.
    """
    lora = evidence.curves[evidence.curves["method"] == "lora"]
    stored = stored_bits(lora, evidence.metrics)
    rows = stored[stored["exposures"] >= ENOUGH_EXPOSURES - 0.5]
    if rows.empty:
        return Finding(UNTESTED, f"No LoRA arm met random strings {ENOUGH_EXPOSURES} times.")
    arm, dataset = rows.groupby(["arm", "dataset"])["per_parameter"].mean().idxmax()
    best_rate_by_validation(lora[(lora["arm"] == arm) & (lora["dataset"] == dataset)])  # raises at a grid's edge
    whole = stored[(stored["arm"] == arm) & (stored["dataset"] == dataset)]
    added = last_doubling(whole)
    full = added.high < SATURATED
    words = (f"{arm} on {dataset.partition('@')[0]} is {'saturated' if full else 'not saturated'}: the last doubling "
             f"of exposures added {added.mean:.0%} ({added.low:.0%} to {added.high:.0%}).")
    at = over_seeds(whole[whole["step"] == whole["step"].max()]["per_parameter"].tolist())
    return decide([PER_WEIGHT.measured(arm, at, outside=ABOUT_TWO if full else (-math.inf, ABOUT_TWO[1]))],
                  corrected=False, before=words[0].upper() + words[1:])


@claim("C9", source=ARTICLE, chapter="03-capacity", computed=True, limits=[ROOM, ONE_BIT], corrected=False,
       written="2026-11-22T02:57",
       scope="Policy gradients with a scalar advantage; an upper bound, computed, about no model in particular.")
def episodes_fit_rank_one(store: Store) -> list[tuple[Scale | None, Finding]]:
    """an episode of reinforcement learning tells about one bit, so that rank 1 has room for what such a run tells

    Arithmetic, so that an interval is a number. A reward with B values that are told apart tells at most log2 B bits:
    the entropy of a binary one is computed at every success rate from 0.01 to 0.99. The source's example, 10,000
    problems × 32 samples, is 320,000 episodes; rank 1 on every linear layer of Llama-3.1-8B, which the source rounds to
    3 million weights, holds two bits a weight. DeepSeek-R1-Zero's 10,400 steps × 32 × 16 must come out as the source's
    5.3 million episodes, and rank 1's weights as its 3 million.
    """
    rates = np.linspace(0.01, 0.99, 99)
    bits = [episode_bits(1, success_rate=float(rate)) for rate in rates]
    weights = sum(ModelShape.of("llama-3.1-8b").lora_parameters(1).values())
    episodes, zero = 10_000 * 32, 10_400 * 32 * 16
    held = adapter_bits(weights)
    words = (f"A binary reward tells {max(bits):.3f} bits an episode at most, {bits[0]:.3f} at a success rate of 1 %. "
             f"{episodes:,} episodes tell {episodes:,} bits at most; rank 1 of Llama-3.1-8B has {weights:,} weights "
             f"and holds {held:,.0f} bits at {BITS_PER_PARAMETER:g} a weight. R1-Zero's {zero:,} episodes are "
             f"{zero / held:.3f} times that, though its base is a larger model.")
    found = decide([ROOM.measured("", exactly(held / episodes)), ONE_BIT.measured("most", exactly(max(bits)))],
                   corrected=False, before=words)
    rounds = round(weights / 1e6) == 3 and round(zero / 1e6, 1) == 5.3
    return [(None, found if rounds else replace(found, outcome=FAILS))]
