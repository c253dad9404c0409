"""Each arm at its best learning rate, chosen on validation data and read on test data, and where arms part."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from lorakit.analysis.parabolas import REACH
from lorakit.analysis.statistics import Optimum, Size, edge_of, mean_interval, optimum

COMMON = "common"
RUN = ["arm", "learning_rate", "seed"]
BEST_COLUMNS = ["arm", "method", "rank", "learning_rate", "seed", "step", "tokens", "validation_loss", "test_loss"]
ACCURACIES = ("validation_accuracy", "test_accuracy")  # of RL runs


class FrameError(ValueError):
    """A frame cannot answer the question: a column or a run is missing, or it mixes experiments."""


def losses_at(frame: pd.DataFrame, step: int | None = None) -> pd.DataFrame:
    """One row per run with its losses at one step; a diverged run that did not reach it has +inf (accuracies −inf).

    Args:
        frame: of `tidy`, of one model, dataset and batch size.
        step: an evaluated step; the last one if None, where a diverged run is +inf in any case.

    Raises:
        FrameError: mixed experiments, a run without a point at the step, or two runs with one arm, rate and seed.
    """
    _check(frame)
    reached = frame[frame["step"] > 0]
    last = int(reached["step"].max())
    step = last if step is None else step
    rows = reached[reached["step"] == step].copy()
    gone = frame[~frame["id"].isin(rows["id"])].drop_duplicates("id").copy()
    running = gone[gone["status"] != "diverged"]
    if len(running):
        names = ", ".join(f"{r.arm} at {r.learning_rate:g}, seed {r.seed}" for r in running.head(3).itertuples())
        raise FrameError(f"{len(running)} runs have no point at step {step} ({names}); "
                         "compare runs of equal length and equal evaluations")
    gone["step"] = step
    gone["tokens"] = math.nan
    rows = pd.concat([rows, gone]) if len(gone) else rows
    lost = rows["id"].isin(gone["id"]) | rows["validation_loss"].isna()
    if step == last:
        lost |= rows["status"] == "diverged"
    rows.loc[lost, ["train_loss", "validation_loss", "test_loss"]] = math.inf
    rows.loc[lost, [name for name in ACCURACIES if name in rows]] = -math.inf
    twice = rows[rows.duplicated(RUN)]
    if len(twice):
        run = twice.iloc[0]
        raise FrameError(f"two runs of {run['arm']} at {run['learning_rate']:g} with seed {run['seed']}: "
                         "filter the frame to one experiment")
    return rows.reset_index(drop=True)


def optima(frame: pd.DataFrame, size: Size = "record", confidence: float = 0.95,
           step: int | None = None, reach: int | None = REACH) -> dict[str, Optimum]:
    """The best learning rate of every arm by validation loss at a step, with its interval over seeds.

    Args:
        step: an evaluated step; None for the last one.
        reach: as in `optimum`.

    Raises:
        GridEdgeError: at the record size, an optimum at the grid's edge.
    """
    rows = losses_at(frame, step)
    found = {}
    for arm in arms(frame):
        table = _table(rows, arm, "validation_loss")
        found[arm] = optimum(table.columns.tolist(), table.to_numpy(), seeds=table.index.tolist(), size=size, arm=arm,
                             confidence=confidence, reach=reach)
    return found


def best_rate_by_validation(frame: pd.DataFrame, size: Size = "record", step: int | None = None) -> pd.DataFrame:
    """Each arm's runs at the trained rate with the least mean validation loss over seeds: one row per arm and seed.

    The rows of RL runs have their accuracies, too.

    Args:
        frame: of `tidy`, of one model, dataset and batch size.
        size: a best rate at the grid's edge is an error at `record`, a warning at `live`.
        step: None for the last step.

    Raises:
        GridEdgeError: see `size`.
        FrameError: see `losses_at`; also a rate that was not run with every seed.
    """
    rows = losses_at(frame, step)
    chosen = []
    for arm in arms(frame):
        table = _table(rows, arm, "validation_loss")
        best = float(table.mean().idxmin())
        edge_of(table.columns.tolist(), best, arm=arm, size=size)
        chosen.append(rows[(rows["arm"] == arm) & (rows["learning_rate"] == best)])
    found = pd.concat(chosen)
    return found[[*BEST_COLUMNS, *(name for name in ACCURACIES if name in found)]].reset_index(drop=True)


def pointwise_minimum(frame: pd.DataFrame) -> pd.DataFrame:
    """Each arm's least loss at every evaluated step (as Schulman et al. 2025 draw it): one row per arm, step and seed.

    At each step the rate with the least validation loss, averaged over seeds, is chosen anew, and the test loss is
    read at that one rate for every seed: seeds share the choice, so they stay paired. With a constant learning rate
    the step is also the length of a finished run.

    Raises:
        FrameError: see `losses_at`; also a rate that was not run with every seed.
    """
    _check(frame)
    chosen = []
    for step in sorted(frame.loc[frame["step"] > 0, "step"].unique()):
        rows = losses_at(frame, int(step))
        for arm in arms(frame):
            best = float(_table(rows, arm, "validation_loss").mean().idxmin())
            chosen.append(rows[(rows["arm"] == arm) & (rows["learning_rate"] == best)])
    return pd.concat(chosen)[BEST_COLUMNS].reset_index(drop=True)


def common_curve(curves: pd.DataFrame) -> pd.DataFrame:
    """The minimum-loss curve: at each step the arm with the least mean validation loss, its test losses by seed.

    Args:
        curves: of `pointwise_minimum`.
    """
    means = curves.groupby(["step", "arm"], sort=True)["validation_loss"].mean()
    best = [arm for _, arm in means.groupby(level="step").idxmin()]
    chosen = pd.DataFrame({"step": sorted(curves["step"].unique()), "arm": best})
    return curves.merge(chosen, on=["step", "arm"]).assign(arm=COMMON)


def excess(curves: pd.DataFrame, arm: str, reference: str = COMMON) -> pd.DataFrame:
    """Test loss of an arm minus that of the reference: steps (rows) by seeds (columns), in nats per label token.

    Args:
        curves: of `pointwise_minimum`.
        reference: an arm, or `common` for the minimum-loss curve over all arms.

    Raises:
        FrameError: an unknown arm, or arms with different steps or seeds.
    """
    other = common_curve(curves) if reference == COMMON else curves[curves["arm"] == reference]
    one = curves[curves["arm"] == arm]
    for name, rows in ((arm, one), (reference, other)):
        if rows.empty:
            raise FrameError(f"no arm {name!r}; arms: {', '.join(arms(curves))}, {COMMON}")
    tables = [rows.pivot(index="step", columns="seed", values="test_loss") for rows in (one, other)]
    if not tables[0].index.equals(tables[1].index) or not tables[0].columns.equals(tables[1].columns):
        raise FrameError(f"{arm} and {reference} were not evaluated at the same steps with the same seeds")
    return tables[0] - tables[1]


def departure_step(curves: pd.DataFrame, arm: str, reference: str = COMMON, *, margin: float) -> int | None:
    """The step at which an arm leaves the reference curve, or None if it never does.

    Rule: the first evaluated step from which on, there and at every later step, the whole paired 95 % interval over
    seeds of (arm − reference) lies above the margin. An arm that comes back has not left.

    Args:
        curves: of `pointwise_minimum`.
        margin: > 0 in nats per label token; the same at every step.
    """
    gaps = excess(curves, arm, reference)
    lows = [mean_interval(row.tolist()).low for _, row in gaps.iterrows()]
    return _first_lasting(gaps.index.tolist(), [low > margin for low in lows])


def departure_by_seed(curves: pd.DataFrame, arm: str, reference: str = COMMON, *,
                      margin: float) -> dict[int, int | None]:
    """The rule of `departure_step` on each seed by itself: the first step from which its excess stays above margin."""
    gaps = excess(curves, arm, reference)
    return {int(seed): _first_lasting(gaps.index.tolist(), (gaps[seed] > margin).tolist()) for seed in gaps.columns}


def arms(frame: pd.DataFrame) -> list[str]:
    """The arms of a frame: full fine-tuning first, then LoRA by rank."""
    rows = frame[["arm", "rank"]].drop_duplicates().sort_values(["rank", "arm"], na_position="first")
    return list(rows["arm"])


def _first_lasting(steps: Sequence[int], above: Sequence[bool]) -> int | None:
    found = None
    for step, is_above in zip(reversed(steps), reversed(above), strict=True):
        if not is_above:
            break
        found = int(step)
    return found


def _table(rows: pd.DataFrame, arm: str, loss: str) -> pd.DataFrame:
    one = rows[rows["arm"] == arm]
    counts = one.pivot(index="seed", columns="learning_rate", values="id").notna()
    if not counts.to_numpy().all():
        seed, rate = counts.stack()[lambda present: ~present].index[0]
        raise FrameError(f"{arm} was not run at learning rate {rate:g} with seed {seed}: "
                         "finish the sweep, or drop that rate or seed for every arm")
    return one.pivot(index="seed", columns="learning_rate", values=loss)


def _check(frame: pd.DataFrame) -> None:
    needed = {*BEST_COLUMNS, "id", "model", "dataset", "batch_size", "status"}
    missing = sorted(needed - set(frame.columns))
    if missing:
        raise FrameError(f"columns missing: {', '.join(missing)}; pass the frame that tidy(records) returns")
    if frame.empty:
        raise FrameError("no finished run is in this sweep or frame")
    for column in ("model", "dataset", "batch_size"):
        values = frame[column].unique()
        within = frame.groupby("arm")[column].nunique().max() if column == "batch_size" else len(values)
        if within > 1:
            raise FrameError(f"the frame mixes {len(values)} values of {column}: {', '.join(map(str, values))}; "
                             f"filter it to one, for example frame[frame.{column} == {values[0]!r}], or of a sweep "
                             f"sweep.only({column}={values[0]!r})")
