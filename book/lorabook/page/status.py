"""The execution-status page: the records behind the book's numbers, and where, when and with what they were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from lorabook.experiments import PROFILES
from lorabook.rehearsal.classes import spec_classes
from lorabook.rehearsal.rehearse import rehearsed
from lorabook.rehearsal.report import path_of, section
from lorakit.markdown import cell, table
from lorakit.records import Record, Store

LIBRARIES = ("torch", "transformers", "peft", "trl", "python", "lorakit")
UNKNOWN = "–"
HEAD = """# Execution status

This page is written anew at every build, from the provenance of the records and from the build itself.

## Chapters of this build

Seconds are those of the machine that built these pages; a chapter whose records exist trains nothing.

```{nb-exec-table}
```

## Records

"""
MACHINE = ("device", "threads", "engine", *LIBRARIES)


def status_page(store: Store) -> str:
    """The whole page as MyST text; a store without records says so, with the command that makes some."""
    found = [(path.parent.name, path.stem) for path in sorted(store.root.glob("*/*.jsonl"))]
    by_profile: dict[str, dict[str, list[Record]]] = {}
    for profile, name in found:
        if records := list(store.records(profile, name)):
            by_profile.setdefault(profile, {})[name] = records
    every = [record for named in by_profile.values() for records in named.values() for record in records]
    if not every:
        return HEAD + "No experiment has records yet: `lorabook run EXPERIMENT` makes them.\n"
    problems = [problem.replace(f"{store.root}/", "") for problem in store.problems]
    parts = [
        HEAD + records_section(by_profile),
        "## Machines and versions\n\n" + machines_section(every),
        "## What was tried before anyone pays for it\n\n" + section(
            [one for profile in PROFILES[1:] for one in spec_classes(profile)], rehearsed(path_of(store.root)), every),
        "## Lines that could not be read\n\n" + problem_list(problems),
    ]
    return "\n".join(parts)


def records_section(by_profile: Mapping[str, Mapping[str, Sequence[Record]]]) -> str:
    """How many runs there are and what became of them, then a table a profile: narrow enough for a phone."""
    every = [record for named in by_profile.values() for records in named.values() for record in records]
    lost = [f"{profile} {name} {word} {count} of {len(records)}" for profile, named in by_profile.items()
            for name, records in named.items() for word in ("diverged", "failed")
            if (count := Counter(record.status for record in records)[word])]
    dates, hours = _dates(every), _hours(every)
    said = (f"{len(every):,} runs of {sum(map(len, by_profile.values()))} experiments"
            + (f", made {cell(' to '.join(dict.fromkeys((dates[0], dates[-1]))))}" if dates else "")
            + (f", {hours:,.1f} hours in all" if hours is not None else "")
            + (f". Not all ended well: {cell('; '.join(lost))}." if lost else ". None diverged and none failed.")
            + " Hours add up each run's own share of its pack; a row's date is that of its last run.\n")
    parts = [said]
    for profile, named in by_profile.items():
        rows = [experiment_row(name, records) for name, records in named.items()]
        parts.append(f"### {cell(profile)}\n\n" + table(["experiment", "runs", "hours", "made"], rows))
    return "\n".join(parts)


def experiment_row(name: str, records: Sequence[Record]) -> list[str]:
    """One line of the table of experiments."""
    hours, dates = _hours(records), _dates(records)
    return [name, f"{len(records):,}", UNKNOWN if hours is None else f"{hours:.2f}",
            _day(dates[-1]) if dates else UNKNOWN]


def machines_section(records: Iterable[Record]) -> str:
    """One line per combination of device, threads, engine and versions, the most frequent first.

    What all of them have in common stands above the table, once.
    """
    combinations = Counter(
        tuple(_word(record.provenance.get(key)) for key in MACHINE) for record in records).most_common()
    differ = [place for place in range(len(MACHINE)) if len({one[place] for one, _ in combinations}) > 1]
    alike = [f"{MACHINE[place]} {combinations[0][0][place]}" for place in range(len(MACHINE)) if place not in differ]
    rows = [[f"{count:,}", *(one[place] for place in differ)] for one, count in combinations]
    said = f"All of them: {cell(', '.join(alike))}.\n\n" if alike else ""
    return said + table(["runs", *(MACHINE[place] for place in differ)], rows)


def problem_list(problems: Sequence[str]) -> str:
    """The store's complaints as a list, each escaped, or the sentence that there are none."""
    if not problems:
        return "Every line of every file of records was read.\n"
    return "".join(f"- {cell(problem)}\n" for problem in problems)


def _dates(records: Iterable[Record]) -> list[str]:
    return sorted(str(record.provenance["date"])[:10] for record in records if record.provenance.get("date"))


def _day(text: str) -> str:
    try:
        return f"{date.fromisoformat(text):%-d %b}"
    except ValueError:
        return text


def _hours(records: Iterable[Record]) -> float | None:
    seconds = [record.provenance.get("seconds") for record in records]
    known = [value for value in seconds if isinstance(value, int | float)]
    return sum(known) / 3600 if known else None


def _word(value: Any) -> str:
    return UNKNOWN if value is None else str(value)
