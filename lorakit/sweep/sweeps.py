"""Run many specs: in packs by shape and rank, in worker processes, resumable; or say what that would take."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.checkpoints import EVERY, FOLDER, remove, unfinished
from lorakit.epochs import StaleRecordsWarning
from lorakit.epochs import stale as stale_records
from lorakit.packed.packing import group, work
from lorakit.probes import Probe, probe_name
from lorakit.records import Record, Store
from lorakit.specs import AnySpec
from lorakit.sweep import call
from lorakit.sweep.devices import Devices
from lorakit.sweep.failures import grouped
from lorakit.sweep.pool import Pool
from lorakit.sweep.progress import Progress
from lorakit.sweep.ray_cluster import Cluster
from lorakit.sweep.reservations import Reservations
from lorakit.sweep.training import Pack, Training, packs_again, packs_of
from lorakit.sweep.workers import Worker, WorkerError
from lorakit.theory.fitting import require_fit
from lorakit.theory.hardware import is_known_gpu

if TYPE_CHECKING:
    from lorakit.analysis.sweep import Sweep

PROBE_SPECS = 4
MEMORY_SHARE = 0.6  # of the free memory that the packs of all processes may be predicted to fill
UNKNOWN_SECONDS = 60.0  # of a run whose probe failed


class SweepError(RuntimeError):
    """Some runs are not as they were wanted; every other run is recorded. The message lists them and why.

    Args:
        failed: by id, why the training failed.
        not_run: by id, how the process that should have trained it was lost, again and again.
        unsaved: by id, why a recorded run could not be exported to `save_to`.
        runs: asked for.
    """

    def __init__(self, failed: dict[str, str], not_run: dict[str, str], unsaved: dict[str, str], runs: int) -> None:
        self.failed, self.not_run, self.unsaved = failed, not_run, unsaved
        parts = [(failed, "failed, the others are recorded"),
                 (not_run, "were not run, since their process was lost each time; they stay missing, and the same call "
                           "tries them again"),
                 (unsaved, "are recorded, but could not be written to save_to; the same call trains them again for it")]
        super().__init__("\n".join(f"{len(found)} of {runs} runs {what}:\n{grouped(found)}"
                                   for found, what in parts if found))


@dataclass(frozen=True)
class Plan:
    """What is still to be run.

    Args:
        packs: the longest first; empty when nothing is missing.
        missing: specs without a result.
        stale: records of another numerical epoch.
        seconds: predicted wall-clock time on `processes` processes.
    """

    packs: tuple[Pack, ...]
    missing: tuple[AnySpec, ...]
    stale: tuple[Record, ...]
    seconds: float
    processes: int


def run(specs: Sequence[AnySpec], store: Store | str | Path = "lorakit-runs", *, profile: str | None = None,
        experiment: str = "runs", engine: str | None = None, device: str | None = None, processes: int | None = None,
        time_budget: float | None = None, report_to: str = "none", save_to: str | Path | None = None,
        probes: Sequence[Probe | str] = (), track: str | None = None, stale: str = "keep",
        progress: bool | None = None, checkpoint_every: float | None = EVERY, executor: str = "local",
        ray_address: str | None = None, vllm_server: str | None = None) -> Sweep:
    """Train every spec that the store has no result for, and return all results.

    Several calls may work on one store at once: a run that another process is training is left to it, and its record
    is returned when it is there.

    Args:
        specs: what to run, for example from `vary`.
        store: where records are kept; a run that it holds is not trained again, so a killed sweep resumes.
        profile, experiment: name the file of the new records, `<store>/<experiment>.jsonl`, or in a folder of the
            profile if one is given. All files of the store are read.
        engine: `packed` (many configurations at once), or one after another `trl` (the reference arm) or `peft` (a
            plain loop, for models with fused experts); only its records count as results. None: any engine's records
            count, and what is missing is trained by the packed engine, or by the one that can run it (`trl` with vLLM,
            `peft` for experts).
        device: `cpu`, `cuda` (all visible GPUs, a process each) or one such as `cuda:1`; None takes GPUs if there are.
        processes: worker processes of one thread each; None: one a core up to two, one a GPU. Where several share a
            GPU, NVIDIA's MPS lets their kernels overlap, if it runs before them.
        time_budget: seconds from the call on. No pack is started, or kept after its first steps, that is predicted to
            end later; one that still works a twentieth of the budget after its end is stopped. What is left stays
            missing.
        report_to: TRL's (`none`, `trackio`, …), with `engine="trl"`; the other engines report to the store alone.
        save_to: a folder for the trained adapters, one subfolder an id, in PEFT's format. A run that is recorded but
            has none there is trained again, since records hold no weights.
        probes: measurements besides those of every run, each a function at the top level of a file or its name
            `module:function`; see `lorakit.probes.Subject`. A run that is recorded without them is not trained again.
        track: `trackio` or `wandb`: each finished run of any engine is sent there as well, to a project of the
            experiment's name; `lorakit.track` sends records that exist.
        stale: what becomes of records of another numerical epoch: `keep` returns them with a warning, `retrain`
            trains their specs again; the older lines stay in the file.
        progress: how many runs are done, the steps, losses, tokens a second and the time left, on standard error: True,
            a bar; False, warnings alone; None, a bar on a terminal and in a notebook, a line every minute elsewhere.
        checkpoint_every: seconds after which a pack writes how far it is, into `<store>/.checkpoints`; one that was
            killed goes on from there when the same runs are asked for again. It takes 12 bytes a trained weight (16 in
            bfloat16), twice that while it is written, and is removed with the pack's records. None: no checkpoints.
        executor: `local` trains in processes of this machine, `ray` on the nodes of a Ray cluster, a pack on each GPU
            (or CPU); they need lorakit with its extra `train`. Registered models, data and rewards are sent to them;
            bases of the hub each gets by itself. This process alone writes the store. Nodes may join, and a pack whose
            node is lost is trained again elsewhere, from its checkpoint where nodes share the store's disk.
        ray_address: `HOST:PORT` of the cluster's head; None: the connection that `ray.init` made, `$RAY_ADDRESS`, or
            the cluster that runs on this machine.
        vllm_server: `HOST:PORT` of a vLLM server with a GPU of its own, which samples for specs with `use_vllm`, one
            run after another; it draws from its own seed. None: each process holds a vLLM beside the learner. TRL
            starts none: `vllm serve` does (the message of an error has the whole command).

    Returns:
        A `Sweep`: one record a spec, in their order (specs left out by the time budget have none), and what they say.

    Raises:
        ValueError, TypeError: something in the call cannot be meant; nothing was started.
        ModuleNotFoundError: vLLM or the tracker is not installed; nothing was started.
        MissingExtraError, ClusterError, DeviceError: no Ray, no cluster at the address, or nodes that cannot train.
        ServerError, ServedModelError: no vLLM server at the address, or one that cannot sample for these specs.
        StoreError: the store or `save_to` cannot be written.
        SweepError: some runs failed; raised after all others have been recorded.

    Warns:
        StaleRecordsWarning: records of another numerical epoch were kept.
        TrackingWarning: runs are recorded, but could not be sent to the tracker.
    """
    started = time.monotonic()
    unique, specs = call.check_specs(specs), list(specs)
    call.check_engine(engine, unique, save_to)
    call.check_numbers(processes, time_budget)
    call.check_seconds("checkpoint_every", checkpoint_every)
    if stale not in ("keep", "retrain"):
        raise ValueError(f"stale={stale!r}; allowed: 'keep' (return old records, with a warning) or 'retrain'")
    call.check_server(vllm_server, unique, executor, processes)
    named = [probe_name(probe) for probe in probes]
    store = store if isinstance(store, Store) else Store(store)
    devices = call.devices(executor, ray_address, device, 1 if vllm_server else processes, store)
    call.check_tracker(report_to, engine)
    tracker = call.tracker(track, experiment)
    call.require_training_packages()
    store.path(profile, experiment)
    folder = None if save_to is None else Path(save_to).absolute()

    def needed(some: Sequence[AnySpec], by: str | None) -> list[AnySpec]:
        found = store.find((spec.id for spec in some), by)
        old = {record.id for record in stale_records(found.values())} if stale == "retrain" else set()
        return [spec for spec in some if spec.id not in found or spec.id in old
                or (folder is not None and not (folder / spec.id / "README.md").exists())]

    def keep(record: Record) -> None:
        store.append(profile, experiment, record)
        if tracker is not None and record.status != "failed":
            tracker.send(record)

    recorded = store.find((spec.id for spec in unique), engine)
    old = stale_records(recorded.values())
    if old and stale == "keep":
        warnings.warn(f"{experiment}: {len(old)} of {len(unique)} records belong to another numerical epoch, so "
                      "today's code would give other numbers; stale='retrain' trains them again",
                      StaleRecordsWarning, stacklevel=2)
    todo, halfway = needed(unique, engine), store.root.absolute() / FOLDER
    _forget(store, halfway, {spec.id for spec in todo})
    if todo:
        call.check_vllm(todo, vllm_server)
        call.check_places(store, profile, experiment, folder)
        with ExitStack() as stack:
            if isinstance(devices, Cluster):
                stack.enter_context(devices)
            count, packs, again = len(devices.processes), [], 0
            for by, mine in _by_engine(todo, engine, recorded).items():
                killed, rest = packs_again(halfway, mine, by)
                packs += [*killed, *packs_of(rest, by, count, devices.device)]
                again += len(killed)
            reports = stack.enter_context(Progress(experiment, len(todo), float(sum(map(work, todo))), progress))
            workers = [stack.enter_context(worker)
                       for worker in devices.workers(len(todo), todo[0].gpus)]
            training = Training(
                workers, {"report_to": report_to, "save_to": None if folder is None else str(folder),
                          "memory_share": MEMORY_SHARE / devices.sharing, "probes": named,
                          "checkpoints": None if checkpoint_every is None else str(halfway),
                          "checkpoint_every": checkpoint_every, "vllm_server": vllm_server},
                halfway, needed, keep, Reservations(store.root), reports,
                None if time_budget is None else started + time_budget,
                time_budget or 0.0)
            _announce(reports, unique, todo, recorded, packs, count)
            if again:
                reports.say(f"{again} packs were stopped half-way, and go on from there")
            training.run(packs)
        if tracker is not None:
            tracker.warn()
        if training.failed or training.lost or training.unsaved:
            raise SweepError(training.failed, training.lost, training.unsaved, len(unique))
    found = store.find((spec.id for spec in specs), engine)
    _warn_of_silence(found.values())
    from lorakit.analysis.sweep import Sweep  # pandas and scipy: after the training, and not where nothing is trained

    return Sweep(found[spec.id] for spec in specs if spec.id in found)


def _by_engine(specs: Iterable[AnySpec], engine: str | None, recorded: dict[str, Record]) -> dict[str, list[AnySpec]]:
    """The specs by who trains them: the named engine, else the one of their record, else their own."""
    parts: dict[str, list[AnySpec]] = {}
    for spec in specs:
        before = recorded[spec.id].provenance.get("engine") if spec.id in recorded else None
        parts.setdefault(engine or (before if before in call.ENGINES else call.engine_of(spec)), []).append(spec)
    return parts


def _announce(progress: Progress, specs: Sequence[AnySpec], todo: Sequence[AnySpec], recorded: dict[str, Record],
              packs: Sequence[Pack], processes: int) -> None:
    again = sum(spec.id in recorded for spec in todo)
    progress.say(f"{len(todo)} of {len(specs)} runs to train, in {len(packs)} packs on "
                 f"{min(processes, len(packs))} processes" + (f"; {again} of them are recorded, and are trained again "
                 "for their weights (save_to) or their epoch (stale='retrain')" if again else ""))


def _forget(store: Store, halfway: Path, needed: set[str]) -> None:
    """Remove checkpoints of packs that will not be formed again, since some of their runs have been recorded since."""
    for by, ids in unfinished(halfway):
        if set(store.find(ids, by)) - needed:
            remove(halfway, by, ids)


def _warn_of_silence(records: Iterable[Record]) -> None:
    for record in records:
        if record.metrics.get("groups_with_spread") == 0:
            from lorakit.rl.episodes import NoRewardWarning, no_reward

            warnings.warn(no_reward(record.id), NoRewardWarning, stacklevel=3)


def plan(specs: Sequence[AnySpec], store: Store | str | Path = "lorakit-runs", *, engine: str | None = None,
         device: str | None = None, processes: int | None = None) -> Plan:
    """What `run` would train, and how long it would take, from a probe of each shape; nothing is recorded.

    A probe trains a twentieth of the steps that it predicts, at the most.

    Raises:
        DoesNotFitError: runs that no micro-batch and no recompute makes small enough for the GPUs here.
    """
    unique = call.check_specs(specs)
    call.check_engine(engine, unique)
    call.check_numbers(processes, None)
    devices = Devices(device, processes)
    store = store if isinstance(store, Store) else Store(store)
    call.require_training_packages()
    recorded = store.find((spec.id for spec in unique), engine)
    missing = [spec for spec in unique if spec.id not in recorded]
    count = len(devices.processes) if missing else processes or 1
    for card in {name for name in devices.names if missing and is_known_gpu(name)}:
        require_fit(missing, card)
    packs: list[Pack] = []

    def probe(worker: Worker, shape: tuple[str, list[AnySpec]]) -> None:
        by, alike = shape
        try:
            event = worker.ask({"do": "probe", "engine": by, "runs": len(alike),
                                "memory_share": MEMORY_SHARE / devices.sharing,
                                "specs": [spec.to_json() for spec in alike[:PROBE_SPECS]]})
        except WorkerError as error:
            event = {"error": str(error)}
        # A probe that fails says nothing about the other specs: one by one they fail for themselves.
        facts: dict[str, Any] = event.get("probe", {"seconds": UNKNOWN_SECONDS, "fits": 1})
        packs.extend(replace(pack, seconds=len(pack.specs) * facts["seconds"])
                     for pack in packs_of(alike, by, count, devices.device, facts["fits"]))

    with ExitStack() as stack:
        workers = [stack.enter_context(worker) for worker in devices.workers(len(missing))] if missing else []
        Pool(workers, probe).run((by, alike) for by, mine in _by_engine(missing, engine, {}).items()
                                 for alike in group(mine))
    packs.sort(key=lambda pack: -pack.seconds)
    seconds = max([0.0, sum(p.seconds for p in packs) / count, *(p.seconds for p in packs)])
    return Plan(tuple(packs), tuple(missing), tuple(stale_records(recorded.values())), seconds, count)
