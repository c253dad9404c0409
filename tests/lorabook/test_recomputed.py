"""Verdicts recomputed straight from the JSON lines, with pandas and scipy alone: another way to the same numbers.

Nothing of `lorakit` is used on this side: files are read as JSON, runs are picked by the fields of their specs as the
rules' texts name them, and rates, gaps and intervals are computed here. The ledger's verdicts are then compared.
"""

import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lorabook.claims.ledger import on_first_runs, verdict
from lorakit.records import Store

RESULTS = Path(__file__).parents[2] / "book" / "results"
RECORDS = Store(RESULTS)  # read once
SMOLLM2 = "smollm2-135m-instruct-q4"
REPLAY = {"dataset": "reworded-skills-replay", "batch_size": 8, "max_length": 40, "steps": 400, "evaluations": 10,
          "seed": lambda seed: seed < 5}
NEW_SEEDS = REPLAY | {"seed": lambda seed: 5 <= seed < 30}
DEFAULTS = {"model": "tiny", "batch_size": 4, "max_length": 64, "steps": 300, "evaluations": 12, "alpha": 32.0,
            "targets": "all-linear", "accumulation": 1, "init_a_scale": 1.0, "train_a": True, "reward": None,
            "learning_rate_b_ratio": 1.0, "dtype": "float32", "full_targets": "all", "expert_rank": None}


