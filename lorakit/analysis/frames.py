"""Records in, tidy frames out: one row per curve point, or one row per run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from lorakit.specs import AnySpec, GRPOSpec, LoRASpec, read_spec

if TYPE_CHECKING:
    from lorakit.records import Record

RUN_COLUMNS = ("id", "model", "dataset", "method", "rank", "arm", "plain", "alpha", "targets", "expert_rank",
               "learning_rate", "seed", "batch_size")
LOSS_COLUMNS = ("train_loss", "validation_loss", "test_loss")
NORM_COLUMNS = ("norm_a", "norm_b")  # missing for full fine-tuning
CURVE_COLUMNS = (*RUN_COLUMNS, "step", "tokens", *LOSS_COLUMNS, *NORM_COLUMNS, "status")


def arm_name(lora: LoRASpec | None, full_targets: str = "all") -> str:
    """What a legend calls a configuration: `full`, `rank 8`, and what else departs from the defaults.

    >>> arm_name(None), arm_name(LoRASpec(rank=8)), arm_name(LoRASpec(rank=8, alpha=16, targets="mlp"))
    ('full', 'rank 8', 'rank 8, alpha 16, mlp')
    >>> arm_name(None, "all-linear")
    'full, all-linear'
    """
    if lora is None:
        return "full" if full_targets == "all" else f"full, {full_targets}"
    plain = LoRASpec(rank=lora.rank)
    kind = "shared outer" if lora.shared_outer else "expert"
    said = {f"rank {lora.rank}": True, f"alpha {lora.alpha:g}": lora.alpha != plain.alpha,
            _targets(lora): lora.targets != plain.targets,
            f"{kind} rank {lora.expert_rank or lora.rank}": lora.expert_rank is not None or lora.shared_outer,
            "A frozen": not lora.train_a, f"A start × {lora.init_a_scale:g}": lora.init_a_scale != plain.init_a_scale,
            f"rate of B × {lora.learning_rate_b_ratio:g}": lora.learning_rate_b_ratio != plain.learning_rate_b_ratio,
            "rsLoRA": lora.rslora, "DoRA": lora.dora, "PiSSA": lora.pissa,
            f"dropout {lora.dropout:g}": lora.dropout > 0}
    return ", ".join(words for words, departs in said.items() if departs)


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (record, curve point), with the columns of `CURVE_COLUMNS`; losses in nats per label token.

    A diverged run keeps its rows: a point whose validation loss was not finite has losses of +inf, so that it loses
    every comparison instead of vanishing from it. Failed runs left no result and are absent. `plain` is whether nothing
    but the rank departs from a default; `expert_rank` is that of an adapter for each expert; `rank`, `alpha`, `targets`
    and it are missing for full fine-tuning. RL runs give the frame of `tidy_rl`. Where a run ends with an evaluation on
    more text than its curve's, the losses of its last point are those.

    Args:
        records: runs of supervised specs, or of RL specs.
    """
    found = [record for record in records if record.status != "failed"]
    if found and all(record.spec.get("kind") == "grpo" for record in found):
        return tidy_rl(found)
    rows: list[dict[str, Any]] = []
    for record in _finished(found, "sft"):
        run = _run(record, read_spec(record.spec))
        for index in range(len(record.curve.get("step", []))):
            losses = {name: _at(record.curve, name, index) for name in LOSS_COLUMNS} | _final(record, index)
            if record.status == "diverged" and math.isnan(losses["validation_loss"]):
                losses = dict.fromkeys(LOSS_COLUMNS, math.inf)
            step, tokens = int(_at(record.curve, "step", index)), _at(record.curve, "tokens", index)
            norms = {name: _at(record.curve, name, index) for name in NORM_COLUMNS}
            rows.append({**run, "step": step, "tokens": tokens, **losses, **norms, "status": record.status})
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def tidy_rl(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (record, curve point) of RL runs: `RUN_COLUMNS`, every column of the curves, and losses.

    The losses are shares of problems answered wrongly (`validation_loss` = 1 − `validation_accuracy`), so that whatever
    compares losses, such as `optima`, serves for RL; `train_loss` is missing. `dataset` is the task, `batch_size` the
    episodes of a step, `objective` the loss with its scale; a component of the reward that a run has not is missing.

    Args:
        records: runs of RL specs.
    """
    rows: list[dict[str, Any]] = []
    for record in _finished(records, "grpo"):
        spec = GRPOSpec.from_json(record.spec)
        run = {**_run(record, spec), "reward_scheme": spec.reward or "task's own", "objective": f"{spec.loss}, scale "
               f"{spec.scale_rewards}", "status": record.status}
        for index in range(len(record.curve.get("step", []))):
            point = {name: _at(record.curve, name, index) for name in record.curve} | _final(record, index)
            wrong = {f"{name}_loss": 1 - point[f"{name}_accuracy"] for name in ("validation", "test")}
            rows.append({**run, **point, "step": int(point["step"]), "train_loss": math.nan, **wrong})
    return pd.DataFrame(rows)


def _finished(records: Iterable[Record], kind: str) -> list[Record]:
    """The records that did not fail, all of one kind."""
    found = [record for record in records if record.status != "failed"]
    if any(record.spec.get("kind") != kind for record in found):
        raise ValueError("these records are of supervised and of RL runs: make a frame of each kind")
    return found


def runs(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record: the run's columns, length, status, every metric, tokens it trained on and test problems."""
    rows = []
    for record in records:
        if record.status == "failed":
            continue
        metrics = {name: math.nan if value is None else value for name, value in record.metrics.items()}
        spec = read_spec(record.spec)
        problems = float(spec.final_evaluation_problems or spec.evaluation_problems) if isinstance(
            spec, GRPOSpec) else math.nan
        rows.append({**metrics, **_run(record, spec), "steps": spec.steps, "status": record.status,
                     "tokens": record.provenance.get("tokens"), "test_problems": problems})
    frame = pd.DataFrame(rows)
    return frame if rows else frame.reindex(columns=[*RUN_COLUMNS, "steps", "status", "tokens", "test_problems"])


def _run(record: Record, spec: AnySpec) -> dict[str, Any]:
    lora = spec.lora
    return {
        "id": record.id,
        "model": spec.model,
        "dataset": spec.task if isinstance(spec, GRPOSpec) else spec.dataset,
        "method": spec.method,
        "rank": math.nan if lora is None else float(lora.rank),
        "arm": arm_name(lora, spec.full_targets),
        "plain": spec.full_targets == "all" if lora is None else lora == LoRASpec(rank=lora.rank),
        "alpha": math.nan if lora is None else lora.alpha,
        "targets": None if lora is None else _targets(lora),
        "expert_rank": math.nan if lora is None or lora.shared_outer else float(lora.expert_rank or math.nan),
        "learning_rate": spec.learning_rate,
        "seed": spec.seed,
        "batch_size": (spec.episodes_per_step if isinstance(spec, GRPOSpec)
                       else spec.batch_size * spec.accumulation),
    }


def _targets(lora: LoRASpec) -> str:
    return lora.targets if isinstance(lora.targets, str) else "+".join(lora.targets)


def _final(record: Record, index: int) -> dict[str, float]:
    """At the last point, what was measured on the larger sets of the end, if the spec asks for them."""
    size, what = {"sft": ("final_evaluation_tokens", "loss"),
                  "grpo": ("final_evaluation_problems", "accuracy")}[record.spec["kind"]]
    names = [f"{split}_{what}" for split in ("validation", "test")]
    whole = index == len(record.curve["step"]) - 1 and record.spec.get(size) is not None
    return {name: value for name in names if whole and (value := record.metrics.get(name)) is not None}


def _at(curve: dict[str, list[Any]], name: str, index: int) -> float:
    values = curve.get(name, [])
    value = values[index] if index < len(values) else None
    return math.nan if value is None else float(value)
