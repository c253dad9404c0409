"""What a worker process is asked for: predict what packs cost, train them, and say how far they are.

Requests and events are JSON objects; `lorakit.sweep.worker_process` carries them, the parent is
`lorakit.sweep.sweeps`. A process of its own keeps each pack on one thread, gives all memory back, and needs no guard in
the user's script.

    request   {"do": "probe", "specs": […], "engine": "packed" | "trl" | "peft", "device": "cpu", "runs": 12}
              {"do": "run", "specs": […], "engine": …, "device": …, "memory_share": 0.3, "seconds_left": 60.0 | null,
               "report_to": "none", "save_to": null, "probes": ["module:function", …],
               "checkpoints": folder | null, "checkpoint_every": 300.0, "vllm_server": null}
              each with "sources": ["module:name", …], the parent's (`lorakit.sources`)
    event     {"step": 3, "steps": 300, "value": 2.1, "what": "loss"} and {"warning": …} while it trains, then one of
              {"probe": {"seconds": …, "fits": …, "bytes": …, "free_bytes": …}}
              {"records": […], "unsaved": {id: why}}
              {"fits": 4}: nothing was trained, since the memory holds no more configurations at once
              {"over_budget": 90.0}: given up in its first steps, since the whole would take so many seconds
              {"error": …, "shared": true where every spec would fail so, "out_of_memory": …, "fault": "the GPU", …}
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lorakit import sources
from lorakit.bases.families import require_family
from lorakit.bases.memory_saving import fitted
from lorakit.bases.models import load_model
from lorakit.checkpoints import Checkpoint
from lorakit.data.datasets import load_dataset
from lorakit.data.rl_tasks import Task, encode_prompts, load_task
from lorakit.data.tokens import TokenSplit, tokenize
from lorakit.epochs import current
from lorakit.packed.engine import train_pack
from lorakit.packed.grpo import train_grpo_pack
from lorakit.probes import Probe, load_probe
from lorakit.records import Record
from lorakit.reference.vllm_server import ServerError
from lorakit.result import OnStep, RunResult
from lorakit.specs import PACKAGE, GRPOSpec, read_spec
from lorakit.sweep.device import device_name, is_out_of_memory, peak_bytes, reset_peak
from lorakit.sweep.forecast import Forecast, OverBudgetError
from lorakit.sweep.probe import free_bytes, grpo_bytes, probe_grpo, probe_pack, sft_bytes

MakeCheckpoint = Callable[[Sequence[Any], dict[str, Any]], Checkpoint]


@lru_cache(maxsize=2)
def _model(name: str, dtype: str, device: str) -> tuple[Any, Any]:
    model, tokenizer = load_model(name, dtype=getattr(torch, dtype))
    return model.to(device), tokenizer


@lru_cache(maxsize=4)
def _data(model: str, dtype: str, device: str, dataset: str, max_length: int) -> dict[str, TokenSplit]:
    return tokenize(load_dataset(dataset), _model(model, dtype, device)[1], max_length)


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
    if result.spec.use_vllm:
        measured["vllm"] = sys.modules["vllm"].__version__
    return Record.from_run(result.spec, result.status, result.metrics, result.curve, made | measured)


def run_specs(specs: list[Any], engine: str, device: str, on_step: OnStep | None = None, report_to: str = "none",
              save_to: str | None = None, probes: Sequence[Probe] = (),
              checkpoint: MakeCheckpoint | None = None,
              vllm_server: str | None = None) -> tuple[list[Record], dict[str, str]]:
    """Train a pack (or, with TRL and PEFT, one spec after another) in this process.

    Args:
        probes: measurements besides those of every run.
        save_to: a folder; each finished run is exported to `save_to/<id>` with its tokenizer and a model card.
        checkpoint: makes the one of some specs, given their `provenance`.
        vllm_server: that samples, as in `train_grpo`.

    Returns:
        The records, and the ids of the runs that could not be exported, with the reason.
    """
    made = provenance(engine, specs[0].kind, device, len(specs) if engine == "packed" else 1)
    if vllm_server is not None:
        made["vllm_mode"] = "server"
    place = "cpu" if specs[0].gpus > 1 else device  # shares are cut before they are moved
    model, tokenizer, keep = *_model(specs[0].model, specs[0].dtype, place), save_to is not None
    data = _load(specs[0], place)
    reset_peak(device)
    packs = [specs] if engine == "packed" else [[spec] for spec in specs]
    points = [None if checkpoint is None else checkpoint(pack, made) for pack in packs]
    if specs[0].kind == "grpo":
        results = _run_rl(specs, engine, model, tokenizer, data, on_step, report_to, keep, probes, points, vllm_server)
    elif engine == "trl":
        from lorakit.reference.sft import train_sft

        results = [train_sft(spec, model, tokenizer, data, report_to=report_to, keep_weights=keep, on_step=on_step,
                             probes=probes, checkpoint=point)
                   for spec, point in zip(specs, points, strict=True)]
    elif engine == "peft":
        from lorakit.reference.peft_loop import train_peft

        results = [train_peft(spec, model, data, keep, on_step, probes=probes, tokenizer=tokenizer, checkpoint=point)
                   for spec, point in zip(specs, points, strict=True)]
    else:
        results = train_pack(specs, model, data, keep, on_step, probes=probes, tokenizer=tokenizer,
                             checkpoint=points[0])
    resumed = {spec.id: {"resumed_at": point.resumed_at} for pack, point in zip(packs, points, strict=True)
               if point is not None and point.resumed_at for spec in pack}
    records = [to_record(result, device, made | resumed.get(result.spec.id, {})) for result in results]
    unsaved: dict[str, str] = {}
    if save_to is not None and int(os.environ.get("RANK", "0")) == 0:
        from lorakit.adapters.export import export

        for result, record in zip(results, records, strict=True):
            try:
                export(result.spec, result.weights, model, Path(save_to) / record.id, tokenizer, record)
            except Exception as error:  # noqa: BLE001 - the run is a result all the same
                unsaved[record.id] = f"{type(error).__name__}: {error}"
    return records, unsaved


def _run_rl(specs: list[GRPOSpec], engine: str, model: Any, tokenizer: Any, task: Task,
            on_step: OnStep | None, report_to: str, keep: bool, probes: Sequence[Probe],
            points: Sequence[Checkpoint | None], vllm_server: str | None) -> list[RunResult]:
    if engine == "packed":
        return train_grpo_pack(specs, model, tokenizer, task, keep, on_step, probes=probes, checkpoint=points[0])
    from lorakit.reference.grpo import train_grpo

    return [train_grpo(spec, model, tokenizer, task, report_to=report_to, keep_weights=keep, on_step=on_step,
                       probes=probes, checkpoint=point, vllm_server=vllm_server)
            for spec, point in zip(specs, points, strict=True)]


def _load(spec: Any, device: str) -> Any:
    """The task or the splits of a spec: what all specs of a pack share."""
    if spec.kind == "grpo":
        return _task(spec.task)
    return _data(spec.model, spec.dtype, device, spec.dataset, spec.max_length)


@lru_cache
def _free_bytes(device: str) -> float:
    """What was free when this process had its first model: later packs of others do not count twice."""
    return free_bytes(device)


def _fits(specs: list[Any], share: float, device: str) -> int:
    """How many configurations a pack may hold, by the memory that is predicted for one."""
    model, tokenizer = _model(specs[0].model, specs[0].dtype, device)
    data = _load(specs[0], device)
    if specs[0].kind == "grpo":
        prompts = encode_prompts(data, "train", tokenizer, model.config.max_position_embeddings,
                                 specs[0].max_completion_length)
        needed = grpo_bytes(specs[0], model, max(map(len, prompts)))
    else:
        needed = sft_bytes(specs[0], model, data["train"])
    return max(1, int(share * _free_bytes(device) / needed))


def _probe(specs: list[Any], engine: str, device: str, share: float, runs: int) -> dict[str, float]:
    model, tokenizer = _model(specs[0].model, specs[0].dtype, device)
    data = _load(specs[0], device)
    if specs[0].kind == "grpo":
        facts = probe_grpo(specs[0], model, tokenizer, data, runs)
    elif engine == "packed":
        facts = probe_pack(specs, model, data, runs)
    else:
        from lorakit.reference.peft_loop import probe_peft

        facts = probe_peft(specs[0], model, data)
    free = _free_bytes(device)
    return facts | {"free_bytes": free, "fits": max(1, int(share * free / facts["bytes"])) if engine == "packed" else 1}


def answer(request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Do what a request asks and emit its events; any error becomes an event, never the end of the process."""
    shared = True
    try:
        sources.add_sources(request.get("sources", ()))
        specs: list[Any] = [read_spec(spec) for spec in request["specs"]]
        engine, device, share = request["engine"], request.get("device", "cpu"), request.get("memory_share", 0.5)
        # by torch's older switch: vLLM and torch's compiler read it, and fail where the newer one alone was used
        torch.backends.cuda.matmul.allow_tf32 = specs[0].tf32 and device.startswith("cuda")
        if engine == "packed":
            require_family(_model(specs[0].model, specs[0].dtype, device)[0].config)
        if request["do"] == "probe":
            emit({"probe": _probe(specs, engine, device, share, request.get("runs", 1))})
            return
        _load(specs[0], "cpu" if specs[0].gpus > 1 else device)
        probes = [load_probe(name) for name in request.get("probes", ())]
        if engine == "packed" and len(specs) > 1 and (fits := _fits(specs, share, device)) < len(specs):
            emit({"fits": fits})
            return
        shared = False
        if specs[0].gpus > 1:  # what one process decided by its own clock or memory, others would not
            records, unsaved = run_specs(specs, engine, device, _watch(specs[0], None, emit),
                                         request.get("report_to", "none"), request.get("save_to"), probes)
        else:
            records, unsaved = fitted(specs, lambda some: run_specs(
                list(some), engine, device, _watch(specs[0], request.get("seconds_left"), emit),
                request.get("report_to", "none"), request.get("save_to"), probes, _checkpoints(request, emit),
                request.get("vllm_server")))
        emit({"records": [record.to_json() for record in records], "unsaved": unsaved})
    except OverBudgetError as error:
        emit({"over_budget": error.seconds})
    except Exception as error:  # noqa: BLE001 - the parent reports it and goes on with other packs
        emit({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc(limit=-4),
              "shared": shared, "out_of_memory": is_out_of_memory(error), "fault": _fault(error)})


