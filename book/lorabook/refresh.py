"""Chapters as executed notebooks: jupytext, papermill, strip; only those whose inputs changed; no source is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorabook.chapter_parameters import ParameterError, check_parameters, nearest, one_of, parse_parameters
from lorabook.experiments.completion import complete
from lorakit.codehash import code_hash
from lorakit.specs import PACKAGE

PROFILES = ("cpu", "gpu", "paper")
SIZES = ("live", "record")
CHAPTER_FILES = "[0-9][0-9]-*.md"
__all__ = ["ParameterError", "RefreshError", "Refreshed", "parse_parameters", "refresh", "strip"]


class RefreshError(RuntimeError):
    """Some chapters failed; the message lists each with its reason, and the others were finished."""


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What `refresh` did with one chapter.

    Args:
        chapter: stem of its source, such as `02-rank`.
        notebook: the executed notebook.
        changed: the inputs that had changed and made it run; empty when it was up to date.
    """

    chapter: str
    notebook: Path
    changed: tuple[str, ...]


def refresh(
    chapters: Sequence[str] = (),
    profile: str = "cpu",
    size: str = "record",
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
    force: bool = False,
    report: Callable[[str], None] = print,
) -> list[Refreshed]:
    """Execute chapters into `_build/executed/<stem>.ipynb`, skipping those whose inputs are unchanged.

    The inputs are the chapter's source, the records under `book/results`, the code of lorakit with the
    fingerprints of its weights and data, the parameters and Python's version; they are kept beside the output in
    `<stem>.json`. Before a chapter runs, all that its experiments define for the profile and size, and the records
    lack, is trained; with all records present nothing is. A chapter that adds records makes the ones before it run once
    more next time, from records alone. The notebook holds no absolute path, no timing and no random id: equal inputs
    give equal files.

    Args:
        chapters: stems (`02-rank`), file names, or the part after the number (`rank`); empty means all.
        profile: `cpu`, `gpu` or `paper`.
        size: `live` or `record`.
        parameters: more names of the chapters' `parameters` cell, with their values.
        root: the clone of the repository, None for the current folder.
        force: execute even what is up to date.
        report: is called with one line per chapter.

    Returns:
        One entry per chapter, in the book's order.

    Raises:
        ParameterError: before anything runs; names what is allowed and the nearest name.
        RefreshError: after every chapter had its turn, when some failed.
        ModuleNotFoundError: the packages of the book are not installed.
    """
    root = (Path.cwd() if root is None else Path(root)).resolve()
    passed = {"profile": profile, "size": size} | dict(parameters or {})
    profile, size = one_of("profile", passed["profile"], PROFILES), one_of("size", passed["size"], SIZES)
    sources = _choose(root / "book", chapters)
    notebooks = {source: _read(source) for source in sources}
    for source, notebook in notebooks.items():
        check_parameters(source.stem, notebook, passed)
    done, failures = [], []
    for source, notebook in notebooks.items():
        made = complete(source.stem.partition("-")[2], profile, size, root / "book" / "results", report)
        if made.defined or made.undefined:
            report(f"{source.stem}: {made}")
        failures += [f"{source.stem}: {why}" for why in made.failures]
        target = root / "_build" / "executed" / f"{source.stem}.ipynb"
        changed = ("forced",) if force else _changed(target, _inputs(root / "book", source, passed))
        report(f"{source.stem}: {'running (' + ', '.join(changed) + ')' if changed else 'up to date'}")
        if changed:
            try:
                executed = _execute(root, source.stem, notebook, passed)
            except Exception as error:  # noqa: BLE001 - whatever a chapter raises must not stop the others
                report(f"{source.stem}: failed")
                failures.append(f"{source.stem}: {_reason(error)}")
                continue
            _write(target, json.dumps(strip(executed, root), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
            # Taken after the run: what the chapter itself added to the records must not make it stale.
            _write(target.with_suffix(".json"), json.dumps(_inputs(root / "book", source, passed), indent=1) + "\n")
        done.append(Refreshed(chapter=source.stem, notebook=target, changed=changed))
    if failures:
        listed = "\n  ".join(failures)
        failed = len({line.partition(":")[0] for line in failures})
        raise RefreshError(f"{failed} of {len(sources)} chapters failed; as far as each came: "
                           f"_build/refresh/<chapter>.ipynb\n  {listed}")
    return done


def strip(notebook: dict[str, Any], root: Path) -> dict[str, Any]:
    """The notebook without what differs from machine to machine and from run to run.

    Cell ids are numbered, papermill's metadata and every time stamp go, and in outputs the paths of the
    repository, of Python, of the home folder and of the kernel's temporary files are shortened.

    >>> cell = {"id": "x1", "metadata": {"execution": {"t": 1}}, "outputs": [{"text": "/a/b/book/c"}]}
    >>> strip({"cells": [cell]}, Path("/a/b"))["cells"]
    [{'id': 'cell-0', 'metadata': {}, 'outputs': [{'text': './book/c'}]}]
    """
    shorten = _shortener(root)
    cells = []
    for index, cell in enumerate(notebook["cells"]):
        metadata = {k: v for k, v in cell.get("metadata", {}).items() if k not in ("papermill", "execution")}
        kept = dict(cell) | {"id": f"cell-{index}", "metadata": metadata}
        if "outputs" in cell:
            kept["outputs"] = shorten(cell["outputs"])
        cells.append(kept)
    return dict(notebook) | {"cells": cells, "metadata": {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }}


def _shortener(root: Path) -> Callable[[Any], Any]:
    kernel_files = re.compile(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py")
    places = {str(root): ".", sys.prefix: "<python>", sys.base_prefix: "<python>", str(Path.home()): "~"}
    patterns = [(re.compile(re.escape(p) + r"(?![\w.-])"), short) for p, short in places.items() if p != "/"]

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            value = kernel_files.sub("<cell>", value)
            for pattern, short in patterns:
                value = pattern.sub(short, value)
        elif isinstance(value, Mapping):
            value = {key: shorten(item) for key, item in value.items()}
        elif isinstance(value, list):
            value = [shorten(item) for item in value]
        return value

    return shorten


def _choose(book: Path, chapters: Sequence[str]) -> list[Path]:
    sources = {path.stem: path for path in sorted(book.glob(CHAPTER_FILES))}
    if not sources:
        raise ParameterError(f"no chapter {CHAPTER_FILES} in {book}; run this in a clone of the repository")
    names = dict.fromkeys(sources, "") | {stem.partition("-")[2]: stem for stem in sources}
    chosen = set()
    for given in chapters:
        name = Path(given).name.removesuffix(".md").removesuffix(".ipynb")
        if name not in names:
            raise ParameterError(f"no chapter {given!r}; {nearest(name, list(names))}chapters: {', '.join(sources)}")
        chosen.add(names[name] or name)
    return [path for stem, path in sources.items() if stem in chosen or not chapters]


def _read(source: Path) -> Any:
    try:
        import jupytext
        import papermill  # noqa: F401 - say so now, not after the first chapter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; chapters need the book's packages: run `pip install ./book/lorabook` "
                                  "in the clone") from error
    return jupytext.read(source, fmt="md:myst")


def chapter_inputs(book: Path) -> dict[str, str]:
    """A hash of each thing that a chapter's numbers depend on besides its own text and parameters."""
    results = sorted((book / "results").rglob("*.jsonl"))
    return {
        "records": _hash(*(f"{path.relative_to(book).as_posix()}\n".encode() + path.read_bytes() for path in results)),
        "code": code_hash([PACKAGE, Path(__file__).parent]),
        "fingerprints": _hash((PACKAGE / "fingerprints.json").read_bytes()),
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def _inputs(book: Path, source: Path, passed: Mapping[str, Any]) -> dict[str, str]:
    parameters = json.dumps(dict(passed), sort_keys=True, default=repr)
    return {"source": _hash(source.read_bytes()), "parameters": parameters} | chapter_inputs(book)


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


def _execute(root: Path, stem: str, notebook: Any, passed: Mapping[str, Any]) -> Any:
    """The notebook, executed by this very Python; its progress and what it warns of go to standard error."""
    import nbformat
    import papermill

    work = root / "_build" / "refresh"
    work.mkdir(parents=True, exist_ok=True)
    converted = work / f"{stem}.ipynb"
    nbformat.write(notebook, converted)
    # `python3` of this environment, not one that the user installed elsewhere, nor the user's IPython
    here = {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": str(work / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "TQDM_DISABLE": "1"}  # sweeps say lines there: their bars would stand in the cells
    before = {name: os.environ.get(name) for name in here}
    os.environ.update(here)
    try:
        return papermill.execute_notebook(
            str(converted), str(converted), parameters=dict(passed), kernel_name="python3", language="python",
            cwd=str(root / "book"), progress_bar={"desc": stem}, stderr_file=sys.stderr)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _reason(error: Exception) -> str:
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    return f"{name}: {value}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
