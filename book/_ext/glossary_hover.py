"""Sphinx extension of this book: where a page first uses a word of the glossary, it leads there and shows its meaning.

No script: the meaning is the link's title. Headings, links, code, formulas, tables and captions are left alone.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes

PAGE = "book/glossary"
LOOKED_UP = re.compile(r"book/(glossary|notation|api|references|claims|guards|status|changes)|(?!book/)")
LEFT_ALONE = (nodes.title, nodes.reference, nodes.literal, nodes.caption, nodes.math, nodes.raw, nodes.literal_block,
              nodes.rubric, addnodes.pending_xref, nodes.table, nodes.term)


def setup(app: Any) -> dict[str, Any]:
    """Once all pages are read, and before folded sections are."""
    app.connect("doctree-resolved", link, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def meanings(app: Any) -> dict[str, tuple[str, str]]:
    """Anchor and meaning by word, read from the glossary's page once a build."""
    if not hasattr(app, "glossary_meanings"):
        found = {}
        if PAGE in app.env.found_docs:
            for item in app.env.get_doctree(PAGE).findall(nodes.definition_list_item):
                term = item.next_node(nodes.term)
                meaning = re.sub(r"\s+", " ", item.next_node(nodes.definition).astext())
                found[term.astext()] = (term["ids"][0], meaning)
        app.glossary_meanings = found
    return app.glossary_meanings


def link(app: Any, doctree: nodes.document, page: str) -> None:
    """Link each word where a paragraph of the page first has it."""
    if app.builder.format != "html" or LOOKED_UP.match(page):
        return
    words = dict(meanings(app))
    for text in list(doctree.findall(nodes.Text)):
        if words and is_prose(text):
            replace(text, words, app.builder.get_relative_uri(page, PAGE))


def is_prose(text: nodes.Text) -> bool:
    """Whether a reader meets it as part of a paragraph or list."""
    place, paragraph = text.parent, False
    while place is not None:
        if isinstance(place, LEFT_ALONE):
            return False
        paragraph = paragraph or isinstance(place, nodes.paragraph)
        place = place.parent
    return paragraph


def replace(text: nodes.Text, words: dict[str, tuple[str, str]], target: str) -> None:
    """Split a text at the words that it is the first to have, which are then done with."""
    longest_first = sorted(words, key=len, reverse=True)
    found = re.search("|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in longest_first), text.astext())
    if not found:
        return
    anchor, meaning = words.pop(found.group())
    reference = nodes.reference("", found.group(), refuri=f"{target}#{anchor}", reftitle=meaning, internal=True,
                                classes=["glossary-word"])
    before, after = nodes.Text(text[:found.start()]), nodes.Text(text[found.end():])
    text.parent.replace(text, [before, reference, after])
    if words:
        replace(after, words, target)
