"""One sweep: the records that belong together, and what they say of arms and learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import pandas as pd

from lorakit.analysis import curves as by_arm
from lorakit.analysis.arms import settings_that_vary
from lorakit.analysis.curves import FrameError, arms, best_rate_by_validation, losses_at
from lorakit.analysis.differences import POINTS, Difference, Unit, difference, rate_ratio
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.parabolas import REACH
from lorakit.analysis.statistics import Interval, Optimum, Size, over_seeds
from lorakit.analysis.tables import ByArm, Table
from lorakit.records import Store

if TYPE_CHECKING:
    from lorakit.analysis.sweep_plots import SweepPlots
    from lorakit.records import Record


class Sweep(Sequence["Record"]):
    """The records of a sweep: a sequence of them, and the questions that one asks of it.

    Rates are chosen on validation data, and arms compared on test data. An arm is whatever the runs differ in beside
    learning rate and seed: `full`, `rank 8`, `rank 8, mlp`, `rank 8, batch_size 32`, `rank 8, engine trl`.

    Args:
        records: runs of supervised specs, or of RL specs; or a store, for all of its records.
        strict: a best rate at the end of its grid raises `GridEdgeError` instead of a warning.

    >>> from lorakit import Record, SFTSpec, vary
    >>> specs = vary(SFTSpec(model="m@1", dataset="d@1", learning_rate=1, steps=9), rank=[8, None],
    ...              learning_rate=[1e-5, 1e-4, 1e-3, 1e-2], seed=[0, 1])
    >>> def loss(spec): return 2 + math.log10(spec.learning_rate / (1e-3 if spec.lora else 3e-4)) ** 2
    >>> made = [Record.from_run(spec, "ok", {"base_test_loss": 4}, {"step": [9], "validation_loss": [loss(spec)],
    ...         "test_loss": [loss(spec) + 0.01 * spec.seed]}, {}) for spec in specs]
    >>> sweep = Sweep(made)
    >>> sweep.compare()["rank 8"].word, f"{sweep.ratio()['rank 8']:.2f}"
    ('better', '3.33 (3.33 to 3.33)')
    """

    def __init__(self, records: Iterable[Record] | Store, *, strict: bool = False) -> None:
        self.records: tuple[Record, ...] = tuple(_of_store(records) if isinstance(records, Store) else records)
        self.size: Size = "record" if strict else "live"

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return list(self.records[index]) if isinstance(index, slice) else self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Iterable[Record]) -> Sweep:
        """The records of both."""
        return Sweep([*self, *other], strict=self.size == "record")

    def __repr__(self) -> str:
        return f"<Sweep of {len(self)} runs: {', '.join(self.arms) or 'none finished'}>"

    def _repr_html_(self) -> str:
        try:
            return self.table()._repr_html_()
        except (FrameError, ValueError) as error:
            return Table([], f"{len(self)} runs, no table: {error}")._repr_html_()

    # The plain frames beneath

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a record and curve point, as `tidy`."""
        return self._whole(tidy(self.records), [len(r.curve.get("step", [])) for r in self._finished])

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a record that did not fail, with its metrics."""
        return self._whole(runs(self.records), [1] * len(self._finished))

    @property
    def arms(self) -> list[str]:
        """The arms' names, full fine-tuning first, then LoRA by rank."""
        return arms(self.runs)

    def ends(self, step: int | None = None) -> pd.DataFrame:
        """Each arm's runs at its best rate at a step (None: the last): one row per arm and seed, with its losses.

        Of RL runs, losses are shares of wrong answers, and the frame has the accuracies, too.
        """
        if self.curves.groupby("arm")["learning_rate"].nunique().max() > 1:
            rows = best_rate_by_validation(self.curves, self.size, step)
        else:  # one rate each: nothing to choose, and no grid with an edge
            rows = losses_at(self.curves, step)
        return rows.assign(test_accuracy=1 - rows["test_loss"]) if self.is_rl else rows

    def only(self, dataset: str | None = None, **columns: Any) -> Self:
        """The part whose runs have the given values: `only("gsm8k", rank=[1, 8], learning_rate=1e-3)`.

        Args:
            dataset: its name, with or without the part after `@`; of RL runs, the task.
            **columns: of `runs`; each a value or a list of values. Numbers may differ by rounding.

        Raises:
            FrameError: no such column.
        """
        rows = self.runs
        if dataset is not None:
            rows = rows[rows["dataset"].astype(str).map(lambda name: dataset in (name, name.partition("@")[0]))]
        for column, value in columns.items():
            if column not in rows:
                raise FrameError(f"no column {column!r}; columns: {', '.join(map(str, rows.columns))}")
            wanted = list(value) if isinstance(value, list | tuple | set | range | pd.Series) else [value]
            rows = rows[rows[column].map(lambda found, wanted=wanted: any(_same(found, one) for one in wanted))]
        return self._part([self.records[place] for place in rows["place"]])

    def at_best(self) -> Self:
        """The runs at the best rate of their arm."""
        ids = set(self.runs.merge(self.ends()[["arm", "learning_rate"]].drop_duplicates())["place"])
        return self._part([record for place, record in enumerate(self.records) if place in ids])

    # The questions

    @property
    def note(self) -> str:
        """How many seeds there are, in words."""
        return "1 seed" if (count := self.runs["seed"].nunique()) == 1 else f"{count} seeds"

    @property
    def is_rl(self) -> bool:
        """Whether these are runs of reinforcement learning."""
        return any(record.spec.get("kind") == "grpo" for record in self.records)

    def best(self, arm: str | None = None) -> Record:
        """The run to take: of the arm at its best rate, the seed with the best validation result.

        Args:
            arm: None takes the one whose mean over seeds is best on validation data.
        """
        means = (rows := self.ends()).groupby("arm")["validation_loss"].mean()
        row = rows[rows["arm"] == self._known(arm or str(means.idxmin()))].sort_values("validation_loss").iloc[0]
        same = self.runs[["arm", "learning_rate", "seed"]].eq(row[["arm", "learning_rate", "seed"]]).all(axis=1)
        return self.records[int(self.runs.loc[same, "place"].iloc[0])]

    def optima(self, step: int | None = None, confidence: float = 0.95, reach: int | None = REACH) -> ByArm[Optimum]:
        """The best learning rate of each arm with its interval over seeds: the minimum of its U-curve.

        Args:
            step: an evaluated step; None for the last one.
            reach: rates of its window on either side of the best one: see `lorakit.analysis.statistics.optimum`.

        Raises:
            ValueError: fewer than three rates, or an arm whose every rate diverged.
            GridEdgeError: of a strict sweep, an optimum at the end of its grid (else a warning).
        """
        found = by_arm.optima(self.curves, self.size, confidence, step, reach)
        return ByArm(found, "Best learning rate, by validation", lambda best: {
            "learning rate": f"{best.learning_rate:.2e}",
            "95 % interval": f"{best.low:.2e} to {best.high:.2e}" if best.low else "1 seed, none",
            "best of the grid": f"{best.grid_rate:.2e}" + (f", its {best.edge}" if best.edge else "")})

    def compare(self, against: str = "full", *, margin: float | None = None, step: int | None = None,
                confidence: float = 0.95) -> ByArm[Difference]:
        """Every other arm minus the reference on test data, each at its best rate, paired by seed.

        Supervised runs are compared in per cent of the reference's improvement over the base (positive: the arm has
        the higher loss, and is worse), in nats where the base was not measured; RL runs in points of accuracy
        (positive: better). Each interval stands for itself: nothing is corrected for their number.

        Args:
            against: the reference, an arm.
            margin: in the unit of the comparison; None: 5 % of the improvement, or 2 points of accuracy.
            step: an evaluated step; None for the last one.

        Raises:
            FrameError: an unknown arm, runs that do not pair, or no margin where the unit is nats.
        """
        others, table = self._others(against), self._by_seed(step)
        unit = POINTS if self.is_rl else Unit.of_improvement(self._gain(table[against]), against)
        found = {arm: difference(table, arm, against, unit, margin, confidence) for arm in others}
        return ByArm(found, f"Minus {against}, {unit.name}; margin ±{found[others[0]].margin:g}",
                     lambda gap: {"difference": f"{gap:+.1f}", "verdict": gap.word})

    def ratio(self, against: str = "full", step: int | None = None, reach: int | None = REACH) -> ByArm[Interval]:
        """Every other arm's best learning rate over the reference's: see `rate_ratio`; `reach` as of `optima`."""
        found = {arm: rate_ratio(self.curves, arm, against, self.size, step, reach) for arm in self._others(against)}
        return ByArm(found, f"Best learning rate over that of {against}", lambda span: {"ratio": f"{span:.1f}"})

    def improvement(self, arm: str = "full", step: int | None = None) -> float:
        """What the arm gains over the base on test data at its best rate, nats per label token; of RL, accuracy."""
        return self._gain(self._by_seed(step)[self._known(arm)])

    def table(self, against: str = "full") -> Table:
        """One row an arm: its best rate, test result, difference from the reference with its word, seeds."""
        rows = self.ends()
        try:
            gaps, unit = self.compare(against), ""
        except FrameError as error:
            gaps, unit = None, f"; not compared: {error}" if len(self.arms) > 1 else ""
        result = "test_accuracy" if self.is_rl else "test_loss"
        lines = []
        for arm in self.arms:
            one = rows[rows["arm"] == arm]
            line = {"arm": arm, "best rate": f"{one['learning_rate'].iloc[0]:.2e}",
                    result.replace("_", " "): f"{over_seeds(one[result].tolist()):.3f}"}
            if gaps:
                line |= {f"minus {against}": f"{gaps[arm]:+.1f}" if arm in gaps else "–",
                         "verdict": gaps[arm].word if arm in gaps else "–"}
            lines.append(line | {"seeds": str(len(one))})
        if gaps:
            first = next(iter(gaps.values()))
            unit = f"; difference in {first.unit}, margin ±{first.margin:g}"
        return Table(lines, f"Each arm at its best learning rate{unit}")

    @property
    def plot(self) -> SweepPlots:
        """Charts of this sweep, `.u_curve()`, `.loss()`, `.gaps()`, `.ratios()`, `.counts(…)`, `.curve(column)`."""
        from lorakit.analysis.sweep_plots import SweepPlots

        return SweepPlots(self)

    # How it is done

    def _part(self, records: Sequence[Record]) -> Self:
        part = type(self).__new__(type(self))
        part.__dict__ |= {name: value for name, value in self.__dict__.items() if name not in ("curves", "runs")}
        part.records = tuple(records)
        return part

    @property
    def _finished(self) -> list[Record]:
        return [record for record in self.records if record.status != "failed"]

    def _settings(self) -> dict[int, str]:
        """What names an arm beside its adapter, by place among the records."""
        return settings_that_vary(self.records)

    def _whole(self, frame: pd.DataFrame, rows: Sequence[int]) -> pd.DataFrame:
        """A frame of `rows` rows a record, with whole names of arms and each run's place among the records."""
        places = [place for place, record in enumerate(self.records) if record.status != "failed"]
        frame = frame.assign(place=np.repeat(np.array(places, dtype=int), rows))
        if not places:
            return frame
        settings = self._settings()
        apart = pd.Series([settings.get(place, "") for place in frame["place"]], index=frame.index, dtype=object)
        frame["arm"] = frame["arm"].where(apart == "", frame["arm"] + ", " + apart)
        if len({record.id for record in self._finished}) < len(places):  # of two engines
            frame["id"] = frame["id"] + "/" + frame["place"].astype(str)
        return frame

    def _known(self, arm: str) -> str:
        if arm not in self.arms:
            raise FrameError(f"no arm {arm!r}; arms: {', '.join(self.arms)}")
        return arm

    def _others(self, against: str) -> list[str]:
        if not (others := [arm for arm in self.arms if arm != self._known(against)]):
            raise FrameError(f"no arm but {against}: nothing to compare it with")
        return others

    def _by_seed(self, step: int | None) -> pd.DataFrame:
        result = "test_accuracy" if self.is_rl else "test_loss"
        return self.ends(step).pivot(index="seed", columns="arm", values=result)

    def _gain(self, values: pd.Series) -> float:
        start = self.runs.get(f"base_test_{'accuracy' if self.is_rl else 'loss'}", pd.Series([math.nan])).mean()
        return float(values.mean() - start if self.is_rl else start - values.mean())


def _of_store(store: Store) -> list[Record]:
    """Every run of a store once for each engine: the newest that did not fail."""
    found: dict[tuple[str, Any], Record] = {}
    for record in (record for place in store.files for record in store.records(*place)):
        key = (record.id, record.provenance.get("engine"))
        if key not in found or record.status != "failed":
            found[key] = record
    return list(found.values())


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return bool(pd.isna(found) if wanted is None else found == wanted)
