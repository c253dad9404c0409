"""Sphinx extension of this book: pages are executed over an encrypted line, and each says on its own line how long.

Kernels that listen on TCP in plain text warn about it, once a page; the keys cost nothing. A page computes on one
thread: its models are small, and two threads wait for each other for minutes where another process has one core.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from jupyter_client import KernelManager
from myst_nb.sphinx_ import NbMetadataCollector


def setup(app: Any) -> dict[str, Any]:
    """Ask for the keys, and be told of every page that was read."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    encryption = KernelManager.class_traits().get("transport_encryption")  # jupyter_client 8.10 and later
    if encryption is not None:
        encryption.default_value = "auto"
    app.connect("doctree-read", tell)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def tell(app: Any, _doctree: Any) -> None:
    """The page and its seconds, if it was executed."""
    done = NbMetadataCollector.get_exec_data(app.env, app.env.docname)
    if done:
        sys.stderr.write(f"{app.env.docname}: {done['runtime'] or 0:.0f} s\n")
