r"""What an answer says: a list of values, assignments, equations and inequalities, with units, words and bases.

An answer is read as a whole or not at all: `5 \text{ is wrong}` is no 5, because "is wrong" is no unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import sympy

from lorakit.rewards.expressions import Reader
from lorakit.rewards.notation import CURRENCY, UnreadableError, spelled, tokens
from lorakit.rewards.units import Unit, unit
from lorakit.rewards.values import Based, Group, Ratio, Words, equal, scalar

RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in"}
NUMERALS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MOST_WORDS = 4
MOST_ELEMENTS = 12
TEXT = re.compile(r"\\text\s*\{([^{}\\]*)\}")
JOINTS = re.compile(r"(?:,|;)?\s*(?:\\text\s*\{\s*(and|or)\s*\}|(?<![a-zA-Z\\])(and|or)(?![a-zA-Z]))")
WORD = re.compile(r"[a-zA-Z][a-zA-Z'-]*(?: [a-zA-Z][a-zA-Z'-]*)*")
IN_BASE = re.compile(r"\(?(?:\\text ?\{)?([0-9A-F]+)\}?\)?\s*_\s*(?:(\d)|\{\s*(?:base )?(\d+|[a-z]{3,})\s*\}"
                     r"|\{?\s*\\text ?\{\s*(?:base )?(?:\}\s*)?([a-z]+|\d+)\s*\}\s*\}?)")
EXPONENT = r"(?:\^\{?-?\d\}?)?"
BARE = ("mm|cm|km|kg|mg|mL|ml|ft|min|hr|sec|mph|kPa|Hz|kJ|mol|dollars|cents|percent|degrees|hours?|minutes?|seconds?"
        "|meters?")
MEASURED = re.compile(  # a value; units, in \text{} or well known; what stands between them
    rf"(.*?[^\s])\s*((?:\\text\s*\{{[^{{}}\\]*\}}{EXPONENT}|\^\\circ(?:\s*[CF](?![a-zA-Z]))?|[%¢€£¥]"
    rf"|(?<=[\d}}) ])(?:{BARE}){EXPONENT}(?![a-zA-Z])|/(?=\s*\\text)|\s|\\cdot(?=\s*\\text))+)")
PROSE = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{4,}|(?<![\\a-zA-Z])[a-zA-Z]{2,} +[a-zA-Z]{2,}")
QUANTITIES = "area|volume|perimeter|total|sum|product|probability|distance|length|width|height|mean|median|speed|cost"
NAMED = re.compile(  # P(A), T(10), AB, ∠ABC, an area: what no letter of an equation is
    rf"[A-Zpqs]\s*\(\s*(?:\d+|[A-Z])\s*\)|(?:m?\s*\\angle\s*)?[A-Z]{{2,3}}|\\text\s*\{{\s*(?i:{QUANTITIES})\s*\}}")
NAME = re.compile(r"(?:\\[a-zA-Z]+|[a-zA-Z])\s*(?:_.*)?|[fgh]\s*\(.*\)|\(.*\)")
CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?")


@dataclass(frozen=True)
class Measure:
    """A value with its unit; `raw` is how it was written."""

    value: Any
    unit: Unit | None = None
    raw: str = ""


@dataclass(frozen=True)
class Element:
    """One thing that an answer says.

    Args:
        kind: `value` (measures[0]), `assigned` (name = measures[0]), `equation` (measures hold the sides' difference),
            or a relation (`<`, `<=`, `!=`: its chain of differences, each with its relation).
        name: what a value is assigned to.
    """

    kind: str
    measures: tuple[Any, ...]
    name: Any = None


@dataclass(frozen=True)
class Reading:
    """The elements of an answer, what joins them, and whether braces stand around."""

    elements: tuple[Element, ...]
    joints: frozenset[str] = frozenset()


def read(text: str) -> Reading:
    """What an answer says.

    Raises:
        UnreadableError: it is of no form that can be compared.
    """
    text = spelled(text)
    words = worded(text)
    if words is not None and not JOINTS.search(text) and (r"\text" in text or max(map(len, words.text.split())) > 2):
        return Reading((Element("value", (said_in_words(words, text),)),))
    joints = frozenset(a or b for a, b in JOINTS.findall(text))
    pieces = [piece for part in JOINTS.split(text) if part not in ("and", "or", None) for piece in split(part, ",;")[0]]
    if len(pieces) > MOST_ELEMENTS:
        raise UnreadableError("too many elements")
    elements = [element for piece in pieces for element in said(piece)]
    if len(elements) == 1 and elements[0].kind in ("value", "assigned"):
        held, name = elements[0].measures[0].value, elements[0].name
        if isinstance(held, Group) and held.kind == r"\{":
            elements = [Element(elements[0].kind, (Measure(item),), name) for item in held.items]
    if len(elements) > 1 and elements[0].kind == "assigned" and all(e.kind == "value" for e in elements[1:]) \
            and len(pieces) == len(elements):  # n = 1, 2, 3
        elements = [replace(e, kind="assigned", name=elements[0].name) for e in elements]
    return Reading(tuple(elements), joints)


def split(text: str, signs: Iterable[str]) -> tuple[list[str], list[str]]:
    """The text at those signs that stand outside all brackets, and the signs."""
    pieces, found, start, depth = [], [], 0, 0
    for sign in re.finditer(r"\\[{}]|\\(?:begin|end|le|ge|ne|in)(?![a-zA-Z])|\\.|.", text, re.DOTALL):
        token = sign[0]
        if token in ("(", "[", "{", r"\{", r"\begin"):
            depth += 1
        elif token in (")", "]", "}", r"\}", r"\end"):
            depth -= 1
        elif depth == 0 and token in signs:
            pieces.append(text[start : sign.start()])
            found.append(token)
            start = sign.end()
    return [*pieces, text[start:]], found


def worded(text: str) -> Words | None:
    """The words that the text is, if it is nothing else; parentheses and a full stop around them do not count."""
    plain = TEXT.sub(r"\1", text).strip()
    plain = plain.removesuffix(".").strip()
    if plain.endswith(")") and plain.count("(") == plain.startswith("("):
        plain = plain.strip("()").strip()
    plain = re.sub(r"\s+", " ", plain)
    letters = WORD.fullmatch(plain) is not None and len(plain.split()) <= MOST_WORDS
    return Words(plain) if letters and (len(plain) > 1 or r"\text" in text) else None


def said_in_words(words: Words, text: str) -> Measure:
    """Words as a value; one letter alone is that letter, whether it stands in \\text or not."""
    return Measure(words if len(words.text) > 1 else Reader([words.text]).read(), raw=text)


def said(text: str) -> list[Element]:
    """What one piece of an answer says: two things if it holds a ±."""
    upper, both = element(text, 1)
    return [upper, element(text, -1)[0]] if both else [upper]


def element(text: str, sign: int) -> tuple[Element, bool]:
    """What a piece says where ± is `sign`, and whether there is a ±."""
    sides, signs = split(text, RELATIONS)
    relations = [RELATIONS[token] for token in signs]
    measures = [measure(side, sign) if n or set(relations) != {"="} or not NAMED.fullmatch(side.strip())
                else (Measure(sympy.Symbol(side.strip()), raw="x"), False) for n, side in enumerate(sides)]
    both = any(m[1] for m in measures)
    return related([m[0] for m in measures], relations), both


def measure(text: str, sign: int) -> tuple[Measure, bool]:
    """A value with its unit, and whether there is a ±."""
    text = text.strip()
    words = worded(text)
    if words is not None and r"\text" in text:
        return said_in_words(words, text), False
    based = in_base(text)
    if based is not None:
        return Measure(based, raw=text), False
    body, found = text, None
    money = re.fullmatch(rf"([-+]?)\s*([{CURRENCY}])\s*([-+\d.\\].*)", text)
    measured = MEASURED.fullmatch(text)
    if money is not None:
        amount, found = measure(money[1] + money[3], sign)[0], unit(money[2])
        if amount.unit not in (None, found):
            raise UnreadableError("two units")
        return replace(amount, unit=found, raw=text), False
    elif measured is not None and not (measured[2].strip() == r"^\circ" and re.search(r"\\[a-z]{3}", measured[1])):
        body, rest = measured[1], TEXT.sub(r" \1 ", measured[2]).replace("} ^", "^").replace(" ^", "^").strip()
        first, _, after = rest.partition(" ")
        found = unit(after if first in SCALES else rest)
        if first in SCALES:
            inner = measure(body, sign)[0]
            if inner.unit is not None or (after and found is None):
                raise UnreadableError(f"{rest} is no unit")
            return Measure(scalar(inner.value) * SCALES[first], found, text), False
        if found is None and not (":" in body and re.fullmatch(r"\s*[ap]\.?\s?m\.?\s*", TEXT.sub(r"\1", measured[2]))):
            raise UnreadableError(f"{measured[2]} is no unit")
    if ":" in body:
        return ratio(body, TEXT.sub(r"\1", measured[2]) if measured is not None else ""), False
    if PROSE.search(TEXT.sub(" ", body)):
        raise UnreadableError("prose")
    reader = Reader(tokens(body), sign)
    value = reader.read()
    if found is not None:
        scalar(value)
    return Measure(value, found, text), reader.both


def ratio(body: str, rest: str) -> Measure:
    """Numbers with colons between them; `rest` says whether they are hours before or after noon."""
    parts = tuple(scalar(Reader(tokens(part)).read()) for part in body.split(":"))
    clock = CLOCK.fullmatch(body.replace(" ", ""))
    suffix = rest.lower().replace(".", "").replace(" ", "")
    return Measure(Ratio(parts, ":".join([str(int(clock[1])), *filter(None, clock.groups()[1:])]) + suffix
                         if clock else ""))


def in_base(text: str) -> Based | None:
    """Digits with their base, such as `1010_2` or `1A_{16}`; letters with a subscript are a variable's name."""
    found = IN_BASE.fullmatch(text)
    if found is None:
        return None
    written = found[2] or found[3] or found[4]
    if not written.isdigit() and written not in NUMERALS:
        return None
    base = int(written) if written.isdigit() else NUMERALS.index(written) + 2
    digits = found[1].lstrip("0") or "0"
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits):
        if digits.isalpha():
            return None
        raise UnreadableError(f"{digits} is no number of base {base}")
    return Based(digits, base)


