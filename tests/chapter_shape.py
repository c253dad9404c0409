"""What a chapter asks of its reader: words, charts, cells. Run as a script with the chapters' paths to see the numbers.

A chapter has the sections of `SECTIONS`, in their order. Words are those outside code, outside *Evidence* (folded on
the page) and outside dropdowns. Charts and visible cells are those before *Exercises*. Hidden code is what no reader
sees: cells with `remove-cell`, `remove-input` or `hide-input`, but for the parameters.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECTIONS = ["In thirty seconds", "The idea", "Do it", "Predicted and seen", "Use it on your model", "Exercises",
            "Evidence"]
WORDS, MEAN_WORDS, CHARTS, CELLS, HIDDEN_LINES, PUBLIC_SHARE = 2000, 1300, 5, 15, 500, 0.6
INVISIBLE = {"remove-cell", "remove-input", "hide-input"}
LIBRARIES = ("lorakit", "peft", "trl")
BLOCK = re.compile(r"^(`{3,}|:{3,})\{?([\w-]*)\}?.*?^\1\s*$", flags=re.DOTALL | re.MULTILINE)
PROSE_BLOCKS = {"admonition", "note", "tip", "important", "warning", "seealso", "figure", "list-table", "grid"}


@dataclass(frozen=True)
class Shape:
    """The numbers of one chapter; `public` of its `cells` call lorakit, PEFT or TRL."""

    sections: tuple[str, ...]
    words: int
    charts: int
    cells: int
    public: int
    hidden_lines: int


def shape_of(path: Path) -> Shape:
    """The numbers of a chapter from its source."""
    import jupytext

    section, sections, words, charts, cells, public, hidden = "", [], 0, 0, 0, 0, 0
    names: set[str] = set()
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
                if part.startswith("## "):
                    section = part.partition("\n")[0][3:].strip()
                    sections.append(section)
                words += len(prose(part).split()) if section != "Evidence" else 0
            continue
        tags = set(cell.metadata.get("tags", []))
        calls = _calls_public(cell.source, names)
        if INVISIBLE & tags:
            hidden += 0 if "parameters" in tags else sum(bool(line.strip()) for line in cell.source.splitlines())
        elif section not in ("Exercises", "Evidence") and "hide-cell" not in tags:
            cells, public = cells + 1, public + calls
        if section not in ("Exercises", "Evidence") and ("mystnb" in cell.metadata or _draws(cell.source)):
            charts += 1
    return Shape(tuple(sections), words, charts, cells, public, hidden)


def prose(markdown: str) -> str:
    """The words of a piece of Markdown: no code, no dropdown, no role, no formula, no directive line."""
    def kept(match: re.Match[str]) -> str:
        return prose(re.sub(r"^(?:`{3,}|:{3,}).*$|^:[\w-]+:.*$", "", match.group(), flags=re.MULTILINE)) if (
            match.group(2) in PROSE_BLOCKS and "dropdown" not in match.group().partition("\n\n")[0]) else ""

    text = BLOCK.sub(kept, markdown)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    return re.sub(r"\{[\w:]+\}`[^`]*`|\$[^$]+\$|^\(.*\)=$|[#>*|]+", "x", text, flags=re.MULTILINE)


def _draws(source: str) -> bool:
    return ".plot." in source or "plots." in source


def _calls_public(source: str, names: set[str]) -> bool:
    """Whether a cell calls lorakit, PEFT or TRL, or a method of what such a call gave (`names` grows with it)."""
    try:
        tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))
    except SyntaxError:
        return False
    called = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((a.asname or a.name).partition(".")[0] for a in node.names
                         if a.name.partition(".")[0] in LIBRARIES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
            names.update(alias.asname or alias.name for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (_root(node.func) in names or _is_sweep(node)):
            called = True
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any((isinstance(n, ast.Name) and n.id in names) or
                                                (isinstance(n, ast.Call) and _is_sweep(n))
                                                for n in ast.walk(node.value)):
            names.update(n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    return called


def _root(node: Any) -> str | None:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_sweep(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "sweep" and _root(call) == "page"


def main() -> None:
    """Print the numbers of the chapters that are named."""
    for path in map(Path, sys.argv[1:]):
        found = shape_of(path)
        missing = [name for name in SECTIONS if name not in found.sections]
        print(f"{path.stem}: {found.words} words, {found.charts} charts, {found.cells} visible cells ({found.public} "
              f"call the libraries), {found.hidden_lines} hidden lines"
              + (f"; lacks {', '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    main()