def _checkpoints(request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> MakeCheckpoint | None:
    """What makes the checkpoints that a request asks for, whose warnings go to the parent."""
    folder = request.get("checkpoints")
    return None if folder is None else lambda specs, made: Checkpoint(
        folder, request["engine"], [spec.id for spec in specs], made, request["checkpoint_every"],
        lambda text: emit({"warning": text}))


def _watch(spec: Any, seconds_left: float | None, emit: Callable[[dict[str, Any]], None]) -> OnStep:
    """Tell the parent once a second how far the pack is, and give it up early if it would take too long."""
    forecast = None if seconds_left is None else Forecast(
        spec.steps, spec.evaluations, seconds_left, warm_up=spec.torch_compile)
    what, last = "loss" if spec.kind == "sft" else "reward", 0.0

    def on_step(step: int, steps: int, value: Any) -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            mean = float(torch.as_tensor(value, dtype=torch.float64).mean())
            emit({"step": step, "steps": steps, "value": mean if math.isfinite(mean) else None, "what": what})
        if forecast is not None:
            forecast.seen(step)

    return on_step


def _fault(error: BaseException) -> str | None:
    """What failed where no run did: a server, or the GPU by an error that is neither memory nor an assertion."""
    if isinstance(error, ServerError):
        return "the sampler"
    of_cuda = "CUDA error: " in str(error) and "device-side assert" not in str(error)
    return "the GPU" if of_cuda and not is_out_of_memory(error) else None
