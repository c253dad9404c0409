"""What a chapter asks for: an experiment's records, or a clear word on what is missing."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorabook import experiments
from lorabook.probes import functions
from lorakit.analysis.sweep import Sweep
from lorakit.epochs import StaleRecordsWarning, stale
from lorakit.records import Record, Store
from lorakit.specs import PACKAGE


class MissingRecordsError(RuntimeError):
    """A chapter needs records that were never committed, and may not train them itself."""


class Results(Sweep):
    """The records of an experiment at one profile and size: a sweep that knows what was to be run.

    Args:
        name, profile, size: what was asked for; the size is the one in force.
        specs: every run that the experiment names.
        records: those that exist.
    """

    def __init__(self, name: str, profile: str, size: str, specs: Sequence[Any], records: Iterable[Record]) -> None:
        super().__init__(records, strict=size == "record")
        self.name, self.profile, self.specs = name, profile, tuple(specs)

    def _settings(self) -> dict[int, str]:
        """None: a chapter's arms are adapters, and it takes an experiment's batch sizes one by one."""
        return {}

    @property
    def missing(self) -> int:
        """Runs without a record."""
        return len(self.specs) - len(self.records)

    @property
    def note(self) -> str:
        """What every chart of these runs must say: the seeds, and `illustration` where no verdict can be given."""
        seeds = len({spec.seed for spec in self.specs})
        word = "1 seed" if seeds == 1 else f"{seeds} seeds"
        return f"illustration: live size, {word}, no verdict" if self.size == "live" else f"records: {word}"

    @property
    def command(self) -> str:
        """The command that makes the missing records."""
        return f"lorabook run {self.name} --profile {self.profile} --size {self.size}"

    def __add__(self, other: Results) -> Results:  # type: ignore[override]
        """The runs of two experiments of one profile and size as if they were one's."""
        if (self.profile, self.size) != (other.profile, other.size):
            raise ValueError(f"{self.name} is of {self.profile}, {self.size}, {other.name} of {other.profile}, "
                             f"{other.size}: add results of one profile and size")
        return Results(self.name, self.profile, self.size, self.specs + other.specs, self.records + other.records)

    def only(self, dataset: str | None = None, **columns: Any) -> Results:
        """The part with the given values, as `Sweep.only`; its specs are those of its records."""
        part = super().only(dataset, **columns)
        ids = {record.id for record in part}
        return Results(self.name, self.profile, self.size, [s for s in self.specs if s.id in ids], part)


def store() -> Store:
    """The book's records: `$LORAKIT_RESULTS`, else those of the book that we are in or beside, else of the clone
    that this lorakit is installed from.

    Raises:
        MissingRecordsError: none of these is there; the records do not travel in a wheel.
    """
    named = os.environ.get("LORAKIT_RESULTS")
    if named:
        return _opened(Path(named).resolve())
    for book in (Path.cwd(), Path.cwd() / "book", PACKAGE.parent / "book"):
        if (book / "results").is_dir() and any(book.glob("[0-9][0-9]-*.md")):
            return _opened((book / "results").resolve())
    raise MissingRecordsError("the recorded runs lie in book/results of a clone of lorakit, and this folder is "
                              "in none: change into a clone, or name a folder of your own with --results FOLDER (in "
                              "Python and notebooks: $LORAKIT_RESULTS)")


@functools.cache
def _opened(folder: Path) -> Store:
    """One store a folder: it reads a file again only where that has changed."""
    return Store(folder)


def place_of(name: str, size: str, records: Store) -> tuple[Store, str]:
    """Where the records of an experiment are kept, and the name of their file, beside the book's `records`."""
    if size == "live":  # made anew on each machine, never committed
        return Store(records.root.parent.parent / "_build" / "live"), f"{name}-live"
    return records, name


def recorded(name: str, profile: str = "cpu") -> Results:
    """The committed runs of record size, from which verdicts are read, whatever size this build has; even none."""
    experiment = experiments.get(name)
    specs = experiment.specs(profile, "record")
    found = store().find((spec.id for spec in specs), experiment.engine_for(specs))
    return Results(name, profile, "record", specs, _finished(specs, found))


def _finished(specs: Sequence[Any], found: Mapping[str, Record]) -> list[Record]:
    return [found[spec.id] for spec in specs if spec.id in found and found[spec.id].status != "failed"]


def results(name: str, profile: str = "cpu", size: str = "record", *, optional: bool = False,
            train: bool = True) -> Results:
    """The records of an experiment; what is missing is trained only at the live size or when a refresh allows it.

    Args:
        name: an experiment of `lorabook.experiments`.
        profile: `cpu`, `gpu` or `paper`.
        size: `record` or `live`; `$LORAKIT_SIZE` (set by `make book SIZE=live`) goes before it on cpu.
        optional: return what there is, even nothing, instead of failing: for runs that need a GPU.
        train: False never trains, whatever a refresh allows: for runs of another profile than the page's.

    Raises:
        MissingRecordsError: records are missing, and nothing may train them.

    Warns:
        StaleRecordsWarning: records belong to another numerical epoch.
    """
    experiment = experiments.get(name)
    if profile == "cpu" and experiment.specs(profile, "live"):
        size = os.environ.get("LORAKIT_SIZE", size)
    specs = experiment.specs(profile, size)
    if not specs and not optional:
        defined = ", ".join(f"{p}/{s}" for p, s in experiment.runs)
        raise ValueError(f"{name} is not defined for profile {profile!r}, size {size!r}; defined: {defined}")
    place, file = place_of(name, size, store())
    may_train = size == "live" or (train and os.environ.get("LORAKIT_MISSING") == "train")
    engine = experiment.engine_for(specs)
    found = place.find((spec.id for spec in specs), engine)
    if specs and may_train and not optional and (len(found) < len(specs) or stale(found.values())):
        from lorakit.sweep import sweeps

        sweeps.run(specs, place, profile=profile, experiment=file, engine=engine,
                   probes=functions(experiment.probes, profile), stale="retrain", progress=False)
        found = place.find((spec.id for spec in specs), engine)
    records = _finished(specs, found)
    result = Results(name, profile, size, specs, records)
    if result.missing and not optional:
        raise MissingRecordsError(
            f"{name}: {result.missing} of {len(specs)} runs have no record. Make them with `{result.command}`, "
            f"or let a refresh train them: `lorabook refresh --profile {profile}`")
    old = stale(records)
    if old:
        warnings.warn(f"{name}: {len(old)} of {len(records)} records belong to another numerical epoch; "
                      f"`{result.command}` trains them again", StaleRecordsWarning, stacklevel=2)
    return result
