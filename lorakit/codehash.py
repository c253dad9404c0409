"""The hash of what Python files do: it names a reward by its file, and tells when notebooks must run again."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any


def code_hash(modules: Sequence[str | Path]) -> str:
    """16 hex digits of the hash of what the modules do: comments, docstrings and layout do not count.

    The syntax tree is hashed, in a form of our own, because `ast.dump` differs between Python versions;
    names of files and the order of the modules do not enter.

    Args:
        modules: dotted names (a package stands for all its modules; nothing is imported), or paths of
            Python files and folders.

    Raises:
        ValueError: no modules.
        ModuleNotFoundError: a name or path with no source.

    >>> code_hash(["lorakit.specs"]) == code_hash([Path(importlib.util.find_spec("lorakit.specs").origin)])
    True
    """
    if isinstance(modules, str) or not list(modules):
        raise ValueError(f"modules={modules!r}; give a non-empty list of module names or paths")
    files = {file.resolve() for module in modules for file in _sources(module)}
    return source_hash({str(file): file.read_text(encoding="utf-8") for file in files})


def source_hash(sources: Mapping[str, str]) -> str:
    """The same of sources by the name of their file, which is for messages alone."""
    digests = sorted(_source_digest(source, file) for file, source in sources.items())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _sources(module: str | Path) -> list[Path]:
    path = Path(module) if isinstance(module, Path) or module.endswith(".py") else _locate(module)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise ModuleNotFoundError(f"no Python source for {str(module)!r}; give a dotted module name or a path")
    return files


def _locate(name: str) -> Path:
    """The file or folder of a module, found without importing its parents (they might import torch)."""
    first, *rest = name.split(".")
    top = importlib.util.find_spec(first) if first else None
    if top is None or top.origin is None:
        raise ModuleNotFoundError(f"no Python source for {name!r}; give a dotted module name or a path")
    if top.submodule_search_locations is None:
        return Path(top.origin)
    folder = Path(top.origin).parent.joinpath(*rest)
    return folder if folder.is_dir() else folder.with_name(folder.name + ".py")


@cache
def _source_digest(source: str, file: str) -> str:
    return hashlib.sha256(_canonical(ast.parse(source, filename=file)).encode()).hexdigest()


def _canonical(node: Any) -> str:
    """A tree as text. Empty and absent fields are left out, so a field that a newer Python adds changes nothing."""
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node)}]"
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}:{node.value!a}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr[{','.join(_joined(node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    parts = []
    for name, value in sorted(ast.iter_fields(node)):
        if isinstance(value, list):
            value = [item for item in value if not _is_text(item)]
        if name not in ("ctx", "type_comment") and value is not None and value != []:
            parts.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_text(node: Any) -> bool:
    """A docstring, or any other string that stands alone as a statement and so does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(node: ast.JoinedStr) -> list[str]:
    """The parts of an f-string; Pythons differ in how they cut its plain text, so neighbours are put together."""
    parts = []
    for plain, values in groupby(node.values, key=lambda value: isinstance(value, ast.Constant)):
        if plain:
            text = "".join(str(value.value) for value in values if isinstance(value, ast.Constant))
            parts += [f"str:{text!a}"] if text else []
        else:
            parts += [_canonical(value) for value in values]
    return parts
