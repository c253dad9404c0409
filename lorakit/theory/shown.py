"""Answers in words: a notebook shows them as text that wraps, a terminal as lines."""

from __future__ import annotations

import html


class InWords:
    """What says itself in words (`str`)."""

    def _repr_html_(self) -> str:
        return f"<p class='lorakit-words'>{'<br>'.join(map(html.escape, str(self).splitlines()))}</p>"