def is_name(value: Any) -> bool:
    """Whether a value is what something is assigned to: a letter, f(…), or a tuple of letters."""
    if isinstance(value, Group):
        return value.kind == "()" and all(isinstance(item, sympy.Symbol) for item in value.items)
    return isinstance(value, sympy.Symbol | sympy.core.function.AppliedUndef)


def letters(value: Any) -> set[Any]:
    """The variables of a value."""
    if isinstance(value, Group):
        return set().union(*(letters(item) for item in value.items)) if value.items else set()
    return set(value.free_symbols) if isinstance(value, sympy.Basic) else set()


def names(measure: Measure, others: list[Any]) -> bool:
    """Whether a side is a name that the other sides do not use; P(A) is one, f(x) only of what depends on x.

    How it is written counts: `x + 0 = 5` is no more solved than `x + 1 = 6`.
    """
    value = measure.value
    if measure.unit is not None or NAME.fullmatch(measure.raw) is None:
        return False
    used = set().union(*(letters(other) for other in others))
    if isinstance(value, sympy.core.function.AppliedUndef):
        return not letters(value) or bool(letters(value) & used)
    return is_name(value) and not letters(value) & used


def related(measures: list[Measure], relations: list[str]) -> Element:
    """The element that sides and the relations between them make."""
    values = [m.value for m in measures]
    if not relations:
        return Element("value", (measures[0],))
    if relations == ["in"] and is_name(values[0]) and isinstance(values[1], Group):
        return Element("value", (measures[1],))
    if set(relations) == {"="}:
        if names(measures[0], values[1:]):
            name, rest = values[0], measures[1:]
        elif len(values) == 2 and names(measures[1], values[:1]) and not is_name(values[0]):
            name, rest = values[1], measures[:1]
        elif len({" ".join(tokens(m.raw)) for m in measures}) == 1:  # 5 = 5
            raise UnreadableError("an equation that says nothing")
        else:
            name, rest = None, measures
        if len(rest) == 1 or all(equal(a.value, b.value) for a, b in pairwise(rest)):
            units = {m.unit for m in rest[:-1]} - {None, rest[-1].unit}
            if units:
                raise UnreadableError("a chain with different units")
            return Element("assigned" if name is not None else "value", (rest[-1],), name)
        if len(measures) == 2 and all(m.unit is None for m in measures):
            left, right = scalar(values[0]), scalar(values[1])
            return Element("equation", (left - right, left, right))
        raise UnreadableError("a chain whose sides differ")
    if any(m.unit is not None for m in measures) or "in" in relations or "=" in relations:
        raise UnreadableError("a relation that is not compared")
    chain = []
    for left, right, relation in zip(values, values[1:], relations, strict=False):
        ascending = relation in ("<", "<=", "!=")
        difference = scalar(right) - scalar(left) if ascending else scalar(left) - scalar(right)
        chain.append((difference, relation.replace(">", "<")))
    return Element("relation", tuple(chain))
