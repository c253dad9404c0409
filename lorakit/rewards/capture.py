"""A function of a notebook or a script as a file of its own: its source, and what it uses of its globals."""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lorakit.codehash import source_hash
from lorakit.durable import write_whole
from lorakit.local_models import cache_folder

INSTEAD = "or write the reward into a file of its own, such as my_rewards.py, and import it from there"


class CaptureError(ValueError):
    """A function cannot be taken out of the notebook or script that it is defined in."""


def importable(value: Any) -> bool:
    """Whether another process would get the same function or class by importing its module."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    return module != "__main__" and getattr(sys.modules.get(module or ""), name, None) is value


def store(function: FunctionType) -> str:
    """Write the source of a function into the cache and return its hash; raises as `captured` does."""
    source = captured(function)
    pin = source_hash({function.__name__: source})
    write_whole(cache_folder() / "rewards" / f"{pin}.py", source)
    return pin


def stored(pin: str) -> str | None:
    """The file of a function that `store` has written on this machine."""
    file = cache_folder() / "rewards" / f"{pin}.py"
    return str(file) if file.exists() else None


def load(file: str) -> Any:
    """The module of a stored file."""
    spec = importlib.util.spec_from_file_location(f"lorakit_reward_{Path(file).stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def captured(function: FunctionType) -> str:
    """Python source that defines the function by its own name, with all that it needs.

    What it uses may be modules, functions and classes that can be imported, functions beside it, which are captured as
    well, and constants (numbers, text, regular expressions, and lists, tuples, sets and mappings of them), whose values
    of now are written down; so are those that a function made by another one closes over.

    Raises:
        CaptureError: a lambda, a decorated function or an object, one whose source is not to be had or has changed, or
            one that uses anything else.
    """
    lines: dict[str, str] = {}
    future: list[bool] = []
    _capture(function, lines, future, {})
    return ("from __future__ import annotations\n\n" if any(future) else "") + "\n".join(lines.values()) + "\n"


def _capture(function: FunctionType, lines: dict[str, str], future: list[bool], found: dict[str, FunctionType]) -> None:
    name = function.__name__
    found[name] = function
    source, lazy = _source(function)
    future.append(lazy)
    closed = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()),
                      strict=True))
    for used in sorted(set(_loaded(_compiled(source, lazy))) - closed.keys() - {name}):
        if used in function.__globals__:
            _capture_global(used, function, lines, future, found)
        elif not hasattr(builtins, used):
            raise CaptureError(f"{name} uses {used}, which is not defined: define it first, {INSTEAD}")
    if closed:
        values = ", ".join(f"{variable}={_literal(variable, value, name)}" for variable, value in closed.items())
        source = (f"def _with_{name}({', '.join(closed)}):\n{textwrap.indent(source, '    ')}\n    return {name}\n\n\n"
                  f"{name} = _with_{name}({values})\n")
    lines[name] = f"\n\n{source.rstrip()}"


def _capture_global(used: str, function: FunctionType, lines: dict[str, str], future: list[bool],
                    found: dict[str, FunctionType]) -> None:
    """Add what a global name of a function stands for to the lines."""
    value, by = function.__globals__[used], function.__name__
    if isinstance(value, FunctionType) and (value.__module__ == function.__module__ or not importable(value)):
        if value.__name__ != used or found.get(used, value) is not value:
            raise CaptureError(f"{by} uses {used}, which is {value.__name__} under another name: call it by its own, "
                               f"{INSTEAD}")
        if used not in found:
            _capture(value, lines, future, found)
        return
    if isinstance(value, ModuleType):
        line = f"import {value.__name__} as {used}"
    elif importable(value) and value.__module__ != function.__module__:
        line = f"from {value.__module__} import {value.__qualname__} as {used}"
    else:
        line = f"{used} = {_literal(used, value, by)}"
    if lines.setdefault(used, line) != line:
        raise CaptureError(f"{by} and a function that it calls use two different {used}: rename one, {INSTEAD}")


def _source(function: FunctionType) -> tuple[str, bool]:
    """A function's source from its `def` on, and whether its annotations stay text; refused unless it is its code."""
    name = function.__name__
    if name == "<lambda>":
        raise CaptureError(f"the reward is a lambda, which has no name: write it as a `def`, {INSTEAD}")
    if hasattr(function, "__wrapped__"):
        raise CaptureError(f"{name} is decorated: call what the decorator adds in the function itself, {INSTEAD}")
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise CaptureError(f"the source of {name} is not to be had (typed into a shell, or made by exec): define it in "
                           f"a cell of a notebook or in a script, {INSTEAD}") from None
    lazy = bool(function.__code__.co_flags & __future__.annotations.compiler_flag)
    free = ", ".join(function.__code__.co_freevars)
    try:
        tree = ast.parse(source)
        whole = f"def _({free}):\n{textwrap.indent(source, ' ')}" if free else source
        found = [code for code in _codes(_compiled(whole, lazy)) if code.co_name == name]
    except SyntaxError:
        tree, found = ast.Module([], []), []
    if len(tree.body) != 1 or not found or _steps(found[0]) != _steps(function.__code__):
        raise CaptureError(f"the source of {name} is not what runs: it has changed since, or a decorator replaced it; "
                           f"define it again, {INSTEAD}")
    return source, lazy


def _compiled(source: str, lazy: bool) -> CodeType:
    code: CodeType = compile(source, "<reward>", "exec", dont_inherit=True,
                             flags=__future__.annotations.compiler_flag if lazy else 0)
    return code


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _steps(code: CodeType) -> list[tuple[str, Any]]:
    """What the code does, whether or not the modules that it uses were imported in the same cell."""
    return [(step.opname.replace("METHOD", "ATTR"),
             None if "JUMP" in step.opname or isinstance(step.argval, CodeType) else repr(step.argval))
            for one in (code, *_codes(code)) for step in dis.get_instructions(one)
            if step.opname not in ("PUSH_NULL", "PRECALL", "EXTENDED_ARG", "FOR_ITER", "SEND")]


def _loaded(code: CodeType) -> Iterator[str]:
    """Names that the code looks up outside itself."""
    for one in (code, *_codes(code)):
        for step in dis.get_instructions(one):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield str(step.argval)


def _literal(name: str, value: Any, by: str) -> str:
    """A constant as source."""
    if isinstance(value, re.Pattern):
        return f"__import__('re').compile({value.pattern!r}, {int(value.flags)})"
    try:
        text = repr(value)
        if ast.literal_eval(text) == value and type(ast.literal_eval(text)) is type(value):
            return text
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise CaptureError(f"{by} uses {name}, a {type(value).__name__}, which no other process can be given: take a "
                       f"module, a function or a constant, build it inside the function, {INSTEAD}")
