"""Foreign text on a page of Markdown: words stay words, never markup, HTML or a directive of MyST."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

LONGEST = 300  # characters of one cell
PLAIN = r"(?<=\w)[-.,:/](?=\w)|(?<=\w)[:,](?= )|(?<=[^\W_])_(?=[^\W_])"  # in a number, date or name: no markup
PUNCTUATION = re.compile(rf"(?P<plain>{PLAIN})|[!-/:-@\[-`{{-~]")
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def cell(value: object) -> str:
    """Text that others wrote, on one line and escaped for Markdown, MyST and HTML; the page shows it as it was given.

    Control characters, line breaks and marks of direction become a blank; what is longer than 300 characters is cut.

    >>> cell("a|b <b> 1.5"), cell("% {x}`y`\\n\\n$z$")
    ('a\\\\|b &lt;b&gt; 1.5', '\\\\% \\\\{x\\\\}\\\\`y\\\\` \\\\$z\\\\$')
    """
    words = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    shown = words if len(words) <= LONGEST else words[: LONGEST - 2] + " …"
    return PUNCTUATION.sub(_escaped, shown)


def front_matter(fields: Mapping[str, object]) -> str:
    """What the hub reads of a card, above its text: each value as JSON, which is YAML.

    >>> front_matter({"tags": ["lora"]})
    '---\\ntags: ["lora"]\\n---'
    """
    return "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items()) + "---"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; `head` is the page's own text, every cell below it is escaped by `cell`.

    >>> print(table(["run", "loss"], [["a|b", "1.5"]]), end="")
    | run | loss |
    | --- | --- |
    | a\\|b | 1.5 |
    """
    lines = [list(head), ["---"] * len(head), *[[cell(value) for value in row] for row in rows]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _escaped(found: re.Match[str]) -> str:
    mark = found[0]
    return mark if found["plain"] else HTML.get(mark, f"\\{mark}")
