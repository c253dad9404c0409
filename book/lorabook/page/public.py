"""What public tables of others' runs say on the book's questions: figures computed from them, kept without their rows.

`python -m lorabook.page.public FOLDER` reads the tables, checks their SHA-256, and writes `book/results/public.json`.
The folder holds CSV files made from the originals that `SOURCES` names; they are not part of this project.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorabook.claims.rank_race import needed
from lorakit.analysis.parabolas import vertex
from lorakit.analysis.statistics import Interval, mean_interval

SOURCES: dict[str, dict[str, str]] = {
    "peers_tinker_sft_sweep.csv": {
        "sha256": "e31e52814dbd", "original": "recipes/chat_sl/results/sft_sweep.md",
        "repository": "https://github.com/thinking-machines-lab/tinker-cookbook", "commit": "9dfcc3a",
        "licence": "Apache-2.0",
        "what": "35 models of 1B to 1T on Tulu 3, ranks 1 to 128, batch 128, 780 steps, one seed; no full fine-tuning",
    },
    "peers_lora_parameters.csv": {
        "sha256": "2f867166c6d0", "original": "the table of parameters by component",
        "repository": "https://github.com/thinking-machines-lab/tinker-cookbook", "commit": "9dfcc3a",
        "licence": "Apache-2.0", "what": "weights of an adapter for each unit of rank",
    },
    "peers_peft_metamathqa.csv": {
        "sha256": "890e320d5569", "original": "method_comparison/MetaMathQA/results",
        "repository": "https://github.com/huggingface/peft", "commit": "5d602fd", "licence": "Apache-2.0",
        "what": "Llama-3.2-3B on one L40S, one rate and one seed a method",
    },
    "peers_rl_zhu_qwen3_1.7b.csv": {
        "sha256": "1158175ca067", "original": "the runs' database, accuracies by step",
        "repository": "https://github.com/kenkuuu/lora-without-regret", "commit": "99eca11", "licence": "none stated",
        "what": "Qwen3-1.7B on MATH by GRPO, 60 runs, 50 steps, one seed; figures computed from it are cited",
    },
}
# Read off that database once, with its rates in full. The table that is at hand here has them rounded to four decimals,
# so that nothing recomputes these: they are quoted, and the page says so.
RL_QUOTED: dict[str, dict[str, float]] = {
    "full": {"accuracy": 0.885, "band": 3.9}, "rank 1": {"accuracy": 0.879, "band": 6.5, "ratio": 3.7},
    "rank 16": {"accuracy": 0.869, "band": 5.5, "ratio": 2.8},
    "rank 256": {"accuracy": 0.890, "band": 3.7, "ratio": 4.6}}
# Stated in that repository's README, of its supervised runs on Qwen3-4B: 200 steps of 32 examples, one seed.
SFT_QUOTED: dict[str, dict[str, float]] = {
    "rank 1": {"ratio": 4.8}, "rank 16": {"ratio": 8.8}, "rank 256": {"ratio": 10.0}}
# Stated in the README of `docs/experiments/lora-without-regret` in gke-labs/open-rl at 046b4f7: Qwen3-8B on GSM8K, one
# rate for full fine-tuning and ten times it for LoRA, one seed. Step at which the reward passes 0.9, mean of the last.
OPEN_RL_QUOTED: dict[str, dict[str, float]] = {
    "full": {"step": 18, "end": 0.953}, "rank 32": {"step": 24, "end": 0.948}, "rank 1": {"step": 28, "end": 0.938}}
NOISE = 0.025  # of accuracy: by how much unplanned repeats of one run scatter, see `RL_QUOTED`'s page
DATA_ROWS = 99_840  # examples of the sweep
DATA_TOKENS = DATA_ROWS * 350.0  # label tokens, about 350 an example: an assumption
DATA_BITS = DATA_TOKENS  # about a bit a token: another
BITS_A_WEIGHT = 2.0
GOOD = 1.01  # a loss within 1 % of the best one


class PublicDataError(ValueError):
    """A table is missing, or is not the one that the figures were computed from."""


def read(folder: Path, name: str) -> pd.DataFrame:
    """A table, after its bytes were compared with the hash that `SOURCES` holds.

    Raises:
        PublicDataError: no such file, or other content.
    """
    path, source = folder / name, SOURCES[name]
    if not path.exists():
        raise PublicDataError(f"{path} does not exist: make it from {source['original']} of {source['repository']} at "
                              f"{source['commit']}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    if found != source["sha256"]:
        raise PublicDataError(f"{path} has the hash {found}, the figures were computed from {source['sha256']}: "
                              "restore the table, or compute all figures anew and change the hash with them")
    return pd.read_csv(path)


def complete(sweep: pd.DataFrame) -> pd.DataFrame:
    """The cells that were run at the three rates that the grids share: 4e-5, 1e-4 and 2e-4 to 4e-4."""
    def has_grid(rates: pd.Series) -> bool:
        return {4e-5, 1e-4} <= set(rates) and bool({3e-4, 2e-4, 4e-4} & set(rates))

    whole = sweep.dropna(subset=["test_nll"]).groupby(["model", "rank"])["lr"].apply(has_grid)
    pairs = set(whole[whole].index)
    return sweep[[pair in pairs for pair in zip(sweep["model"], sweep["rank"], strict=True)]]


def loss_curves(sweep: pd.DataFrame) -> Iterator[tuple[str, int, pd.Series]]:
    """Of each model and rank, the mean loss by rate, the lowest rate first; runs without a loss take no part."""
    for (model, rank), group in sweep.dropna(subset=["test_nll"]).groupby(["model", "rank"]):
        yield str(model), int(rank), group.groupby("lr")["test_nll"].mean().sort_index()


def best_rates(sweep: pd.DataFrame) -> pd.DataFrame:
    """The best rate of each model and rank: the vertex of the parabola through the best point and its neighbours.

    Args:
        sweep: columns model, rank, lr and test_nll, one row a run.

    Returns:
        model, rank, rate, loss (least measured), band (factor that the rates within 1 % of it span), inside (False
        where the least loss is the lowest or highest rate that was run: the rate is then a bound).
    """
    rows = []
    for model, rank, losses in loss_curves(sweep):
        if len(losses) < 3:
            continue
        x, y = np.log(losses.index.to_numpy()), losses.to_numpy()
        least = int(y.argmin())
        inside = 0 < least < len(y) - 1
        rate = x[least]
        if inside:
            rate = vertex(x[least - 1 : least + 2], y[least - 1 : least + 2])
        width = _crossing(x[least:], y[least:]) - _crossing(x[least::-1], y[least::-1])
        rows.append((model, rank, math.exp(rate), float(y.min()), math.exp(width), inside))
    return pd.DataFrame(rows, columns=["model", "rank", "rate", "loss", "band", "inside"])


def _crossing(x: np.ndarray, y: np.ndarray) -> float:
    """Where a loss first leaves `GOOD` times its first value, linear between points; the last x if it never does."""
    limit = GOOD * y[0]
    for k in range(1, len(y)):
        if y[k] > limit:
            return float(x[k - 1] + (x[k] - x[k - 1]) * (limit - y[k - 1]) / (y[k] - y[k - 1]))
    return float(x[-1])


def rate_ratio(best: pd.DataFrame, over: int, under: int) -> tuple[Interval, float]:
    """Best rate of one rank over that of another: geometric mean over models with 95 % interval, and the largest.

    Models where either rate is a bound are left out.
    """
    table = best[best["inside"]].pivot(index="model", columns="rank", values="rate")
    logs = np.log(table[over] / table[under]).dropna()
    return mean_interval(logs.tolist()).exp(), math.exp(logs.max())


def spread_over_ranks(sweep: pd.DataFrame, rate: float) -> dict[str, float]:
    """By how many per cent the worst rank of a model exceeds its best one at one rate, after the whole run."""
    rows = sweep[sweep["lr"] == rate].groupby(["model", "rank"])["test_nll"].mean().unstack("rank")
    rows = rows[rows.notna().sum(axis=1) > 1]
    spread = 100 * (rows.max(axis=1) / rows.min(axis=1) - 1)
    return {"models": float(len(rows)), "median": float(spread.median()), "largest": float(spread.max())}


def cost_of_one_rate(sweep: pd.DataFrame, best: pd.DataFrame) -> dict[str, float]:
    """What one rate for all ranks of a model costs against a rate for each, in per cent of the loss.

    The rate is the one of least mean cost among those that every rank of the model was run with.
    """
    table = sweep.groupby(["model", "rank", "lr"])["test_nll"].mean().unstack("lr")
    kept = set(zip(best["model"], best["rank"], strict=True))
    costs: list[float] = []
    for _, rows in table[[pair in kept for pair in table.index]].groupby(level="model"):
        common = rows.loc[:, rows.notna().all()]
        if len(rows) > 1:
            cost = 100 * (common.div(common.min(axis=1), axis=0) - 1)
            costs += cost[cost.mean().idxmin()].tolist()
    return {"cells": float(len(costs)), "mean": float(np.mean(costs)), "largest": max(costs)}


def order_of_ranks(best: pd.DataFrame) -> dict[str, int]:
    """Neighbouring ranks of a model: how many pairs there are, and in how many the higher rank ends lower."""
    losses = [rows.sort_values("rank")["loss"].to_numpy() for _, rows in best.groupby("model")]
    falls = np.concatenate([np.diff(row) for row in losses])
    return {"pairs": len(falls), "falls": int((falls < 0).sum())}


def cost_of_room(best: pd.DataFrame, unit: pd.Series, inside_only: bool) -> dict[str, Any]:
    """How a rank's loss above the model's largest rank follows the bits that the adapter holds over those of the data.

    Args:
        best: of `best_rates`, models that were run with rank 64 or 128.
        unit: weights for each unit of rank, by model.
        inside_only: leave out cells whose best rate is a bound.
    """
    rows = best[best["inside"]] if inside_only else best
    table = rows.pivot(index="model", columns="rank", values="loss")
    table = table[table.reindex(columns=[64, 128]).notna().any(axis=1)]
    cells = []
    for model in table.index.intersection(unit.index):
        losses = table.loc[model].dropna()
        for rank, loss in losses.iloc[:-1].items():
            room = unit[model] * rank * BITS_A_WEIGHT / DATA_BITS
            cells.append((rank, room, 100 * (loss / losses.iloc[-1] - 1)))
    frame = pd.DataFrame(cells, columns=["rank", "room", "cost"])
    above = np.log(frame[frame["cost"] > 0])
    power, level = np.polyfit(above["room"], above["cost"], 1)
    shares = {name: float(np.corrcoef(above[name], above["cost"])[0, 1] ** 2) for name in ("room", "rank")}
    parts = pd.cut(frame["room"], [0, 2, 4, 8, math.inf], labels=["below 2", "2 to 4", "4 to 8", "8 and more"])
    medians = frame.groupby(parts, observed=True)["cost"].agg(["median", "size"])
    return {"cells": len(frame), "fitted": len(above), "level": math.exp(level), "power": float(power),
            "explained": shares, "median": {str(k): [float(m), int(n)] for k, m, n in medians.itertuples()}}


def pace(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How fast RL runs learn, apart from where they end: of each rank's runs that end within `NOISE` of its best one.

    Args:
        runs: columns rank (0: full fine-tuning), e10, e20 (accuracy at steps 10 and 20) and last3 (of the last three
            evaluations), one row a run.

    Returns:
        by arm: `good` (such runs), `end` (the best), and `early` and `later`: the highest accuracy of a good run at
        steps 10 and 20.
    """
    found = {}
    for rank, rows in runs.dropna(subset=["last3"]).groupby("rank"):
        good = rows[rows["last3"] >= rows["last3"].max() - NOISE]
        found["full" if rank == 0 else f"rank {rank}"] = {
            "good": float(len(good)), "end": float(good["last3"].max()), "early": float(good["e10"].max()),
            "later": float(good["e20"].max())}
    return found


