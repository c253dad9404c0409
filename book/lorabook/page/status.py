"""The execution-status page: the records behind the book's numbers, and where, when and with what they were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from lorabook.experiments import PROFILES
from lorabook.rehearsal.classes import spec_classes
from lorabook.rehearsal.rehearse import rehearsed
from lorabook.rehearsal.report import path_of, section
from lorakit.markdown import cell, table
from lorakit.records import Record, Store

LIBRARIES = ("torch", "transformers", "peft", "trl", "python", "lorakit")
UNKNOWN = "unknown"
HEAD = """# Execution status

This page is written anew at every build, from the provenance of the records and from the build itself.

## Chapters of this build

Seconds are those of the machine that built these pages; a chapter whose records exist trains nothing.

```{nb-exec-table}
```

## Records

"""


def status_page(store: Store) -> str:
    """The whole page as MyST text; a store without records says so, with the command that makes some."""
    found = [(path.parent.name, path.stem) for path in sorted(store.root.glob("*/*.jsonl"))]
    rows = [experiment_row(profile, name, store.records(profile, name)) for profile, name in found]
    every = [record for profile, name in found for record in store.records(profile, name)]
    if not every:
        return HEAD + "No experiment has records yet: `lorabook run EXPERIMENT` makes them.\n"
    columns = ["runs", "device", "threads", "engine", *LIBRARIES]
    problems = [problem.replace(f"{store.root}/", "") for problem in store.problems]
    parts = [
        HEAD + table(["profile", "experiment", "runs", "diverged", "failed", "first to last date", "run hours"], rows),
        "## Machines and versions\n\n" + table(columns, machine_rows(every)),
        "## What was tried before anyone pays for it\n\n" + section(
            [one for profile in PROFILES[1:] for one in spec_classes(profile)], rehearsed(path_of(store.root)), every),
        "## Lines that could not be read\n\n" + problem_list(problems),
    ]
    return "\n".join(parts)


def experiment_row(profile: str, name: str, records: Sequence[Record]) -> list[str]:
    """One line of the table of experiments; hours are the sum over runs, each run's own share of its pack."""
    fates = Counter(record.status for record in records)
    dates = sorted(str(record.provenance["date"])[:10] for record in records if record.provenance.get("date"))
    seconds = [record.provenance.get("seconds") for record in records]
    known = [value for value in seconds if isinstance(value, int | float)]
    hours = f"{sum(known) / 3600:.2f}" if known else UNKNOWN
    span = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else UNKNOWN
    return [profile, name, str(len(records)), str(fates["diverged"]), str(fates["failed"]), span, hours]


def machine_rows(records: Iterable[Record]) -> list[list[str]]:
    """One line per combination of device, threads, engine and versions, the most frequent first."""
    combinations = Counter(
        tuple(_word(record.provenance.get(key)) for key in ("device", "threads", "engine", *LIBRARIES))
        for record in records
    )
    return [[str(count), *combination] for combination, count in combinations.most_common()]


def problem_list(problems: Sequence[str]) -> str:
    """The store's complaints as a list, each escaped, or the sentence that there are none."""
    if not problems:
        return "Every line of every file of records was read.\n"
    return "".join(f"- {cell(problem)}\n" for problem in problems)


def _word(value: Any) -> str:
    return UNKNOWN if value is None else str(value)
