"""The code hash sees what code does and nothing else."""

import pytest

from lorakit.codehash import code_hash

SOURCE = '''
"""What the module is for."""
import math


class Layer:
    """What the class is for."""

    size: int = 3

    def scale(self, x, *, by=2.0):
        """What the method does."""
        # why it does so
        return {"x": math.sqrt(x * by), **{}}[f"{'x'!s:>{1}}"]


async def empty():
    """Nothing but a docstring."""
'''

SAME = {
    "comments": SOURCE.replace("# why it does so", "# another reason\n        # of two lines"),
    "no comments": SOURCE.replace("        # why it does so\n", ""),
    "docstrings": SOURCE.replace("What the", "A word on what the").replace("Nothing but", "Only"),
    "no class docstring": SOURCE.replace('    """What the class is for."""\n\n', ""),
    "a docstring of an attribute": SOURCE.replace("size: int = 3\n", 'size: int = 3\n    """In units."""\n'),
    "layout": SOURCE.replace("math.sqrt(x * by)", "(math.sqrt(\n            x*by,\n        ))").replace('"x"', "'x'"),
    "line ends": SOURCE.replace("\n", "\r\n"),
}
OTHER = {
    "a number": SOURCE.replace("2.0", "2"),
    "a string": SOURCE.replace('{"x"', '{"y"'),
    "a format": SOURCE.replace(":>", ":<"),
    "an operator": SOURCE.replace("x * by", "x + by"),
    "a keyword-only mark": SOURCE.replace("*, by", "by"),
    "an annotation": SOURCE.replace("size: int", "size: float"),
    "a name": SOURCE.replace("by", "times"),
    "a literal in quotes": SOURCE.replace("2.0", '"2.0"'),
    "the order": SOURCE.replace("class Layer", "import json\nclass Layer"),
}


def hash_of(folder, source, name="module.py"):
    path = folder / name
    path.write_bytes(source.encode())
    return code_hash([path])


@pytest.mark.parametrize("edit", SAME)
def test_an_edit_that_changes_no_behaviour_keeps_the_hash(tmp_path, edit):
    assert SAME[edit] != SOURCE
    assert hash_of(tmp_path, SAME[edit]) == hash_of(tmp_path, SOURCE)


@pytest.mark.parametrize("edit", OTHER)
def test_an_edit_that_changes_behaviour_changes_the_hash(tmp_path, edit):
    assert OTHER[edit] != SOURCE
    assert hash_of(tmp_path, OTHER[edit]) != hash_of(tmp_path, SOURCE)


EVERY_SYNTAX = '''
from __future__ import annotations
from . import a as b
import c.d
x: int = -1; y = z = 1e-9, 0x10, 1j, b"\\xff", "é\\u2028\\U0001f600", u"u", None, True, ...
def f(a, /, b: int = 1, *args, c=2, d, **kw) -> list[int]:
    global x
    nonlocal_ = [i async for i in g() if i if x]
    return a if b else lambda *q: (yield)
@decorator(1)
class K(B, metaclass=M):
    try:
        with open(p) as h, j: pass
    except* (E, F) as e:
        raise E from None
    else:
        del x[1:2, ::3], y.z
    finally:
        assert 1 < 2 <= 3, "m"
async def m(v):
    match v:
        case {"k": [1, *rest], **others} | K(n=None) if rest: pass
        case -1 | 2.5 | "s" as t: pass
        case _: await v
    while not (w := v[0]) in (u, *t): break
    else:
        for i, *j in {**v, "a": {1, 2}}: continue
s = f"a{x}b" "c" f"{x!r:>{y}.2f}{{}}" f"" f"{x=}" + f"{'d'}" f'{x:%Y-{y}:}' rf"\\d{x}\\n" f"""{
x}"""
t = x @ y // 2 ** -3 << 1 & ~4 | 5 ^ 6; t @= not x or y and z is not None
'''


def test_the_hash_is_the_same_on_every_python(tmp_path):
    assert hash_of(tmp_path, EVERY_SYNTAX) == "0a50e4724828a5b9"


def test_names_paths_and_order_do_not_enter_but_every_file_does(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1\n")
    two.write_text("x = 2\n")
    both = code_hash([one, two])
    assert both == code_hash([two, one, one]) == code_hash([tmp_path])
    assert len({both, code_hash([one]), code_hash([two])}) == 3
    assert hash_of(tmp_path, "x = 1\n", "renamed.py") == code_hash([one])


def test_modules_are_found_by_name_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "some_package" / "inner"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.write_text("raise RuntimeError('imported')\n")
    (package / "leaf.py").write_text("x = 1\n")
    (tmp_path / "single.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert code_hash(["some_package.inner.leaf"]) == code_hash([package / "leaf.py"]) == code_hash(["single"])
    assert code_hash(["some_package.inner"]) == code_hash([package])


@pytest.mark.parametrize("name", ["no_such_module", "lorakit.no_such_module", "no/such/file.py", ""])
def test_a_module_without_source_is_an_error(name):
    with pytest.raises(ModuleNotFoundError, match="dotted module name or a path"):
        code_hash(["lorakit.specs", name])


@pytest.mark.parametrize("modules", [[], "lorakit.specs"])
def test_no_list_of_modules_is_an_error(modules):
    with pytest.raises(ValueError, match="non-empty list"):
        code_hash(modules)
