"""Sphinx extension of this book: `{diagram}` puts one of its drawings into the page, in the page's own colours.

    ```{diagram} lora
    The caption; without one the drawing stands alone.
    ```

The drawings are `book/_static/diagrams/*.svg`; `memory` is made from the estimates of this build. What a reader hears
who cannot see it is the drawing's own description, or `:alt:`.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

FOLDER = Path("book/_static/diagrams")
MADE_NOW = ("memory",)


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("diagram", Diagram)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


class Diagram(SphinxDirective):
    """A numbered figure with a drawing in it; `:name:` makes it a target of `{numref}`."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged, "name": directives.unchanged}  # noqa: RUF012 - the base class's way

    def run(self) -> list[nodes.Node]:
        """The figure."""
        name = self.arguments[0]
        known = sorted({path.stem for path in Path(self.env.srcdir, FOLDER).glob("*.svg")} | {*MADE_NOW})
        if name not in known:
            raise self.error(f"no diagram is called {name!r}; there are: {', '.join(known)}")
        figure = nodes.figure("", nodes.raw("", self.drawing(name), format="html"), classes=["diagram"])
        if self.content:
            words, messages = self.parse_inline(" ".join(self.content))
            figure += nodes.caption("", "", *words, *messages)
        self.add_name(figure)
        if self.content and not figure["ids"]:  # what has none gets no number
            figure["ids"] = [f"diagram-{name}"]
        self.set_source_info(figure)
        return [figure]

    def drawing(self, name: str) -> str:
        """SVG that says what it shows."""
        if name in MADE_NOW:
            from lorabook.page import memory_diagram

            text = memory_diagram.drawing()
        else:
            path = Path(self.env.srcdir, FOLDER, f"{name}.svg")
            self.env.note_dependency(str(path))
            text = path.read_text(encoding="utf-8")
        shown = re.search(r"<desc>(.*?)</desc>\s*", text, re.S)
        words = self.options.get("alt") or html.unescape(shown.group(1) if shown else "")
        text = text.replace(shown.group(0), "") if shown else text
        return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(words, quote=True)}" ', 1)
