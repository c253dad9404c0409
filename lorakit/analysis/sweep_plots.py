"""The charts of a sweep: each says in its title what is drawn, or what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import altair as alt

from lorakit.analysis import plots
from lorakit.analysis.differences import Difference
from lorakit.analysis.palette import axis_title

if TYPE_CHECKING:
    from lorakit.analysis.sweep import Sweep


class SweepPlots:
    """Charts of a sweep, in Altair's types: `sweep.plot.u_curve().save("u.html")`.

    Every chart takes `title` (None: what is drawn, or what was found) and `note`, a line beneath it (None: the seeds).
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def u_curve(self, y: str | None = None, *, title: str | None = None, note: str | None = None) -> alt.LayerChart:
        """The last result against the learning rate, an arm a line, its best rate ringed.

        Args:
            y: a column of `curves`; None: `test_loss`, or `test_accuracy` of RL runs.
        """
        y = y or self._result
        return plots.u_curve(self.sweep.curves, y=y, title=title or f"{_short(y)} against learning rate",
                             note=note or self._seeds)

    def loss(self, y: str | None = None, *, title: str | None = None, note: str | None = None) -> alt.LayerChart:
        """The result for every training length, each arm at the rate that is best for that length.

        With a constant rate, every point of a curve is the end of a shorter run.

        Args:
            y: `test_loss`, `validation_loss` or `train_loss`; RL runs have `test_accuracy` alone.
        """
        y = y or self._result
        best = plots.pointwise_minimum(self.sweep.curves)
        best = best.assign(test_accuracy=1 - best["test_loss"]) if self.sweep.is_rl else best
        return plots.loss_against_steps(best, y=y, title=title or f"{_short(y)} by training length, best rate for each",
                                        note=note or self._seeds)

    def curve(self, y: str, *, y_title: str | None = None, title: str | None = None,
              note: str | None = None) -> alt.LayerChart:
        """Any column of `curves` against the steps, each arm at the rate that is best at the end."""
        return plots.lines(self.sweep.at_best().curves, "step", y, y_title=y_title, note=note or self._seeds,
                           title=title or f"{_short(y_title or y)} by step, each arm at its best rate")

    def gaps(self, against: str = "full", *, margin: float | None = None, title: str | None = None,
             note: str | None = None) -> alt.LayerChart | alt.VConcatChart:
        """Every other arm minus the reference, with intervals, zero and the margin: the picture of `compare`."""
        found = self.sweep.compare(against, margin=margin)
        first = next(iter(found.values()))
        bars = f"bars: {first.confidence:.0%} intervals" if first.n > 1 else "no intervals"
        said = f"{self.sweep.note}; {bars}; grey: margin ±{first.margin:g}"
        return plots.dots(found, x_title=f"difference from {against} ({first.unit})", margin=first.margin, form="+.1f",
                          title=title or finding(found, against), note=note or said)

    def ratios(self, against: str = "full", *, rules: Mapping[float, str] | None = None, title: str | None = None,
               note: str | None = None) -> alt.LayerChart | alt.VConcatChart:
        """Every other arm's best rate over the reference's, with intervals: the picture of `ratio`.

        Args:
            rules: ratios to compare with, each with a name; None: 1, "the same".
        """
        found = self.sweep.ratio(against)
        return plots.dots(found, x_title=f"best learning rate over that of {against}", rules=rules or {1: "the same"},
                          log_x=True, form=".1f", note=note or self.sweep.note,
                          title=title or f"Best learning rates over that of {against}")

    def counts(self, at_least: float, y: str = "test_accuracy", *, title: str | None = None,
               note: str | None = None) -> alt.LayerChart:
        """How many runs of each arm, at its best rate, ended at `at_least` of the column `y` of `ends` or above."""
        rows = self.sweep.ends()
        found = {arm: (int((rows.loc[rows["arm"] == arm, y] >= at_least).sum()), int((rows["arm"] == arm).sum()))
                 for arm in self.sweep.arms}
        said = f"a circle a run, filled where it ends at {_short(y).lower()} of {at_least:g} or more"
        return plots.counts(found, title=title or f"{_short(y)} of {at_least:g} or more", note=note or said)

    @property
    def _result(self) -> str:
        return "test_accuracy" if self.sweep.is_rl else "test_loss"

    @property
    def _seeds(self) -> str:
        several = self.sweep.runs["seed"].nunique() > 1
        return self.sweep.note + ("; lines: means, bands: 95 % intervals" if several else ", no interval")


def finding(found: Mapping[str, Difference], against: str) -> str:
    """What a comparison found, in a line.

    >>> gap = Difference(0.0, -1.0, 1.0, 5, margin=5, unit="%", word="equal")
    >>> finding({"rank 8": gap, "rank 16": gap}, "full")
    'Equal to full: rank 8, rank 16'
    """
    phrases = {"worse": f"Worse than {against}", "better": f"Better than {against}", "equal": f"Equal to {against}",
               "open": "Open"}
    parts = [f"{phrase}: {', '.join(arms)}" for word, phrase in phrases.items()
             if (arms := [arm for arm, gap in found.items() if gap.word == word])]
    return "; ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])])


def _short(column: str) -> str:
    """The quantity without its unit, with a capital."""
    name = axis_title(column).partition(" (")[0]
    return name[:1].upper() + name[1:]
