"""A process that trains packs: requests come as lines of JSON on standard input, events leave on standard output.

The parent is `lorakit.study.sweeps`. A process of its own keeps each pack on one thread, gives all memory back, and
needs no guard in the user's script.

    request   {"do": "probe" | "run", "specs": […], "engine": "packed" | "trl" | "peft", "device": "cpu", …}
    event     {"step": …, "steps": …} while it trains, then {"probe": …}, {"records": […]} or {"error": …}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lorakit.epochs import current
from lorakit.grpo_spec import GRPOSpec, read_spec
from lorakit.records import Record
from lorakit.specs import PACKAGE
from lorakit.train.device import device_name, peak_bytes, reset_peak
from lorakit.train.models import load_model
from lorakit.train.packed.engine import RunResult, train_pack
from lorakit.train.packed.grpo import train_grpo_pack
from lorakit.train.packed.probe import probe_grpo, probe_pack
from lorakit.train.rl_tasks import load_task
from lorakit.train.tasks import TextData, base_text, load_dataset
from lorakit.train.tokens import TokenSplit, tokenize

BASE_TEXT_TOKENS = 2048
RL_BASE_TEXT_LENGTH = 64  # tokens of a window of it; a supervised run takes its own max_length


@lru_cache(maxsize=2)
def _model(name: str, dtype: str, device: str) -> tuple[Any, Any]:
    model, tokenizer = load_model(name, dtype=getattr(torch, dtype))
    return model.to(device), tokenizer


@lru_cache(maxsize=4)
def _data(model: str, dtype: str, device: str, dataset: str,
          max_length: int) -> tuple[dict[str, TokenSplit], TokenSplit]:
    tokenizer = _model(model, dtype, device)[1]
    return tokenize(load_dataset(dataset), tokenizer, max_length), _base_text(tokenizer, max_length)


def _base_text(tokenizer: Any, max_length: int) -> TokenSplit:
    base = TextData("base text", {"test": [[(base_text(), True)]]}, stream=True)
    return tokenize(base, tokenizer, max_length)["test"].head(BASE_TEXT_TOKENS)


_task = lru_cache(maxsize=2)(load_task)


def _revision() -> str | None:
    """The checkout's commit, with `+` if its files differ, or None outside a checkout."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        out = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=PACKAGE.parent,
                             capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return out.stdout.strip() or None


@lru_cache
def versions() -> dict[str, str | None]:
    """Versions of Python, of this checkout and of the packages that train; None for one that is absent."""
    out: dict[str, str | None] = {"python": sys.version.split()[0], "git": _revision()}
    for package in ("lorakit", "torch", "transformers", "peft", "trl"):
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            out[package] = None
    return out


def provenance(engine: str, kind: str, device: str, pack_size: int) -> dict[str, Any]:
    """Where and how runs are made: all that is known before they start, so that nothing trained is lost to it."""
    return {"epoch": current(engine, kind), **versions(), "device": device_name(device),
            "threads": torch.get_num_threads(), "engine": engine, "pack": pack_size}


def to_record(result: RunResult, device: str, made: dict[str, Any]) -> Record:
    """The record of one result; `made` is its `provenance`."""
    measured = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(result.seconds, 3),
                "peak_bytes": peak_bytes(device), "tokens": result.tokens}
    return Record.from_run(result.spec, result.status, result.metrics, result.curve, made | measured)


def run_specs(specs: list[Any], engine: str, device: str, on_step: Callable[[int, int], None] | None = None,
              report_to: str = "none", save_to: str | None = None) -> list[Record]:
    """Train a pack (or, with TRL, one spec after another) in this process and return its records.

    Args:
        save_to: a folder; each finished run is exported to `save_to/<id>` with its tokenizer and a model card.
    """
    first = specs[0]
    made = provenance(engine, first.kind, device, len(specs) if engine == "packed" else 1)
    model, tokenizer = _model(first.model, first.dtype, device)
    reset_peak(device)
    if first.kind == "grpo":
        results = _run_rl(specs, engine, model, tokenizer, on_step, report_to, save_to is not None)
        return _recorded(results, device, made, model, tokenizer, save_to)
    splits, base = _data(first.model, first.dtype, device, first.dataset, first.max_length)
    if engine == "trl":
        from lorakit.train.sft import train_sft

        results = [train_sft(spec, model, tokenizer, splits, report_to=report_to, base_text=base,
                             keep_weights=save_to is not None) for spec in specs]
    elif engine == "peft":
        from lorakit.train.peft_loop import train_peft

        results = [train_peft(spec, model, splits, base) for spec in specs]
    else:
        results = train_pack(specs, model, splits, base, keep_weights=save_to is not None, on_step=on_step)
    return _recorded(results, device, made, model, tokenizer, save_to)


def _run_rl(specs: list[GRPOSpec], engine: str, model: Any, tokenizer: Any, on_step: Callable[[int, int], None] | None,
            report_to: str, keep_weights: bool) -> list[RunResult]:
    task, base = _task(specs[0].task), _base_text(tokenizer, RL_BASE_TEXT_LENGTH)
    if engine == "packed":
        return train_grpo_pack(specs, model, tokenizer, task, base, keep_weights, on_step)
    if engine == "trl":
        from lorakit.train.grpo import train_grpo

        return [train_grpo(spec, model, tokenizer, task, base, report_to=report_to, keep_weights=keep_weights)
                for spec in specs]
    raise ValueError(f"engine={engine!r} runs no RL; allowed: packed, trl")


def _recorded(results: list[RunResult], device: str, made: dict[str, Any], model: Any, tokenizer: Any,
              save_to: str | None) -> list[Record]:
    records = [to_record(result, device, made) for result in results]
    if save_to is not None:
        from lorakit.train.packed.export import export

        for result, record in zip(results, records, strict=True):
            export(result.spec, result.weights, model, Path(save_to) / record.id, tokenizer, record)
    return records


def answer(request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Do what a request asks and emit its events; any error becomes an event, never the end of the process."""
    try:
        specs: list[Any] = [read_spec(spec) for spec in request["specs"]]
        device = request.get("device", "cpu")
        if request["do"] == "probe":
            model, tokenizer = _model(specs[0].model, specs[0].dtype, device)
            if specs[0].kind == "grpo":
                facts = probe_grpo(specs[:2], model, tokenizer, _task(specs[0].task))
                emit({"probe": facts})
                return
            splits, _ = _data(specs[0].model, specs[0].dtype, device, specs[0].dataset, specs[0].max_length)
            if request.get("engine") == "peft":
                from lorakit.train.peft_loop import probe_peft

                emit({"probe": probe_peft(specs[0], model, splits)})
                return
            facts = probe_pack(specs[:1], model, splits)
            if len(specs) > 1 and 20 * len(specs) * facts["bytes"] < facts["free_bytes"]:
                facts = probe_pack(specs, model, splits)  # several at once tell the time better, where memory is ample
            emit({"probe": facts})
            return
        last = 0.0

        def on_step(step: int, steps: int) -> None:
            nonlocal last
            if time.monotonic() - last > 1:
                last = time.monotonic()
                emit({"step": step, "steps": steps})

        records = run_specs(specs, request["engine"], device, on_step, request.get("report_to", "none"),
                            request.get("save_to"))
        emit({"records": [record.to_json() for record in records]})
    except Exception as error:  # noqa: BLE001 - the parent reports it and goes on with other packs
        emit({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc(limit=-4)})


def main() -> None:
    """Serve requests until standard input closes. Whatever libraries print goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    for line in sys.stdin:
        answer(json.loads(line), emit)


if __name__ == "__main__":
    main()