@cache
def runs(kind):
    """A row a run of the record size: its spec with defaults filled in, curve and metrics; the newest of each id."""
    found = {}
    for path in sorted(RESULTS.glob("cpu/*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["spec"]["kind"] == kind and record["status"] == "ok":
                newer = record["provenance"]["date"] >= found.get(record["id"], record)["provenance"]["date"]
                found[record["id"]] = record if newer else found[record["id"]]
    rows = []
    for record in found.values():
        spec = record["spec"]
        lora = spec["lora"]
        row = record["metrics"] | DEFAULTS | {"seed": 0} | {k: v for k, v in spec.items() if k != "lora"} | (lora or {})
        row |= {"rank": 0 if lora is None else lora.get("rank", 16), "curve": record["curve"]}
        row["name"] = row["task" if kind == "grpo" else "dataset"].partition("@")[0]
        row["base"] = row["model"].partition("@")[0]
        rows.append(row)
    return pd.DataFrame(rows)


def pick(frame, base="tiny", **fields):
    """The runs whose spec has these fields, everything else at its default."""
    for name, value in ({k: v for k, v in DEFAULTS.items() if k != "model"} | fields).items():
        column = "name" if name in ("dataset", "task") else name
        if value is None:
            frame = frame[frame[column].isna()]
        else:
            frame = frame[frame[column].map(value) if callable(value) else frame[column] == value]
    return frame[frame["base"] == base]


def at_end(rows, column):
    """Seeds by rates, of a column at the last step: on the larger set where there is one, else the curve's last."""
    larger = any(rows.get(f"final_evaluation_{what}", pd.Series(dtype=float)).notna().any()
                 for what in ("tokens", "problems"))
    ends = rows.assign(value=rows[column] if larger else [curve[column][-1] for curve in rows["curve"]])
    return ends.pivot_table(index="seed", columns="learning_rate", values="value", aggfunc="first")


def chosen(rows, read, choose, best):
    """By seed: a column at the rate whose mean of another is best."""
    means = at_end(rows, choose).mean()
    return at_end(rows, read)[getattr(means, best)()]


def interval(values, confidence=0.95):
    values = np.asarray(list(values), float)
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def vertex(losses, near):
    """Where the parabola through the means over seeds at three neighbouring rates is least between them, in log10."""
    x, y = np.log10(losses.columns.to_numpy(float))[near], losses.mean().to_numpy()[near]
    a, b, _ = np.polyfit(x - x[1], y, 2)
    turn = x[1] - b / (2 * a)
    return turn if a > 0 and x[0] < turn < x[2] else x[[0, 2]][y[[0, 2]].argmin()]


def best_rates(losses):
    """Of all seeds, and with each of them left out: where the minimum lies, over one window for all."""
    k = int(losses.mean().to_numpy().argmin())
    near = slice(k - 1, k + 2)
    return vertex(losses, near), np.array([vertex(losses.drop(index=seed), near) for seed in losses.index])


def ratio(over, under, column="validation_loss", error=lambda value: value, confidence=0.95):
    """The ratio of two best rates with the interval of the jackknife."""
    (a, a_without), (b, b_without) = (best_rates(at_end(rows, column).map(error)) for rows in (over, under))
    without, n = a_without - b_without, len(a_without)
    variance = (n - 1) / n * np.sum((without - without.mean()) ** 2)
    half = stats.t.ppf(0.5 + confidence / 2, n - 1) * math.sqrt(variance)
    return tuple(10**value for value in (a - b, a - b - half, a - b + half))


MARKS = {"does not hold": ", outside", "inconclusive": ", undecided", "holds": ""}


def decided(ratios, reason, **column):
    """The outcome of ratios of best rates and the interval that decides, where a reason says each of them.

    Args:
        ratios: by label the rows over, the rows under, and the limits.
    """
    spans, states = {}, {}
    for label, (over, under, least, most) in ratios.items():
        mean, low, high = spans[label] = ratio(over, under, **column)
        _, strict_low, strict_high = ratio(over, under, **column, confidence=1 - 0.05 / len(ratios))
        states[label] = ("holds" if least < low and high < most else
                         "does not hold" if strict_high < least or strict_low > most else "inconclusive")
        assert f"{label} {mean:.1f} ({low:.1f} to {high:.1f}){MARKS[states[label]]}" in reason
    assert reason.count(" to ") - reason.count("within ") == len(ratios), f"another interval is said: {reason}"
    outcome = next(state for state in MARKS if state in states.values())
    if outcome != "holds":
        return outcome, next(spans[label] for label, state in states.items() if state == outcome)

    def slack(label):
        (_, low, high), (least, most) = spans[label], ratios[label][2:]
        return min(low - least, most - high) / (high - low)

    return outcome, spans[min(spans, key=slack)]


@pytest.fixture(scope="module")
def verdicts():
    """By claim and base, the verdict of the claim's own rule on its first runs."""
    return lambda claim, base="tiny": on_first_runs(verdict(claim, RECORDS), base)


def same(found, outcome, span, scale=1.0):
    """The verdict's outcome and interval are these."""
    assert found.outcome == outcome
    effect = found.interval
    assert (effect.mean, effect.low, effect.high) == pytest.approx(tuple(scale * v for v in span), rel=2e-4, abs=2e-3)


LORA = (5.62e-4, 1e-3, 1.78e-3, 3.16e-3, 5.62e-3)
FULL = (1.78e-4, 3.16e-4, 5.62e-4, 1e-3, 1.78e-3)


def replayed(rank, rates):
    rows = pick(runs("sft"), **REPLAY, rank=rank)
    return rows[rows["learning_rate"].isin(rates)]


def test_c1_high_ranks_after_post_training(verdicts):
    full = chosen(replayed(0, FULL), "test_loss", "validation_loss", "idxmin")
    gain = (replayed(0, FULL)["base_test_loss"].mean() - full).mean()
    gaps = {rank: 100 * (chosen(replayed(rank, LORA), "test_loss", "validation_loss", "idxmin") - full) / gain
            for rank in (16, 64)}
    beyond = [interval(gap, 1 - 0.05 / 2)[1] > 5 for gap in gaps.values()]
    inside = [interval(gap)[1] > -5 and interval(gap)[2] < 5 for gap in gaps.values()]
    outcome = "does not hold" if any(beyond) else "holds" if all(inside) else "inconclusive"
    same(verdicts("C1"), outcome, interval(gaps[16]))


def rates_of(base, **fields):
    return {rank: pick(runs("sft"), base, rank=rank, **fields) for rank in (0, 1, 4, 16, 64)}


TENFOLD = (10 / 1.5, 10 * 1.5)


def limits_of_c3(arms):
    ranks = [rank for rank, rows in arms.items() if len(rows)]
    high, top, middle = [rank for rank in ranks if rank >= 16], max(ranks), min(rank for rank in ranks if rank >= 4)
    return {f"best rate of rank {rank} / full": (arms[rank], arms[0], *TENFOLD) for rank in high} | {
        f"best rate of rank {top} / rank {middle}": (arms[top], arms[middle], 0, 2),
        f"best rate of rank 1 / rank {top}": (arms[1], arms[top], 0, 1)}


def test_c3_on_smollm2(verdicts):
    found = verdicts("C3", SMOLLM2)
    arms = rates_of(SMOLLM2, dataset="real-text", steps=100, batch_size=2, evaluations=7)
    same(found, *decided(limits_of_c3(arms), found.reason))


def test_c3_on_tiny(verdicts):
    found = verdicts("C3")
    same(found, *decided(limits_of_c3(rates_of("tiny", **REPLAY)), found.reason))
    assert found.outcome == "does not hold"


def test_c3_and_c1_on_new_seeds():
    arms = rates_of("tiny", **NEW_SEEDS)
    of = {claim: next(one for one in verdict(claim, RECORDS).others
                      if one.claim.experiments == ("learning-rate-fresh",)) for claim in ("C1", "C3")}
    same(of["C3"], *decided(limits_of_c3(arms), of["C3"].reason))
    assert of["C3"].outcome == "does not hold"
    loss = {rank: chosen(arms[rank], "test_loss", "validation_loss", "idxmin") for rank in (0, 16, 64)}
    gain = (arms[0]["base_test_loss"].mean() - loss[0]).mean()
    spans = [interval(100 * (loss[rank] - loss[0]) / gain) for rank in (16, 64)]
    assert all(low > -5 and high < 5 for _, low, high in spans)
    same(of["C1"], "holds", spans[0])


def test_c5_has_no_batches_of_the_claim_eight_times_apart(verdicts):
    rows = pick(runs("sft"), **{k: v for k, v in REPLAY.items() if k not in ("batch_size", "steps")}, rank=64,
                batch_size=lambda _: True, steps=lambda _: True)
    batches = {int(batch) for batch in rows["batch_size"] if batch >= 32}
    assert batches == {32}
    assert verdicts("C5").outcome == "not tested"


@pytest.mark.parametrize(("first", "experiment"), [(0, "layers"), (30, "layers-fresh")])
def test_c6_attention_against_the_mlp(first, experiment):
    seeds, spans = {"seed": lambda seed: first <= seed < first + 5}, {}
    text = {"dataset": "real-text", "evaluations": 14}
    for name, fields, full in (("skills", REPLAY | seeds, FULL), ("text", text | seeds, None)):
        arms = {part: pick(runs("sft"), **fields, rank=rank, targets=part)
                for part, rank in (("attention", 18), ("mlp", 16))}
        loss = {part: chosen(rows, "test_loss", "validation_loss", "idxmin") for part, rows in arms.items()}
        whole = pick(runs("sft"), **fields, rank=0)
        whole = whole[whole["learning_rate"].isin(full)] if full else whole
        gain = (whole["base_test_loss"].mean() - chosen(whole, "test_loss", "validation_loss", "idxmin")).mean()
        spans[name] = interval(100 * (loss["attention"] - loss["mlp"]) / gain)
    assert spans["skills"][2] < 0 < spans["text"][1], "better on the skills, worse on text: it depends on the data"
    found = verdict("C6", RECORDS)
    same(next(one for one in (found, *found.others) if one.claim.experiments[0] == experiment), "depends on the data",
         spans["text"])


COPY = {"task": "copy", "steps": 300, "evaluations": 10, "batch_size": 4, "max_length": 64}
FORM = COPY | {"task": "maximum-reworded", "steps": 250, "evaluations": 14, "reward": "osmosis-line"}


def policies(rank, rates=6, **fields):
    rows = pick(runs("grpo"), **{**COPY, **fields}, rank=rank)
    for name in ("clip", "kl_coefficient", "loss", "scale_rewards", "iterations", "prompts_per_step", "group_size",
                 "merge_to_sample", "temperature", "importance_sampling", "format_steps", "reward_weights"):
        rows = rows[rows[name].isna()] if name in rows else rows  # a field at its default is not written
    assert rows["learning_rate"].nunique() == rates
    return rows


def accuracy(rows):
    return chosen(rows, "test_accuracy", "validation_accuracy", "idxmax")


def room(rank, full, weights):
    """Bits that a rank holds, two a weight, over those that the rewards told full fine-tuning at its best rate."""
    best = at_end(full, "validation_accuracy").mean().idxmax()
    told = [np.diff([0, *curve["episodes"]]) @ np.array(curve["reward_entropy"])
            for curve in full[full["learning_rate"] == best]["curve"]]
    return 2 * weights / np.mean(told)


def test_o2_and_p1_on_copying(verdicts):
    runs_of = {rank: policies(rank) for rank in (0, 1, 64)}
    full, one, top = map(accuracy, runs_of.values())
    same(verdicts("O2"), "inconclusive", interval(100 * (top - full)))
    held = room(1, runs_of[0], runs_of[1]["parameters"].max())
    assert held < 2, "so rank 1 is not judged"
    assert verdicts("P1").outcome == "not tested"
    gain = (full - runs_of[0]["base_test_accuracy"].mean()).mean()
    low = interval(100 * (one - top) / gain)
    assert f"rank 1 {held:.2f}, " in verdicts("P1").reason
    assert f"{low[0]:+.1f} % ({low[1]:+.1f} to {low[2]:+.1f})".replace("-", "−") in verdicts("P1").reason


def test_o1_and_t1_at_rates_taken_from_full_fine_tuning(verdicts):
    full = policies(0)
    best = at_end(full, "validation_accuracy").mean().idxmax()
    mine = at_end(full, "test_accuracy")[best]
    copied = at_end(policies(64), "test_accuracy")[best]
    tenfold = at_end(policies(1), "test_accuracy")[10 * best]
    same(verdicts("O1"), "inconclusive", interval(100 * (copied - mine)))
    span = interval(100 * (tenfold - mine) / (mine - full["base_test_accuracy"].mean()).mean())
    assert verdicts("T1").outcome == "not tested", "rank 1 has half of the room"
    assert f"{span[0]:+.1f} % ({span[1]:+.1f} to {span[2]:+.1f})".replace("-", "−") in verdicts("T1").reason


def test_c8_on_copying(verdicts):
    full, top = policies(0), policies(64)
    gain = (accuracy(full) - full["base_test_accuracy"].mean()).mean()
    gap = interval(100 * (accuracy(top) - accuracy(full)) / gain)
    text = f"rank 64 − full {gap[0]:+.1f} % ({gap[1]:+.1f} to {gap[2]:+.1f})".replace("-", "−")
    assert text in verdicts("C8").reason
    limit = max(at_end(policies(rank), "validation_accuracy").mean().max() for rank in (0, 1, 2, 4, 8, 64)) - gain / 10
    good = [(at_end(rows, "validation_accuracy") >= limit).sum(axis=1) for rows in (top, full)]
    more = interval(good[0] - good[1])
    text = f"rank 64 − full {more[0]:+.1f} ({more[1]:+.1f} to {more[2]:+.1f})".replace("-", "−")
    assert text in verdicts("C8").reason
    assert verdicts("C8").outcome == "inconclusive"


def test_c3_rl_on_copying_and_on_a_new_form(verdicts):
    found, error = verdicts("C3-RL"), {"column": "validation_accuracy", "error": lambda value: 1 - value}
    _, on_copy, on_form = re.split("On (?:copy|maximum-reworded): ", found.reason)
    copied = {rank: policies(rank) for rank in (0, 1, 2, 4, 8, 64)}
    formed = {0: policies(0, **FORM), 1: policies(1, **FORM), 32: policies(32, 7, **FORM)}
    formed[32] = formed[32][formed[32]["learning_rate"] != 0.000998]  # full fine-tuning's rate (`grpo-recipes`)
    limits = [{f"best rate of rank {rank} / full": (rows, arms[0], *TENFOLD) for rank, rows in arms.items() if rank}
              for arms in (copied, formed)]
    same(found, *decided(limits[0], on_copy, **error))
    assert found.outcome == "does not hold"
    assert decided(limits[1], on_form, **error)[0] == "inconclusive"


NEW_PROBLEMS = {"task": "copy-1024", "rates": 4}


def on_new_seeds(claim, steps, ranks):
    """A claim's verdict on the new seeds of so many steps, and the runs of each rank."""
    experiment, count = {75: ("grpo-fresh-short", 240), 300: ("grpo-fresh", 96)}[steps]
    made = runs("grpo")
    assert ((made["name"] == NEW_PROBLEMS["task"]) & (made["steps"] == steps)).sum() == count, "recorded whole"
    found = verdict(claim, RECORDS)
    (one,) = [each for each in (found, *found.others) if each.claim.experiments == (experiment,)]
    return one, {rank: policies(rank, steps=steps, **NEW_PROBLEMS) for rank in ranks}


def text(span, digits=1, unit=" %"):
    mean, low, high = (f"{value:+.{digits}f}".replace("-", "−") for value in span)
    return f"{mean}{unit} ({low} to {high})"


@pytest.mark.parametrize(("claim", "steps", "ranks"), [("C8", 75, (1, 64)), ("C8", 300, (8, 64)), ("P1", 75, (1, 64)),
                                                       ("T1", 75, (1,))])
def test_gaps_by_reward_on_new_seeds(claim, steps, ranks):
    found, made = on_new_seeds(claim, steps, (0, *ranks))
    full = accuracy(made[0])
    unit = 100 / (full - made[0]["base_test_accuracy"].mean()).mean()
    ends = {rank: accuracy(rows) for rank, rows in made.items()}
    if claim == "T1":
        rate = 10 * at_end(made[0], "validation_accuracy").mean().idxmax()
        tried = at_end(made[1], "test_accuracy")
        ends[1] = tried[min(tried, key=lambda one: abs(one / rate - 1))]
    against = ends[64] if claim == "P1" else full
    for rank in ranks[:1] if claim == "P1" else ranks:
        assert text(interval(unit * (ends[rank] - against))) in found.reason
    assert f"rank {ranks[0]} {room(ranks[0], made[0], made[ranks[0]]['parameters'].max()):.2f}" in found.reason


@pytest.mark.parametrize(("steps", "ranks"), [(75, (1, 64)), (300, (8, 64))])
def test_c3_rl_on_new_seeds(steps, ranks):
    found, made = on_new_seeds("C3-RL", steps, (0, *ranks))
    limits = {f"best rate of rank {rank} / full": (made[rank], made[0], *TENFOLD) for rank in ranks}
    same(found, *decided(limits, found.reason, column="validation_accuracy", error=lambda value: 1 - value))


@pytest.mark.parametrize(("task", "experiment"), [("copy", "grpo-layers"), ("copy-1024", "grpo-layers-fresh")])
def test_c6_rl_on_copying(task, experiment):
    attention, mlp = (accuracy(policies(rank, 5, steps=200, targets=name, task=task))
                      for rank, name in ((18, "attention"), (16, "mlp")))
    span = interval(100 * (attention - mlp))
    assert span[1] > -2, "attention alone is as good or better"
    found = verdict("C6-RL", RECORDS)
    same(*[one for one in (found, *found.others) if one.claim.experiments == (experiment,)], "does not hold", span)


def test_c10_bits_of_a_first_pass_on_smollm2(verdicts):
    rows = pick(runs("sft"), "smollm2-135m-instruct-q4", dataset="real-text", steps=100, batch_size=2, evaluations=7)
    bits = [run["train_nats"] / run["curve"]["tokens"][-1] / math.log(2) for _, run in rows.iterrows()]
    table = rows.assign(bits=bits).pivot_table(index="seed", columns=["rank", "learning_rate"], values="bits")
    span = interval(table[table.mean().idxmin()])
    assert span[1] > 2
    same(verdicts("C10", SMOLLM2), "does not hold", span)
