"""Whether two answers say the same: element by element, each value with its unit, each equation by what it states."""

from __future__ import annotations

from typing import Any

import sympy

from lorakit.rewards.notation import UnreadableError, spelled, tokens
from lorakit.rewards.readings import Element, Measure, Reading, read, worded
from lorakit.rewards.values import Group, Words, equal, matched, points, same_value, vanishes

PERCENT, DEGREES = frozenset([("percent", 1)]), frozenset([("angle", 1)])


def decide(given: str, answer: str) -> str:
    """`right`, `wrong`, `unreadable` (given) or `ungradable` (answer)."""
    try:
        wanted = read(answer)
    except UnreadableError:
        return "right" if same_signs(given, answer) else "ungradable"
    try:
        found = read(given)
    except UnreadableError:
        return "right" if same_signs(given, answer) else "unreadable"
    if holds_words(found) and not holds_words(wanted):  # not even of the answer's kind
        return "unreadable"
    return "right" if same(wanted, found) else "wrong"


def holds_words(reading: Reading) -> bool:
    """Whether an answer says anything in words."""
    return any(isinstance(m, Measure) and isinstance(m.value, Words) for e in reading.elements for m in e.measures)


def same_signs(given: str, answer: str) -> bool:
    """Whether two texts are the same signs in the same order, whatever they mean."""
    try:
        return tokens(spelled(given)) == tokens(spelled(answer))
    except UnreadableError:
        return False


def same_measure(wanted: Measure, found: Measure) -> bool:
    """Whether two quantities are equal; a unit may be left out, or added where the right answer has none."""
    a, b, u, v = wanted.value, found.value, wanted.unit, found.unit
    if isinstance(a, Words) and not isinstance(b, Words):
        b = worded(found.raw) or b
    if v is not None and not v.known and u != v:
        return False
    if u is not None and v is not None:
        return u.dimensions == v.dimensions and equal(a * sympy.Rational(u.factor), b * sympy.Rational(v.factor))
    if u is not None and u.dimensions == DEGREES and b.has(sympy.pi):  # radians
        return equal(a * sympy.pi / 180, b)
    if v is not None and v.dimensions == DEGREES and a.has(sympy.pi):
        return equal(a, b * sympy.pi / 180)
    if u is not None and u.dimensions == PERCENT and equal(a / 100, b):
        return True
    if v is not None and v.dimensions == PERCENT:
        small = a.is_number and a.is_real and abs(a) <= 1
        return equal(a, b / 100) or (not small and equal(a, b))
    return equal(a, b)


def same(wanted: Reading, found: Reading) -> bool:
    """Whether two answers say the same."""
    a, b = wanted.elements, found.elements
    joints = ("or" in wanted.joints) == ("or" in found.joints)
    if len(a) != len(b):
        joints = "and" not in wanted.joints | found.joints
        a, b = one_by_one(a, b), one_by_one(b, a)
    if len(a) != len(b):
        return False
    choices = len(a) > 1 and any(e.kind == "relation" or isinstance(e.measures[0].value, Words | sympy.Symbol)
                                 for e in (*a, *b) if e.kind != "equation")
    if choices and not joints:
        return False
    bare = {True: [e for e in a if e.kind == "value"], False: [e for e in b if e.kind == "value"]}
    for named, other, values in ((a, b, bare[False]), (b, a, bare[True])):
        if len(values) == len(other) and all(e.kind == "assigned" for e in named) \
                and len({str(e.name).partition("_")[0] for e in named}) == len(named) > 1:  # x = 2, y = 3 for 2, 3
            return all(same_element(x, y) for x, y in zip(a, b, strict=True))
    return matched(a, b, same_element)


