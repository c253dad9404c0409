"""A chapter as a notebook: read with jupytext, executed with papermill, stripped of what differs between machines."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def read(source: Path) -> Any:
    """The notebook of a chapter's source.

    Raises:
        ModuleNotFoundError: the packages of the book are not installed.
    """
    try:
        import jupytext
        import papermill  # noqa: F401 - say so now, not after the first chapter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; chapters need the book's packages: run `pip install ./book/lorabook` "
                                  "in the clone") from error
    return jupytext.read(source, fmt="md:myst")


def execute(root: Path, stem: str, notebook: Any, passed: Mapping[str, Any]) -> Any:
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
