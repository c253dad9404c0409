"""Sphinx extension of this book: a section that is called Evidence is folded until a reader asks for it.

Within it code of more than a few lines is folded once more: what stands there first is what the code found.

The fold is HTML's own `<details>`, with the heading as its handle, so it opens without any script; `page.js` opens
it for an address that leads inside, and for paper.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes

FEW = 4  # lines of code in Evidence that stay in view
FOLDED = {"Evidence": "intervals, rules, guards, and where the numbers come from"}


def setup(app: Any) -> dict[str, Any]:
    """Fold after the contents of pages were gathered: headings keep their places in every list."""
    app.connect("doctree-resolved", fold)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def fold(app: Any, doctree: nodes.document, _page: str) -> None:
    """Put `<details>` around the contents of each folded section, and its title into the summary."""
    if app.builder.format != "html":
        return
    for section in list(doctree.findall(nodes.section)):
        title = section.next_node(nodes.title)
        if title is None or title.astext() not in FOLDED:
            continue
        hint = f' <span class="fold-hint">{FOLDED[title.astext()]}</span>'
        section.insert(0, html('<details class="evidence"><summary>'))
        section.insert(section.index(title) + 1, html(f"{hint}</summary>"))
        section.append(html("</details>"))
        for cell in list(section.findall(nodes.container)):
            if cell.get("nb_element") == "cell_code":
                fold_code(cell)


def fold_code(cell: nodes.Element) -> None:
    """Put `<details>` around the code of a cell, if it is long."""
    code = next((part for part in cell.children if part.get("nb_element") == "cell_code_source"), None)
    lines = code.astext().strip().splitlines() if code is not None else []
    if code is None or len(lines) <= FEW:
        return
    checks = any(line.startswith(("page.says(", "page.expect(")) for line in lines) and len(cell.children) == 1
    words = f"{'Checks of what this page says' if checks else 'Code'}, {len(lines)} lines"
    cell.insert(cell.index(code), html(f'<details class="evidence-code"><summary>{words}</summary>'))
    cell.insert(cell.index(code) + 1, html("</details>"))


def html(text: str) -> nodes.raw:
    """A piece of HTML as it is."""
    return nodes.raw("", text, format="html")
