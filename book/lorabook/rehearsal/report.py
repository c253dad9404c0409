"""Which classes of specs were rehearsed, and which have run on a GPU: the table of the status page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorabook.rehearsal.classes import SpecClass, key_of
from lorakit.markdown import table
from lorakit.records import Record
from lorakit.specs import read_spec
from lorakit.theory.hardware import is_known_gpu

FILE = "rehearsed.json"  # beside the records
COLUMNS = ["experiment", "specs", "tried", "GPU"]


def on_a_gpu(records: Iterable[Record]) -> set[str]:
    """Keys of the classes of which a run was recorded on a GPU."""
    return {key_of(read_spec(record.spec), str(record.provenance.get("engine"))) for record in records
            if record.status != "failed" and is_known_gpu(str(record.provenance.get("device", "")))}


def rows(classes: Iterable[SpecClass], rehearsed: Iterable[str], ran: Iterable[str]) -> list[list[str]]:
    """A line an experiment, and one for each profile; a class that several experiments share counts in each."""
    noted, real = set(rehearsed), set(ran)
    groups: dict[tuple[str, str], list[SpecClass]] = {}
    for one in classes:
        for name in ("all", *one.experiments):
            groups.setdefault((one.profile, name), []).append(one)
    lines = []
    for (profile, name), found in groups.items():
        keys = {one.key for one in found}
        numbers = (sum(len(one.specs) for one in found), len(keys), len(keys & noted), len(keys & real),
                   len(keys - noted - real))
        lines.append([profile, name, *map(str, numbers)])
    return lines


def section(classes: Iterable[SpecClass], noted: Mapping[str, Mapping[str, Any]], records: Iterable[Record]) -> str:
    """What each profile has tried, in a sentence with a folded table of its experiments, and when it was last."""
    dates = sorted({str(one.get("date", ""))[:10] for one in noted.values()})
    made = sorted({f"torch {one.get('torch')} on {one.get('device')}" for one in noted.values()})
    days = " to ".join(dict.fromkeys(dates[:1] + dates[-1:]))
    parts = ["The profiles gpu and paper define runs for larger machines. A class holds those that differ "
             "in seed, rate, rank, alpha and steps alone. To rehearse a class, the command lorabook rehearse runs it "
             "for two steps on a CPU: a random base of the same architecture and tokenizer type, cut down in width and "
             "depth, rows of the same columns, smaller batches. A class that changed since counts as never tried.\n"]
    parts += [f"Last rehearsed: {days}, {'; '.join(made)}.\n"] if dates else []
    lines = rows(classes, noted, on_a_gpu(records))
    for profile in dict.fromkeys(line[0] for line in lines):
        (_, _, specs, count, tried, real, never), *rest = [line for line in lines if line[0] == profile]
        parts.append(f"Profile {profile}: {int(specs):,} runs in {count} classes, of which {tried} are rehearsed, "
                     f"{real} have run on a GPU, and {never} were never tried.\n")
        found = [[name, specs, f"{tried}/{count}", f"{real}/{count}"] for _, name, specs, count, tried, real, _ in rest]
        parts.append(f":::{{dropdown}} {profile}, by experiment: classes rehearsed and run on a GPU, of all\n"
                     f"{table(COLUMNS, found)}:::\n")
    return "\n".join(parts)


def path_of(results: Path) -> Path:
    """Where rehearsals are noted, beside the book's records."""
    return results / FILE
