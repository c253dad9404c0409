"""Parameters of a chapter: read from the command line, and compared with those that its first cell names."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.names import near


class ParameterError(ValueError):
    """A chapter or a parameter was named that does not exist, or has a value that is not allowed."""


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Values of `-p name=value`: a Python literal where it is one, else the text itself.

    >>> parse_parameters(["rank=4", "profile=gpu", "ranks=[1, 2]"])
    {'rank': 4, 'profile': 'gpu', 'ranks': [1, 2]}
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterError(f"parameter {pair!r} cannot be read; write name=value, such as size=live")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value, if it is one of those allowed; else a ParameterError that names them and the nearest."""
    if value not in allowed:
        raise ParameterError(f"{name}={value!r}; {near(value, allowed)}allowed: {', '.join(allowed)}")
    return value


def check_parameters(chapter: str, notebook: Any, passed: Mapping[str, Any]) -> None:
    """Papermill only warns of an unknown parameter, and the run would go on with another value than asked for."""
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code" and "parameters" in c["metadata"].get("tags", ())]
    if len(cells) != 1:
        raise ParameterError(f"chapter {chapter} has {len(cells)} cells tagged 'parameters'; it needs one, with "
                             'profile = "cpu" and size = "record"')
    tree = ast.parse(cells[0]["source"])
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    known = [target.id for target in targets if isinstance(target, ast.Name)]
    defaults = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant)}
    for name, value in passed.items():
        if name not in known:
            raise ParameterError(f"chapter {chapter} has no parameter {name!r}; {near(name, known)}"
                                 f"its parameters: {', '.join(known)}")
        default = defaults[name].value if name in defaults else None
        alike = (int, float) if type(default) is float else type(default)
        fits = isinstance(value, alike) and isinstance(value, bool) == isinstance(default, bool)
        if default is not None and not fits:
            raise ParameterError(f"chapter {chapter}: {name}={value!r} is a {type(value).__name__}; allowed: a "
                                 f"{type(default).__name__}, such as {default!r}")
