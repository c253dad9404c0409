"""Sphinx extension of this book: the pictures of charts lie beside the pages and are fetched where no script runs.

A cell leaves a chart with a PNG inside (`lorabook.page.rendering`), so that a notebook shows it anywhere. A page would
carry megabytes of these, which `charts.js` replaces anyway: here each becomes a file within `<noscript>`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

PICTURE = re.compile(r'<div class="lorakit-chart"><img alt="([^"]*)" src="data:image/png;base64,([^"]+)">')
SCALE = 2  # of `lorabook.page.rendering`


def setup(app: Any) -> dict[str, Any]:
    """After everything that writes into a page's body."""
    app.connect("html-page-context", beside_the_page, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def beside_the_page(app: Any, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Write each picture once, and name it where it was."""
    folder, up = Path(app.outdir, "_images"), "../" * page.count("/")

    def moved(found: re.Match[str]) -> str:
        picture = base64.b64decode(found.group(2))
        name = f"chart-{hashlib.sha256(picture).hexdigest()[:16]}.png"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture)
        width, height = (int.from_bytes(picture[at : at + 4]) // SCALE for at in (16, 20))  # of the PNG's header
        return (f'<div class="lorakit-chart" style="--chart-height: {height}px"><noscript><img alt="{found.group(1)}" '
                f'src="{up}_images/{name}" width="{width}" height="{height}" loading="lazy"></noscript>')

    if "body" in context:
        # docutils gives the entries of its list a role that a list may not hold
        context["body"] = PICTURE.sub(moved, context["body"]).replace(' role="doc-biblioentry"', ' role="listitem"')
