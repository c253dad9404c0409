"""Run what `lorabook.rehearsal.classes` makes of a profile, on stand-ins, and say of each class whether it ran."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorabook.probes import functions
from lorabook.rehearsal.classes import AnySpec, SpecClass, count
from lorakit.durable import write_whole
from lorakit.records import Record, Store
from lorakit.sweep import sweeps

WHERE = ("date", "git", "device", "torch", "trl", "vllm")  # of a record's provenance, kept with a class that ran


@dataclass
class Rehearsal:
    """What became of the classes.

    Args:
        ran: by class, where and with what its last run was made; every run of it ended with finite numbers.
        failed: by class, why one of its runs did not.
        not_run: those of vLLM, where it is not installed.
    """

    ran: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    not_run: list[SpecClass] = field(default_factory=list)


def rehearse(classes: Sequence[SpecClass], folder: Path | None = None, report: Callable[[str], None] = print,
             processes: int | None = None) -> Rehearsal:
    """Run every class on this machine's CPU, those of vLLM where it is installed; nothing of the book is touched.

    Args:
        classes: of one profile or several.
        folder: gets the stand-ins and the records; what it has already is not run again. None: a temporary one.
        report: is called with a line before each sweep.
        processes: that train at once; None: as `lorakit.run` does.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            return rehearse(classes, Path(scratch), report, processes)
    from lorabook.rehearsal.stand_ins import stand_ins

    has_vllm = importlib.util.find_spec("vllm") is not None
    done = Rehearsal(not_run=[one for one in classes if one.vllm and not has_vllm])
    todo = [one for one in classes if has_vllm or not one.vllm]
    report(f"to be rehearsed: {count(todo)}"
           + (f"; {len(done.not_run)} classes of vLLM, which is not installed, are left out" if done.not_run else ""))
    arms = [(one, engine, spec) for one in todo for engine, spec in one.arms()]
    store, why = Store(folder / "records"), dict[str, str]()
    with stand_ins([spec for _, _, spec in arms], folder) as small:
        groups: dict[tuple[Any, ...], list[AnySpec]] = {}
        for (one, engine, _), spec in zip(arms, small, strict=True):
            probes = tuple(functions(one.probes, one.profile))
            groups.setdefault((engine, spec.kind, probes, one.vllm), []).append(spec)
        for (engine, kind, probes, vllm), specs in groups.items():
            report(f"{engine}, {kind}{', vLLM' if vllm else ''}: {len({spec.id for spec in specs})} runs")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a random base earns no reward
                    sweeps.run(specs, store, experiment=f"{engine}-{kind}", engine=engine, device="cpu", probes=probes,
                               processes=1 if vllm else processes, checkpoint_every=None)
            except sweeps.SweepError as error:
                report(str(error))
                why |= error.failed | error.not_run
    for (one, engine, _), spec in zip(arms, small, strict=True):
        _judge(done, one, engine, store.find([spec.id], engine).get(spec.id), why.get(spec.id, "no record"))
    return done


def _judge(done: Rehearsal, one: SpecClass, engine: str, record: Record | None, why: str) -> None:
    if record is None or record.status != "ok":
        done.failed.setdefault(one.key, f"{engine}: {record.status if record else why}")
        done.ran.pop(one.key, None)
    elif one.key not in done.failed:
        done.ran[one.key] = {name: record.provenance[name] for name in WHERE if record.provenance.get(name)}


def note(done: Rehearsal, path: Path) -> None:
    """Add the classes that ran to a JSON file, and take out those that failed."""
    known = rehearsed(path) | done.ran
    text = json.dumps({key: known[key] for key in sorted(known.keys() - done.failed.keys())}, indent=1)
    write_whole(path, text + "\n")


def rehearsed(path: Path) -> dict[str, dict[str, Any]]:
    """The classes that a file notes: by key, where and with what each last ran; none where there is no file."""
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found