def needed_ranks(best: pd.DataFrame, unit: pd.Series) -> dict[str, dict[str, float]]:
    """By model: weights for each unit of rank, and the ranks between which its loss comes within 1 % of the largest's.

    Args:
        best: of `best_rates`, models that were run with rank 64 or 128 and two lower ranks or more.
        unit: weights for each unit of rank, by model.
    """
    table = best.pivot(index="model", columns="rank", values="loss")
    table = table[table.reindex(columns=[64, 128]).notna().any(axis=1) & (table.notna().sum(axis=1) > 2)]
    found: dict[str, dict[str, float]] = {}
    for model in table.index.intersection(unit.index):
        losses = table.loc[model].dropna()
        low, high = needed({int(rank): loss / losses.iloc[-1] for rank, loss in losses.iloc[:-1].items()}
                           | {int(losses.index[-1]): 1.0}, GOOD)
        found[str(model)] = {"unit": float(unit[model]), "low": low, "high": high}
    return found


def figures(folder: Path) -> dict[str, Any]:
    """Every figure of the page, from the tables in a folder."""
    sweep = read(folder, "peers_tinker_sft_sweep.csv")
    parts = read(folder, "peers_lora_parameters.csv").set_index("model")
    unit = parts[["tinker_mlp", "tinker_attn", "tinker_unembed"]].fillna(0).sum(axis=1)
    peft = read(folder, "peers_peft_metamathqa.csv").set_index("experiment")
    full, lora = (peft.loc[f"{name}--llama-3.2-3B-{what}"] for name, what in (
        ("full-finetuning", "lr_0.00001"), ("lora", "rank32")))
    whole = complete(sweep)
    best = best_rates(whole)
    ratios = {}
    for over, under in ((1, 4), (16, 4), (64, 4), (128, 4), (64, 1), (4, 1)):
        span, largest = rate_ratio(best, over, under)
        ratios[f"{over}/{under}"] = {"mean": span.mean, "low": span.low, "high": span.high, "models": span.n,
                                     "largest": largest}
    return {
        "best_rates": {"cells": len(best), "inside": int(best["inside"].sum()), "ratios": ratios},
        "bands": {str(rank): float(rows["band"].median()) for rank, rows in best[best["inside"]].groupby("rank")},
        "one_rate": cost_of_one_rate(whole, best),
        "order": order_of_ranks(best),
        "spread": {f"{rate:g}": spread_over_ranks(sweep, rate) for rate in (4e-5, 1e-4, 3e-4)},
        "room": {"all": cost_of_room(best, unit, False), "inside": cost_of_room(best, unit, True)},
        "needed_ranks": needed_ranks(best, unit),
        "pace": pace(read(folder, "peers_rl_zhu_qwen3_1.7b.csv")),
        "peft": {name: {"memory_gb": float(row["max_reserved_gb"]), "step_seconds": float(row["step_time_sum_s"]),
                        "accuracy": float(row["test_acc"])} for name, row in (("full", full), ("rank 32", lora))},
    }


def kept(results: Path) -> dict[str, Any]:
    """The figures that the project keeps, as `keep` wrote them."""
    found: dict[str, Any] = json.loads((results / "public.json").read_text(encoding="utf-8"))
    return found


def keep(results: Path, **parts: Any) -> None:
    """Put parts of the figures into the file that pages read; the others stay as they are."""
    path = results / "public.json"
    before = kept(results) if path.exists() else {}
    path.write_text(json.dumps(before | parts, indent=1) + "\n", encoding="utf-8")


def main(folder: str, results: str = "book/results") -> None:
    """Compute every figure of the page on others' runs and keep it."""
    keep(Path(results), sources=SOURCES, figures=figures(Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
