"""Chapters as executed notebooks: jupytext, papermill, strip; only those whose inputs changed; no source is touched."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorabook.chapter_parameters import ParameterError, check_parameters, one_of, parse_parameters
from lorabook.claims.flips import Verdicts
from lorabook.experiments import PROFILES, SIZES
from lorabook.experiments.completion import complete
from lorabook.notebooks import execute as _execute
from lorabook.notebooks import read, strip
from lorakit.codehash import code_hash
from lorakit.durable import write_whole
from lorakit.names import near
from lorakit.records import Store
from lorakit.specs import PACKAGE

CHAPTER_FILES = "[0-9][0-9]-*.md"
RECORDS = ("results", "do-it", "lorabook/benchmarks/results")  # of all that a chapter may read
__all__ = ["ParameterError", "RefreshError", "Refreshed", "parse_parameters", "refresh", "strip"]


class RefreshError(RuntimeError):
    """Some chapters failed; the message lists each with its reason, and the others were finished."""


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What `refresh` did with one chapter.

    Args:
        chapter: stem of its source, such as `02-rank`.
        notebook: the executed notebook.
        changed: the inputs that had changed and made it run; empty when it was up to date, or was left.
        trained: runs, now.
        missing: runs, still: the time budget ended, or they failed.
        left: the time budget ended before the chapter could be executed.
    """

    chapter: str
    notebook: Path
    changed: tuple[str, ...]
    trained: int = 0
    missing: int = 0
    left: bool = False


