"""Sphinx extension of this book: pages are executed two at a time, and each says on a line of its own how long it took.

They are executed into an empty cache of jupyter-cache, from which MyST-NB then takes their outputs: a cache that was
kept would serve numbers from before a change of lorakit or of a record. What fails is not in it, so that MyST-NB
executes it once more, and says what is wrong as it says it everywhere. Where pages train (`LORAKIT_SIZE=live`), which
takes all cores, they are executed one at a time.

Kernels that listen on TCP in plain text warn about it, once a page; the keys cost nothing. A page computes on one
thread: its models are small, and two threads wait for each other for minutes where another process has one core.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from jupyter_client import KernelManager
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook

AT_ONCE = 2


def setup(app: Any) -> dict[str, Any]:
    """Ask for the keys, and be called before any page is read."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    encryption = KernelManager.class_traits().get("transport_encryption")  # jupyter_client 8.10 and later
    if encryption is not None:
        encryption.default_value = "auto"
    app.connect("builder-inited", execute)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}


def execute(app: Any) -> None:
    """Execute the pages that have code into the cache, the longest texts first."""
    config = app.env.mystnb_config
    if config.execution_mode != "cache":
        return
    shutil.rmtree(config.execution_cache_path, ignore_errors=True)
    cache = get_cache(config.execution_cache_path)

    def run(page: Path, text: str) -> Any:
        notebook = read_myst_markdown_notebook(text, path=str(page))
        return single_nb_execution(notebook, str(page.parent), config.execution_timeout, allow_errors=False)

    with ThreadPoolExecutor(1 if os.environ.get("LORAKIT_SIZE") == "live" else AT_ONCE) as pool:
        begun = {pool.submit(run, page, text): page for page, text in pages(app)}
        for done in as_completed(begun):
            page, found = begun[done], done.result()
            sys.stderr.write(f"{page.relative_to(app.srcdir).with_suffix('').as_posix()}: {found.time:.0f} s\n")
            if found.err is None:
                cache.cache_notebook_bundle(
                    CacheBundleIn(found.nb, str(page), data={"execution_seconds": found.time}),
                    check_validity=False, overwrite=True)


def pages(app: Any) -> Iterator[tuple[Path, str]]:
    """Those with code, and their texts."""
    app.env.find_files(app.config, app.builder)
    texts = {page: page.read_text("utf-8") for page in map(Path, map(app.env.doc2path, app.env.found_docs))
             if page.suffix == ".md"}
    yield from sorted(((page, text) for page, text in texts.items() if is_myst_markdown_notebook(text)),
                      key=lambda one: -len(one[1]))
