"""Two laws of learning rates, judged over several kinds of runs at once: the width ladder, and the twins of C12."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lorabook.claims import regime, window
from lorabook.claims.claim import claim
from lorabook.claims.decisions import OPEN, UNTESTED, Finding, Limit, Unit, decide, exactly
from lorabook.claims.evidence import SEEDS_NEEDED, Scale, every_record
from lorabook.claims.regime import pretraining_facts, regime_of
from lorabook.experiments.learning_rate import LEAST_EPSILON
from lorakit.analysis.curves import optima
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.rates import power_law
from lorakit.analysis.statistics import GridEdgeError, Interval
from lorakit.specs import SFTSpec

if TYPE_CHECKING:
    from lorakit.records import Record, Store

FLAT = 0.25
WIDTH_RANK = 4
WIDTHS = "learning-rate-width"
WIDEST = "learning-rate-width-256"  # joins the ladder when all of its runs are recorded

TWINS = Limit("largest difference of final validation and test losses between twins", (-math.inf, 1e-9),
              Unit(" nats", "nats", form=".1e"), outside=(-math.inf, 1e-6))
SLOPE = Limit("power of the width that the ratio follows", (-FLAT, FLAT), Unit("", "", form=".2f", signed=True))


def recorded_ladder(store: Store) -> list[Record]:
    """The records of the ladder, the widest base among them where it is complete.

    Raises:
        LookupError: runs of the experiment have no record.
    """
    found = every_record(store, WIDTHS)
    with suppress(LookupError):
        found += every_record(store, WIDEST)
    return found


def width_ladder(records: Sequence[Record]) -> pd.DataFrame:
    """One row a width and seed: `width`, `seed`, best rates `lora` and `full`, `ratio`, `regime` (a `Regime`).

    Args:
        records: of embedded bases of several widths, all runs of each.

    Raises:
        GridEdgeError: a best rate is at the edge of its grid.
    """
    rows = []
    for model in dict.fromkeys(record.spec["model"] for record in records):
        mine = [record for record in records if record.spec["model"] == model]
        curves, facts = tidy(mine), pretraining_facts(model)
        best = optima(curves)
        gate = regime_of(curves, runs(mine), facts.get("peak_learning_rate"))
        lora = best[f"rank {WIDTH_RANK}"].per_seed
        rows += [{"width": facts["hidden_size"], "seed": seed, "lora": lora[seed], "full": full,
                  "ratio": lora[seed] / full, "regime": gate} for seed, full in best["full"].per_seed.items()]
    return pd.DataFrame(rows)


def slope_by_width(ladder: pd.DataFrame, column: str = "ratio", confidence: float = 0.95) -> Interval:
    """The power of the width that a column of `width_ladder` follows: a fit for each seed, its interval over seeds."""
    return power_law(ladder["width"], ladder[column], ladder["seed"], confidence)


@claim("C13", source="schulman2025lora", chapter="06-learning-rate", computed=True, experiments=(WIDTHS, WIDEST),
       limits=[SLOPE], corrected=False, written="2026-11-22T02:38", changed=window.LAW_CHANGED,
       why=f"{window.LAW_WHY} {regime.WHY}", scope="A fit over 14 Llama and Qwen models on Tulu 3.")
def same_at_every_width(store: Store) -> Sequence[tuple[Scale | None, Finding]]:
    """the ratio of the best learning rates of LoRA and full fine-tuning does not depend on the model's width

    Data: the width ladder of embedded models with the same data and steps, full fine-tuning and rank {WIDTH_RANK}, each
    width where the regime gate says post-training. {window.WORDS} For each seed, the slope of log(LoRA's best rate /
    full fine-tuning's) on log(width). Paper predicts the slopes 0 (constant), 1/2 and 1, and the limits are nearer to 0
    than to 1/2. Fewer than three widths in post-training: not tested. The seeds are those of fine-tuning: each width is
    one pre-trained base.
    """
    try:
        ladder = width_ladder(recorded_ladder(store))
    except LookupError as error:
        return [(None, Finding(UNTESTED, str(error)))]
    except GridEdgeError as error:
        return [(None, Finding(OPEN, f"{error}."))]
    regimes = {int(width): gate for width, gate in zip(ladder["width"], ladder["regime"], strict=True)}
    inside = ladder[[gate.name == "post-training" for gate in ladder["regime"]]]
    said = "; ".join(f"width {width}: {gate}" for width, gate in regimes.items())
    seeds, widths = ladder["seed"].nunique(), sorted(inside["width"].unique())
    scale = Scale("cpu", "the width ladder of tiny", None, None, embedded=True)
    if len(widths) < 3 or seeds < SEEDS_NEEDED["cpu"]:
        every = SLOPE.measured("", lambda confidence: slope_by_width(ladder, confidence=confidence))
        why = (f"Of {len(regimes)} widths {len(widths)} are in post-training; over all of them the ratio goes with the "
               f"width to the power {every}, which judges nothing.")
        return [(scale, Finding(UNTESTED, why, regime=said, seeds=seeds))]
    means = {width: float(np.exp(np.log(rows["ratio"]).mean())) for width, rows in inside.groupby("width")}
    words = ", ".join(f"{mean:.1f} at width {width}" for width, mean in means.items())
    slope = SLOPE.measured("", lambda confidence: slope_by_width(inside, confidence=confidence))
    return [(scale, decide([slope], before=f"Ratio of best rates, rank {WIDTH_RANK} over full: {words}.", regime=said,
                           seeds=seeds))]


@claim("C12", source="schulman2025lora", chapter="12-alpha", computed=True, limits=[TWINS], corrected=False,
       experiments=("learning-rate-invariance",), written="2026-11-22T02:57",
       scope="Adam with an epsilon of zero, no weight decay.")
def same_after_transformation(store: Store) -> Sequence[tuple[Scale | None, Finding]]:
    """training with (alpha, init_A, LR_A, LR_B) is the same as with (alpha / (p q), p init_A, p LR_A, q LR_B), so that
    the four settings have two degrees of freedom

    Runs in float64 of 50 steps on `tiny`, rank 4, in twins: one at the default setting, the other with the four turned
    as the claim says, for three pairs (p, q) and five seeds, with Adam's epsilon at {LEAST_EPSILON:g}. What the usual
    epsilon does is shown beside it and judges nothing.
    """
    try:
        twins = invariance_gaps(every_record(store, "learning-rate-invariance"))
    except LookupError as error:
        return [(None, Finding(UNTESTED, str(error)))]
    worst = float(twins.loc[twins["epsilon"] == LEAST_EPSILON, "gap"].max())
    usual = float(twins.loc[twins["epsilon"] != LEAST_EPSILON, "gap"].max())
    reason = (f"Largest difference of final losses between twins: {worst:.1e} nats with epsilon {LEAST_EPSILON:g}, "
              f"{usual:.1e} among those with a usual epsilon.")
    scale = Scale("cpu", "tiny", pretraining_facts("tiny").get("parameters"), None, embedded=True)
    return [(scale, replace(decide([TWINS.measured("", exactly(worst))], corrected=False), reason=reason, limit=None))]


def invariance_gaps(records: Sequence[Record]) -> pd.DataFrame:
    """One row a twin run: `setting`, `epsilon`, `seed`, and `gap`, the larger of its two final losses' differences.

    Twins are compared with the run at the default setting, the usual epsilon's with that of epsilon 1e-8.

    Args:
        records: every run of `learning-rate-invariance` at one profile and size.
    """
    found = {record.id: record for record in records}
    specs = [SFTSpec.from_json(record.spec) for record in records]
    rows = []
    for spec in specs:
        lora = spec.lora
        assert lora is not None
        default = replace(lora, alpha=32.0, init_a_scale=1.0, learning_rate_b_ratio=1.0)
        same = spec.epsilon == LEAST_EPSILON
        twin = next(s for s in specs if s.lora == default and s.seed == spec.seed
                    and s.epsilon == (spec.epsilon if same else SFTSpec.epsilon))
        if twin.id == spec.id:
            continue
        gap = max(abs((found[spec.id].metrics[name] or math.nan) - (found[twin.id].metrics[name] or math.nan))
                  for name in ("validation_loss", "test_loss"))
        p, q = lora.init_a_scale, lora.learning_rate_b_ratio * lora.init_a_scale
        rows.append({"setting": f"p = {p:g}, q = {q:g}", "epsilon": spec.epsilon, "seed": spec.seed, "gap": gap})
    return pd.DataFrame(rows)
