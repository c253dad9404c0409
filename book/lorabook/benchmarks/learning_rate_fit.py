"""Fit `recommend_learning_rate` on the public sweep and on SmolLM2's records, and say what rules cost.

    LORAKIT_DATA=DIR python book/lorabook/benchmarks/learning_rate_fit.py    # half a minute; reads, trains nothing

DIR holds `peers_tinker_sft_sweep.csv` (model, rank, lr, test_nll: the cookbook's table) and `peers_lr_best_by_rank.csv`
(model, fam, hidden). A cell is a model at a rank; its loss between rates is the parabola, in the logarithm of the rate,
through the best rate tried and its neighbours. Regret is (loss - lowest) / lowest, in per cent.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lorabook.page import public

REPOSITORY = Path(__file__).parents[3]
DATA = Path(os.environ.get("LORAKIT_DATA", REPOSITORY.parent / "shared" / "data"))
SMOLLM2 = "smollm2-135m"
TINKER_POWERS = {"llama": 0.781, "qwen": 0.0775}
RATES = np.exp(np.linspace(math.log(2e-4), math.log(9e-4), 46))
WIDTH_POWERS, RANK_POWERS = np.arange(0, 0.85, 0.05), np.arange(0, 0.45, 0.05)


@dataclass(frozen=True)
class Cell:
    model: str
    family: str
    hidden: int
    rank: int
    points: tuple[tuple[float, float], ...]  # logarithm of the rate, loss

    def regret(self, rates: float | np.ndarray) -> np.ndarray:
        at = min(max(min(range(len(self.points)), key=lambda i: self.points[i][1]), 1), len(self.points) - 2)
        x, y = np.array(self.points[at - 1:at + 2]).T
        curve = np.polyfit(x, y, 2)
        ends = self.points[0][0], self.points[-1][0]
        lowest = min(loss for _, loss in self.points)
        if curve[0] > 0:
            lowest = min(lowest, np.polyval(curve, np.clip(-curve[1] / (2 * curve[0]), *ends)))
        return np.maximum(0, 100 * (np.polyval(curve, np.clip(np.log(rates), *ends)) / lowest - 1))


def public_cells(data: Path = DATA) -> list[Cell]:
    """Cells of the public sweep whose model has a known width, as the page on others' runs reads them."""
    known = {row.model: (row.fam, int(row.hidden))
             for row in pd.read_csv(data / "peers_lr_best_by_rank.csv").itertuples()}
    sweep = public.complete(public.read(data, "peers_tinker_sft_sweep.csv"))
    return [Cell(model, *known[model], rank, _points(losses.to_dict()))
            for model, rank, losses in public.loss_curves(sweep) if model in known]


def smollm2_cells() -> list[Cell]:
    """SmolLM2-135M at 128 tokens a step, means over the seeds of its records."""
    losses: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in (REPOSITORY / "book/results/cpu").glob("learning-rate-smollm2-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            lora = record["spec"].get("lora", {})
            if record["status"] == "ok" and lora is not None:
                losses[lora.get("rank", 16)][record["spec"]["learning_rate"]].append(record["metrics"]["test_loss"])
    return [Cell(SMOLLM2, "llama", 576, rank, _points({rate: float(np.mean(each)) for rate, each in by_rate.items()}))
            for rank, by_rate in sorted(losses.items())]


def _points(means: dict[float, float]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((math.log(rate), loss) for rate, loss in means.items()))


def tinker(cell: Cell) -> float:
    return 5e-4 * (2000 / cell.hidden) ** TINKER_POWERS.get(cell.family, 0.0)


def power_law(rate: float, width: float, rank: float) -> Callable[[Cell], float]:
    return lambda cell: float(rate * (2000 / cell.hidden) ** width * (cell.rank / 16) ** rank)


def costs(cells: list[Cell], rule: Callable[[Cell], float]) -> tuple[float, float, float]:
    """Mean, median and largest regret."""
    found = [float(cell.regret(rule(cell))) for cell in cells]
    return float(np.mean(found)), float(np.median(found)), max(found)


def left_out(cells: list[Cell]) -> tuple[tuple[float, float, float], dict[str, Callable[[Cell], float]]]:
    """The law fitted on all cells, and for each model the one fitted on those of the others."""
    surface = {id(cell): np.array([[cell.regret(RATES * (2000 / cell.hidden) ** p * (cell.rank / 16) ** q)
                                    for q in RANK_POWERS] for p in WIDTH_POWERS]) for cell in cells}

    def fit(chosen: list[Cell]) -> tuple[float, float, float]:
        total = sum(surface[id(cell)] for cell in chosen)
        p, q, m = np.unravel_index(np.argmin(total), total.shape)
        return float(RATES[m]), float(WIDTH_POWERS[p]), float(RANK_POWERS[q])

    models = {cell.model for cell in cells}
    return fit(cells), {model: power_law(*fit([c for c in cells if c.model != model])) for model in models}


def kept(cells: list[Cell]) -> dict[str, object]:
    """What the chapter on learning rates prints: how many cells and models, and each rule's mean and largest regret."""
    from lorakit.theory.learning_rate import LORA_AT_2000, RANK_POWER, WIDTH_POWER

    rules = {"law": power_law(LORA_AT_2000, WIDTH_POWER, RANK_POWER), "tinker": tinker, "constant": lambda _: 3e-4}
    found = {name: costs(cells, rule) for name, rule in rules.items()}
    return {"cells": len(cells), "models": len({cell.model for cell in cells}),
            "regret": {name: {"mean": one[0], "largest": one[2]} for name, one in found.items()}}


def main() -> None:
    from lorakit.theory.learning_rate import LORA_AT_2000, RANK_POWER, WIDTH_POWER

    public.keep(REPOSITORY / "book" / "results", learning_rate=kept(public_cells()))
    others, own = public_cells(), smollm2_cells()
    fitted, without = left_out(others + own)
    print(f"{len(others)} public cells of {len({c.model for c in others})} models, {len(own)} of SmolLM2-135M")
    print("fitted: {:.3g} · (2000 / width)^{:.2f} · (rank / 16)^{:.2f}".format(*fitted))
    rules = {"in the package": power_law(LORA_AT_2000, WIDTH_POWER, RANK_POWER), "tinker's get_lr": tinker,
             "fitted without the model": lambda cell: without[cell.model](cell), "constant 3e-4": lambda _: 3e-4}
    for name, rule in rules.items():
        for where, cells in (("public", others), ("its Llama and Qwen", [c for c in others if c.family != "other"]),
                             ("SmolLM2-135M", own)):
            print("{:26}{:20} mean {:.2f} median {:.2f} most {:.2f} %".format(name, where, *costs(cells, rule)))


if __name__ == "__main__":
    main()
