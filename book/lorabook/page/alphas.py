"""Best rates by rank and alpha on the toy: four rules of alpha beside full fine-tuning, at one length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from lorabook.claims.alpha import ALPHAS, left_of_alpha
from lorabook.experiments.alpha import RANKS as COMPARED
from lorabook.experiments.alpha import SETTINGS
from lorabook.page.chapter import Chapter
from lorakit.analysis import plots
from lorakit.analysis.curves import optima
from lorakit.analysis.marks import heading
from lorakit.analysis.rates import power_law
from lorakit.analysis.statistics import GridEdgeError, Interval, Optimum, ratio_interval
from lorakit.analysis.sweep import Sweep
from lorakit.analysis.tables import Table

RULES: dict[str, Callable[[int], float]] = {"alpha = 32": lambda r: 32, "alpha = 2 r": lambda r: 2 * r,
                                            "alpha = r": lambda r: r, "rsLoRA, 8 √r": lambda r: 8 * math.sqrt(r)}
RANKS = (1, 16, 64)
PANEL = 230  # pixels


@dataclass(frozen=True)
class Rates:
    """The best rate of each arm at one length.

    Args:
        best: by arm.
        note: the seeds, in words.
    """

    best: Mapping[str, Optimum]
    note: str

    def of(self, rank: int, alpha: float) -> Optimum | None:
        """Of one setting, if it was run."""
        return self.best.get(f"rank {rank}" + (f", alpha {alpha:g}" if alpha != 32 else ""))

    def over(self, arm: str, other: str = "full") -> Interval:
        """The ratio of two arms' best rates."""
        return ratio_interval(self.best[arm], self.best[other])

    @property
    def frame(self) -> pd.DataFrame:
        """One row a rank, alpha and seed: `arm`, `rank`, `alpha`, `seed`, `learning_rate`."""
        return pd.DataFrame([{"arm": f"rank {rank}", "rank": rank, "alpha": alpha, "seed": seed, "learning_rate": rate}
                             for rank in RANKS for alpha in sorted({rule(rank) for rule in RULES.values()})
                             if (one := self.of(rank, alpha)) for seed, rate in one.per_seed.items()])

    @property
    def table(self) -> Table:
        """Every arm with its best rate and that over full fine-tuning's."""
        return Table([{"arm": arm, "best rate": f"{one.interval:.2e}", "over full": f"{self.over(arm):.1f}"}
                      for arm, one in self.best.items()], "Best learning rates after 206 steps")


@dataclass(frozen=True)
class Extreme:
    """A ratio of best rates and the setting that it belongs to."""

    ratio: Interval
    where: str


def best_rates(page: Chapter) -> Rates:
    """From the recorded runs: alpha varied, and alpha 32 with full fine-tuning at the same step of longer runs."""
    scale, same = (page.sweep(name, size="record") for name in ("learning-rate-scale", "rank-replay"))
    steps = scale.specs[0].steps
    return Rates(optima(same.curves, step=steps) | optima(scale.curves), scale.note)


def by_rank(rates: Rates) -> dict[str, dict[str, Interval]]:
    """Best rates of LoRA over full fine-tuning's, by rank and rule; what was not run is left out."""
    return {f"rank {rank}": {name: ratio_interval(one, rates.best["full"]) for name, rule in RULES.items()
                             if (one := rates.of(rank, rule(rank)))} for rank in RANKS}


def extremes(rates: Rates) -> tuple[Extreme, Extreme]:
    """The lowest and the highest ratio over all rules."""
    found = [Extreme(ratio, f"{rank}, {rule}") for rank, rules in by_rank(rates).items()
             for rule, ratio in rules.items()]
    return min(found, key=lambda one: one.ratio.mean), max(found, key=lambda one: one.ratio.mean)


def power(rates: Rates, rank: int) -> Interval:
    """The power of alpha that the best rate of a rank follows."""
    rows = rates.frame.query("rank == @rank")
    return power_law(rows["alpha"], rows["learning_rate"], rows["seed"])


def expected(rates: Rates, rank: int) -> pd.DataFrame:
    """What the slope (1 / alpha) and the product (1 / √alpha) ask of a rank, from its best rate at its first alpha."""
    alphas = sorted(rates.frame.query("rank == @rank")["alpha"].unique())
    least = rates.of(rank, alphas[0])
    assert least is not None
    rows: list[dict[str, Any]] = [
        {"arm": name, "alpha": alpha, "learning_rate": least.learning_rate * (alphas[0] / alpha) ** power}
        for name, power in (("1 / alpha", 1.0), ("1 / √alpha", 0.5)) for alpha in alphas]
    return pd.DataFrame(rows)


def beside_theory(rates: Rates, ranks: Sequence[int], title: str, note: str) -> alt.HConcatChart:
    """Best rates against alpha, a panel a rank: on one panel their names would stand on each other's lines."""
    rows = rates.frame
    panels = [plots.lines(pd.concat([rows[rows["rank"] == rank], expected(rates, rank)]), "alpha", "learning_rate",
                          log_y=True, title=f"rank {rank}").properties(width=PANEL) for rank in ranks]
    text = f"{title}. {' '.join(panel.description for panel in panels)}"
    return alt.HConcatChart(hconcat=panels, description=text, title=heading(title, note)).resolve_scale(
        color="independent", shape="independent", strokeDash="independent")


def twins_table(gaps: pd.DataFrame) -> Table:
    """The largest difference between twins over seeds, by setting and epsilon.

    Args:
        gaps: of `invariance_gaps`.
    """
    table = gaps.pivot_table(index="setting", columns="epsilon", values="gap", aggfunc="max")
    return Table([{"setting": setting, **{f"epsilon {epsilon:g}": "–" if gap != gap else f"{gap:.0e}" if gap else "0"
                                          for epsilon, gap in row.items()}} for setting, row in table.iterrows()],
                 "Largest difference of final losses between twins, nats, five seeds")


def against_the_rate(page: Chapter) -> dict[str, Sweep]:
    """The runs of alphas times rates by setting."""
    return {name: page.sweep(f"learning-rate-alpha-{name}", size="record") for name in SETTINGS}


def left_table(settings: Mapping[str, Sweep]) -> Table:
    """What is left of alpha once the rate is tuned, in each setting.

    Args:
        settings: of `against_the_rate`.
    """
    rows = [{"setting": f"{words}, rank {rank}"} | _left(settings[name], rank)
            for name, words in SETTINGS.items() for rank in COMPARED]
    return Table(rows, "Test loss minus that of alpha 32, each at its best rate, in % of the improvement")


def _left(sweep: Sweep, rank: int) -> dict[str, str]:
    try:
        limits = left_of_alpha(sweep)
    except GridEdgeError:
        return {f"alpha {alpha}": "best rate at the end of its grid" for alpha in ALPHAS}
    return {f"alpha {alpha}": f"{limits[rank, alpha].span:+.1f}" for alpha in ALPHAS}
