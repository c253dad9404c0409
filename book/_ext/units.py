"""Sphinx extension of this book: a number and its per cent sign stay together, and are written one way: 95 %.

Prose has the space, Python's format `.0%` has none; code stays as it was typed.
"""

from __future__ import annotations

import re
from typing import Any

PER_CENT = re.compile(
    r"(<(?P<code>pre|code|script|style)\b.*?</(?P=code)>|<[^>]*>)"  # as it is
    r"|(?:(?<=\d)|(?<=\d\))|(?<=\d</span>)|(?<=\)</span>)) ?%", re.S)


def setup(app: Any) -> dict[str, Any]:
    """After everything that writes into a page's body."""
    app.connect("html-page-context", on_page, priority=920)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def on_page(_app: Any, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """All of a page's body."""
    if "body" in context:
        context["body"] = together(context["body"])


def together(body: str) -> str:
    """HTML with a space that does not break before each per cent sign of its text.

    >>> together('<p title="5%">68% (5 to 7) % <code>5%</code>').replace("\\xa0", "~")
    '<p title="5%">68~% (5 to 7)~% <code>5%</code>'
    """
    return PER_CENT.sub(lambda found: found[1] or "\xa0%", body)