def one_by_one(elements: tuple[Element, ...], others: tuple[Element, ...]) -> tuple[Element, ...]:
    """One group as the elements that it holds, where the other answer has them one by one; anything else as it is.

    `(x, y) = (1, 2)` is `x = 1, y = 2`, and so is `(1, 2)` beside it; a union of intervals is `x < 1 or x > 2`.
    """
    value = elements[0].measures[0].value if elements and isinstance(elements[0].measures[0], Measure) else None
    if len(elements) != 1 or not isinstance(value, Group) or len(value.items) != len(others):
        return elements
    name, kinds = elements[0].name, {other.kind for other in others}
    if isinstance(name, Group) and len(name.items) == len(others):
        return tuple(Element("assigned", (Measure(v),), n) for n, v in zip(name.items, value.items, strict=True))
    if (value.kind == "()" and kinds == {"assigned"}) or (value.kind == r"\cup" and kinds == {"relation"}):
        return tuple(Element("value", (Measure(item),)) for item in value.items)
    return elements


def same_element(wanted: Element, found: Element) -> bool:
    """Whether two elements say the same; `x = 5` and `5` do, `x = 5` and `y = 5` do not."""
    kinds = (wanted.kind, found.kind)
    if kinds in (("value", "value"), ("value", "assigned"), ("assigned", "value")):
        return same_measure(wanted.measures[0], found.measures[0])
    if kinds == ("assigned", "assigned"):
        return equal(wanted.name, found.name) and same_measure(wanted.measures[0], found.measures[0])
    if kinds == ("relation", "relation"):
        return matched(wanted.measures, found.measures, same_inequality)
    if "relation" in kinds:
        a, b = as_interval(wanted), as_interval(found)
        return isinstance(a, Group) and isinstance(b, Group) and equal(a, b)
    if "equation" in kinds and "value" not in kinds:
        return same_equation(wanted, found)
    return False


def same_equation(wanted: Element, found: Element) -> bool:
    """Whether one equation is a multiple of the other; an answer that is solved is equal to a solved one alone."""
    if wanted.kind == "assigned":
        value, name = wanted.measures[0].value, wanted.name
        if not isinstance(value, sympy.Expr) or not value.free_symbols or wanted.measures[0].unit is not None:
            return False
        left, right = found.measures[1:]
        if left.free_symbols == {name} or right.free_symbols == {name}:  # 2y = 4x + 2 is not solved for y
            return False
        return proportional(name - value, found.measures[0])
    if found.kind == "assigned":
        if isinstance(found.name, Group) or not isinstance(found.measures[0].value, sympy.Expr):
            return False
        return proportional(wanted.measures[0], found.name - found.measures[0].value)
    return proportional(wanted.measures[0], found.measures[0])


def same_inequality(a: tuple[Any, str], b: tuple[Any, str]) -> bool:
    """Whether two differences, each with its relation to 0, state the same."""
    return a[1] == b[1] and proportional(a[0], b[0], positive=a[1] != "!=")


def proportional(a: Any, b: Any, positive: bool = False) -> bool:
    """Whether one expression with variables is a constant times the other, other than 0."""
    variables = sorted(a.free_symbols | b.free_symbols, key=str)
    if not a.free_symbols or not b.free_symbols:
        return False
    for point in points(variables, str(a)):
        here, there = a.xreplace(point), b.xreplace(point)
        if here.has(sympy.nan, sympy.zoo) or there.has(sympy.nan, sympy.zoo) or vanishes(here) or vanishes(there):
            continue
        if positive and not (here / there).evalf(20).is_positive:
            return False
        return same_value(a * there, b * here)
    return False


def as_interval(element: Element) -> Any:
    """The interval that an inequality in one variable describes, if it is written as one: `1 < x`, `1 < x < 2`."""
    if element.kind != "relation":
        return element.measures[0].value if element.kind == "value" else None
    low: Any = (-sympy.oo, "(")
    high: Any = (sympy.oo, ")")
    variables = set().union(*(difference.free_symbols for difference, _ in element.measures))
    if len(variables) != 1 or len(element.measures) > 2:
        return None
    (x,) = variables
    for difference, relation in element.measures:
        if relation == "!=" or difference.diff(x) not in (1, -1):
            return None
        end = difference.xreplace({x: sympy.Integer(0)})
        if difference.diff(x) == 1:
            low = (-end, "(" if relation == "<" else "[")
        else:
            high = (end, ")" if relation == "<" else "]")
    return Group(low[1] + high[1], (low[0], high[0]))
