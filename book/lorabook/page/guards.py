"""The guards of the chapters, read from their source: every sentence that stops the build, with its threshold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lorakit.markdown import cell

CODE = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```\s*$", re.DOTALL | re.MULTILINE)
OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[\w-]+:[^\n]*\n)+)", re.DOTALL | re.MULTILINE)
HEAD = """# Guards

This page is written anew at every build, from the chapters' source.

A sentence that the records decide is not left to our memory. Each of those below stands in a chapter, in a caption or
in its prose, beside a condition on the records. Where the condition fails, the book is not built. Conditions are
printed as the chapters have them; every number in them is a threshold that we chose with the records in view, after the
rules of the {doc}`claims`, which were fixed before.
"""


@dataclass(frozen=True)
class Guard:
    """One sentence that stops the build.

    Args:
        words: the sentence in short.
        condition: the Python expression that has to be true.
    """

    words: str
    condition: str


def guards_of(markdown: str) -> list[Guard]:
    """The guards of a chapter's source, in its order.

    Args:
        markdown: MyST with code cells.

    >>> cell = ":tags: [x]\\n\\npage.says(lambda: gap.high < 0.02, 'rank 1 is behind')"
    >>> guards_of(f"```{{code-cell}} ipython3\\n{cell}\\n```\\n")
    [Guard(words='rank 1 is behind', condition='gap.high < 0.02')]
    """
    found = []
    for source in CODE.findall(markdown):
        calls = [node for node in ast.walk(ast.parse(OPTIONS.sub("", source))) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
            found += _guards(call)
    return found


def _guards(call: ast.Call) -> list[Guard]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "says" and len(call.args) == 2:
        condition, words = call.args
        body = condition.body if isinstance(condition, ast.Lambda) else condition
        return [Guard(_text(words), ast.unparse(body))]
    if name == "expect_verdict":
        return [Guard(f"the verdict on {_text(call.args[0])}", ast.unparse(call.args[1]))]
    if name == "expect":
        return [Guard(f"the verdict on {(word.arg or '').replace('_', '-')}", ast.unparse(word.value))
                for word in call.keywords]
    return []


def _text(words: ast.expr) -> str:
    """The sentence; what a loop puts into it stands in braces."""
    if isinstance(words, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
                       for part in words.values if isinstance(part, ast.Constant | ast.FormattedValue))
    return str(words.value) if isinstance(words, ast.Constant) else ast.unparse(words)


def guards_page(chapters: Iterable[Path]) -> str:
    """The page as MyST text: a section a chapter that has guards."""
    parts = [HEAD]
    for path in chapters:
        found = guards_of(path.read_text(encoding="utf-8"))
        if found:
            lines = [f"- {cell(guard.words)}: `{guard.condition}`" for guard in found]
            parts.append(f"## {{doc}}`{path.stem}`\n\n{len(found)} guards.\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)