def refresh(
    chapters: Sequence[str] = (),
    profile: str = "cpu",
    size: str = "record",
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
    force: bool = False,
    time_budget: float | None = None,
    vllm_server: str | None = None,
    report: Callable[[str], None] = print,
) -> list[Refreshed]:
    """Execute chapters into `_build/executed/<stem>.ipynb`, skipping those whose inputs are unchanged.

    The inputs are the chapter's source, the records under `book`, the code of lorakit with the
    fingerprints of its weights and data, the parameters and Python's version; they are kept beside the output in
    `<stem>.json`. Before a chapter runs, all that its experiments define for the profile and size, and the records
    lack, is trained; with all records present nothing is. A chapter that adds records makes the ones before it run once
    more next time, from records alone. The notebook holds no absolute path, no timing and no random id: equal inputs
    give equal files. Killed at any point, the same call goes on from there, and comes to the same files. At the end it
    says which verdicts the new records have changed since the last refresh.

    Args:
        chapters: stems (`02-rank`), file names, or the part after the number (`rank`); empty means all.
        profile: `cpu`, `gpu` or `paper`.
        size: `live` or `record`.
        parameters: more names of the chapters' `parameters` cell, with their values.
        root: the clone of the repository, None for the current folder.
        force: execute even what is up to date.
        time_budget: seconds; no pack is started that is predicted to end later, and no chapter is executed whose runs
            are missing then. The same call goes on with what is left.
        vllm_server: `HOST:PORT` that samples for the experiments all of whose runs use vLLM; None: each process does.
        report: is called with one line per chapter, and at the end with what changed.

    Returns:
        One entry per chapter, in the book's order.

    Raises:
        ParameterError: before anything runs; names what is allowed and the nearest name.
        RefreshError: after every chapter had its turn, when some failed.
        ModuleNotFoundError: the packages of the book are not installed.
    """
    ends = None if time_budget is None else time.monotonic() + time_budget
    root = (Path.cwd() if root is None else Path(root)).resolve()
    passed = {"profile": profile, "size": size} | dict(parameters or {})
    profile, size = one_of("profile", passed["profile"], PROFILES), one_of("size", passed["size"], SIZES)
    sources = _choose(root / "book", chapters)
    notebooks = {source: read(source) for source in sources}
    for source, notebook in notebooks.items():
        check_parameters(source.stem, notebook, passed)
    store, common = Store(root / "book" / "results"), chapter_inputs(root / "book")
    verdicts = Verdicts(root / "_build" / "refresh" / "verdicts.json", store)
    done, failures = list[Refreshed](), list[str]()
    for source, notebook in notebooks.items():
        left = None if ends is None else ends - time.monotonic()
        made = complete(source.stem.partition("-")[2], profile, size, store, report, left, verdicts.before, vllm_server)
        if made.defined or made.undefined:
            report(f"{source.stem}: {made}")
        failures += [f"{source.stem}: {why}" for why in made.failures]
        common = chapter_inputs(root / "book") if made.trained else common
        target = root / "_build" / "executed" / f"{source.stem}.ipynb"
        changed = ("forced",) if force else _changed(target, _inputs(source, passed) | common)
        late = bool(changed) and ends is not None and (time.monotonic() >= ends or made.missing > 0)
        what = "left, the time is over" if late else f"running ({', '.join(changed)})" if changed else "up to date"
        report(f"{source.stem}: {what}")
        if changed and not late:
            try:
                executed = _execute(root, source.stem, notebook, passed)
            except Exception as error:  # noqa: BLE001 - whatever a chapter raises must not stop the others
                report(f"{source.stem}: failed")
                failures.append(f"{source.stem}: {_reason(error)}")
                continue
            write_whole(target, json.dumps(strip(executed, root), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
            # Taken after the run: what the chapter itself added to the records must not make it stale.
            common = chapter_inputs(root / "book")
            write_whole(target.with_suffix(".json"), json.dumps(_inputs(source, passed) | common, indent=1) + "\n")
        done.append(Refreshed(chapter=source.stem, notebook=target, changed=() if late else changed,
                              trained=made.trained, missing=made.missing, left=late))
    for line in verdicts.flips():
        report(line)
    if failures:
        listed = "\n  ".join(failures)
        failed = len({line.partition(":")[0] for line in failures})
        raise RefreshError(f"{failed} of {len(sources)} chapters failed; as far as each came: "
                           f"_build/refresh/<chapter>.ipynb\n  {listed}")
    return done


def _choose(book: Path, chapters: Sequence[str]) -> list[Path]:
    sources = {path.stem: path for path in sorted(book.glob(CHAPTER_FILES))}
    if not sources:
        raise ParameterError(f"no chapter {CHAPTER_FILES} in {book}; run this in a clone of the repository")
    names = dict.fromkeys(sources, "") | {stem.partition("-")[2]: stem for stem in sources}
    chosen = set()
    for given in chapters:
        name = Path(given).name.removesuffix(".md").removesuffix(".ipynb")
        if name not in names:
            raise ParameterError(f"no chapter {given!r}; {near(name, names)}chapters: {', '.join(sources)}")
        chosen.add(names[name] or name)
    return [path for stem, path in sources.items() if stem in chosen or not chapters]


def chapter_inputs(book: Path) -> dict[str, str]:
    """A hash of each thing that a chapter's numbers depend on besides its own text and parameters."""
    results = [path for folder in RECORDS for path in sorted((book / folder).rglob("*.json*"))]
    return {
        "records": _hash(*(f"{path.relative_to(book).as_posix()}\n".encode() + path.read_bytes() for path in results)),
        "code": code_hash([PACKAGE, Path(__file__).parent]),
        "fingerprints": _hash((PACKAGE / "fingerprints.json").read_bytes()),
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def _inputs(source: Path, passed: Mapping[str, Any]) -> dict[str, str]:
    parameters = json.dumps(dict(passed), sort_keys=True, default=repr)
    return {"source": _hash(source.read_bytes()), "parameters": parameters}


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _changed(target: Path, inputs: dict[str, str]) -> tuple[str, ...]:
    try:
        before = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ("never executed",)
    if not isinstance(before, dict) or not target.exists():
        return ("never executed",)
    return tuple(f"{name} changed" for name, value in inputs.items() if before.get(name) != value)


def _reason(error: Exception) -> str:
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    return f"{name}: {value}"
