"""The rules of the claims on capacity, fixed before their records were looked at, and the measures they read.

A pilot came first (November 2026, one seed, 90 seconds of one core): rank 1 of `tiny-w64-s0` held 1.2 to 1.3 bits a
weight after 200 exposures. It chose the rates and the alphabet; the rule of C10 was written with it in view.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lorakit.study.curves import best_rate_by_validation, pointwise_minimum
from lorakit.study.evidence import FAILS, HOLDS, OPEN, UNTESTED, Evidence, Finding, Outcome, Scale
from lorakit.study.statistics import Interval, mean_interval
from lorakit.theory.capacity import BITS_PER_PARAMETER, adapter_bits, association_bits, episode_bits
from lorakit.theory.shapes import ModelShape

if TYPE_CHECKING:
    from lorakit.records import Store

STRINGS = "random-strings-"
SYMBOLS, LENGTH = 64, 63  # of a random string: 378 bits
ENOUGH_EXPOSURES = 1000
SATURATED = 0.05  # doubling the exposures adds less
ABOUT_TWO = (1.5, 2.5)  # bits a weight
ABOUT_ONE = (0.5, 2.0)  # bits a token
BYTE_TOKENS = "tiny"  # the embedded models: a token is a byte, not a piece of a word

C10_RULE = (
    "Three parts. (a) One bit a token: for every dataset of text that was met once, the first pass's total log loss "
    "in bits per label token, at the rate and arm with the least mean over seeds; the 95 % interval lies within "
    f"{ABOUT_ONE[0]:g} to {ABOUT_ONE[1]:g}. Not judged on the embedded models, whose tokens are bytes. (b) The first "
    "pass bounds the information: for random strings, whose bits are known, no run's first pass costs less than 99 % "
    f"of them. (c) Two bits a weight: of the LoRA arms that met random strings {ENOUGH_EXPOSURES} times, as in the "
    "source, the one that stored most a weight, at its best rate (chosen on one half of the strings); the 95 % "
    f"interval lies within {ABOUT_TWO[0]:g} to {ABOUT_TWO[1]:g}. Bits stored are a lower bound of what fits: an "
    "interval wholly above that range fails, and one wholly below fails only if the arm is saturated, that is if the "
    f"whole interval of what the last doubling of exposures added lies under {SATURATED:.0%}. Does not hold if a part "
    "fails; holds if all three hold; otherwise inconclusive, also where a part could not be judged at this scale."
)
C9_RULE = (
    "Arithmetic. (a) A reward with B values that are told apart tells at most log2 B bits, so a binary one at most one "
    "bit an episode: the entropy is computed at every success rate from 0.01 to 0.99. (b) The source's example, 10,000 "
    "problems × 32 samples, is 320,000 episodes, and rank 1 on every linear layer of Llama-3.1-8B, which the source "
    "rounds to 3 million weights, holds as many bits at two bits a weight. (c) DeepSeek-R1-Zero's 10,400 steps × 32 × "
    "16 are 5.3 million episodes. Holds if all three come out; does not hold if one does not."
)


def strings_of(dataset: str) -> int | None:
    """How many random strings a dataset has, by its name; None if it is another.

    >>> strings_of("random-strings-24@c4a2e72d67ff"), strings_of("real-text@1")
    (24, None)
    """
    name = dataset.partition("@")[0]
    return int(name.removeprefix(STRINGS)) if name.startswith(STRINGS) else None


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
        count = strings_of(dataset)
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
    strings = rows["dataset"].map(strings_of).astype(float)
    rows = rows[strings.isna() | (rows["steps"] * rows["batch_size"] <= strings)]
    per_token = rows["train_nats"] / rows["tokens"] / math.log(2)
    known = rows["dataset"].map(lambda name: math.log2(SYMBOLS) if strings_of(name) else math.nan).astype(float)
    return rows.assign(bits_per_token=per_token, cost=per_token / known)


def bits_of_tokens_and_weights(evidence: Evidence) -> Finding:
    """C10, by `C10_RULE`."""
    passes = first_pass(evidence.metrics)
    parts = [_per_token(evidence.model, passes), _bound(passes), _per_weight(evidence)]
    outcomes = [part.outcome for part in parts]
    outcome: Outcome = FAILS if FAILS in outcomes else HOLDS if set(outcomes) == {HOLDS} else OPEN
    outcome = UNTESTED if set(outcomes) == {UNTESTED} else outcome
    deciding = next((part for part in reversed(parts) if part.outcome == outcome and part.interval), None)
    deciding = deciding or next((part for part in reversed(parts) if part.interval), parts[-1])
    reason = " ".join(f"({letter}) {part.reason}" for letter, part in zip("abc", parts, strict=True))
    return Finding(outcome, reason, deciding.effect, deciding.interval)


def _per_token(model: str, passes: pd.DataFrame) -> Finding:
    if model.startswith(BYTE_TOKENS):
        return Finding(UNTESTED, "Not judged: a token of this base is a byte.")
    text = passes[passes["cost"].isna()]
    found = {}
    for dataset, rows in text.groupby("dataset"):
        table = rows.pivot_table(index="seed", columns=["arm", "learning_rate", "batch_size"], values="bits_per_token")
        found[str(dataset).partition("@")[0]] = mean_interval(table[table.mean().idxmin()].tolist())
    if not found:
        return Finding(UNTESTED, "No first pass over text was run.")
    low, high = ABOUT_ONE
    outside = {name: span for name, span in found.items() if span.low > high or span.high < low}
    inside = all(span.low >= low and span.high <= high for span in found.values())
    name, span = max((outside or found).items(), key=lambda item: abs(math.log(max(item[1].mean, 1e-9))))
    words = "; ".join(f"{one}: {s.mean:.2f} ({s.low:.2f} to {s.high:.2f})" for one, s in found.items())
    outcome: Outcome = FAILS if outside else HOLDS if inside else OPEN
    return Finding(outcome, f"First pass, bits a token: {words}.", f"{name}, bits a token", span)


def _bound(passes: pd.DataFrame) -> Finding:
    control = passes["cost"].dropna()
    if control.empty:
        return Finding(UNTESTED, "No first pass over random strings was run.")
    words = f"{len(control)} first passes over random strings cost {control.min():.3f} times their bits or more."
    return Finding(HOLDS if control.min() >= 0.99 else FAILS, words)


def _per_weight(evidence: Evidence) -> Finding:
    lora = evidence.curves[evidence.curves["method"] == "lora"]
    stored = stored_bits(lora, evidence.metrics)
    rows = stored[stored["exposures"] >= ENOUGH_EXPOSURES - 0.5]
    if rows.empty:
        return Finding(UNTESTED, f"No LoRA arm met random strings {ENOUGH_EXPOSURES} times.")
    arm, dataset = rows.groupby(["arm", "dataset"])["per_parameter"].mean().idxmax()
    best_rate_by_validation(lora[(lora["arm"] == arm) & (lora["dataset"] == dataset)])  # raises at a grid's edge
    whole = stored[(stored["arm"] == arm) & (stored["dataset"] == dataset)]
    span = mean_interval(whole[whole["step"] == whole["step"].max()]["per_parameter"].tolist())
    added = last_doubling(whole)
    low, high = ABOUT_TWO
    full = added.high < SATURATED
    inside = span.low >= low and span.high <= high
    outcome: Outcome = HOLDS if inside else FAILS if span.low > high or (span.high < low and full) else OPEN
    words = (f"{arm} on {dataset.partition('@')[0]}: {span.mean:.2f} ({span.low:.2f} to {span.high:.2f}) bits a "
             f"weight, {'saturated' if full else 'not saturated'}: the last doubling of exposures added "
             f"{added.mean:.0%} ({added.low:.0%} to {added.high:.0%}).")
    return Finding(outcome, words, f"{arm}, bits stored a weight, a lower bound", span)


def episodes_fit_rank_one(store: Store) -> list[tuple[Scale | None, Finding]]:
    """C9, by `C9_RULE`; the store is not read."""
    rates = np.linspace(0.01, 0.99, 99)
    bits = [episode_bits(1, success_rate=float(rate)) for rate in rates]
    weights = sum(ModelShape.of("llama-3.1-8b").lora_parameters(1).values())
    episodes, zero = 10_000 * 32, 10_400 * 32 * 16
    held = adapter_bits(weights)
    passed = (max(bits) <= 1.0 and math.isclose(max(bits), 1.0), round(weights / 1e6) == 3 and held >= episodes,
              round(zero / 1e6, 1) == 5.3)
    words = (f"A binary reward tells {max(bits):.3f} bits an episode at most, {bits[0]:.3f} at a success rate of 1 %. "
             f"{episodes:,} episodes tell {episodes:,} bits at most; rank 1 of Llama-3.1-8B has {weights:,} weights "
             f"and holds {held:,.0f} bits at {BITS_PER_PARAMETER:g} a weight. R1-Zero's {zero:,} episodes are "
             f"{zero / held:.3f} times that, though its base is a larger model.")
    span = Interval(held / episodes, held / episodes, held / episodes, 1)
    return [(None, Finding(HOLDS if all(passed) else FAILS, words, "bits held by rank 1 / bits of the example", span))]
