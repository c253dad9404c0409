"""Values that answers have, and whether two are equal: exact where both are rational, elsewhere to 400 digits.

Expressions with variables are compared at points; what is not a number or an expression, part by part.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from lorakit.rewards.notation import GREEK, UnreadableError

POINTS, ENOUGH = 16, 3
DIGITS = 400
LARGEST_EXPONENT, LARGEST_POWER = 9999, 200_000  # bits of an exact power
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "exp": sympy.exp, "lg": lambda x: sympy.log(x) / sympy.log(10),
    # \log without a base is ten's, two's or e's: it is compared with itself alone
    "log": lambda x: sympy.log(x) * sympy.Symbol("base of the logarithm", positive=True)}
INVERSE = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan}
CONSTANTS = {r"\pi": sympy.pi, r"\infty": sympy.oo, "e": sympy.E, "i": sympy.I, r"\imath": sympy.I}
LETTERS = {rf"\{name}" for name in GREEK.values()} | {r"\ell", r"\hbar"}
UNORDERED = (r"\{", r"\cup", r"\cap")


@dataclass(frozen=True)
class Group:
    """A tuple, an interval, a set in braces, a union: its kind (the brackets) and what it holds."""

    kind: str
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Words:
    """A name, a choice, yes or no."""

    text: str


@dataclass(frozen=True)
class Based:
    """Digits in a number base that the answer names."""

    digits: str
    base: int


@dataclass(frozen=True)
class Ratio:
    """Numbers with colons between them; `clock` if they read like a time of the day."""

    parts: tuple[Any, ...]
    clock: str = ""


def scalar(value: Any) -> Any:
    """The value, if it can be reckoned with."""
    if not isinstance(value, sympy.Expr) or value is sympy.nan or value is sympy.zoo:
        raise UnreadableError("not a number or an expression")
    return value


def divided(top: Any, bottom: Any) -> Any:
    """The quotient; there is none by 0."""
    if bottom == 0:
        raise UnreadableError("a division by 0")
    return top / bottom


def raised(base: Any, exponent: Any) -> Any:
    """The power, unless it is too large to be an answer."""
    if exponent.is_number and exponent.is_comparable and abs(exponent) > LARGEST_EXPONENT:
        raise UnreadableError("too large an exponent")
    if base.is_Rational and exponent.is_Integer:
        if base == 0 and exponent < 0:
            raise UnreadableError("a division by 0")
        if max(int(base.p).bit_length(), int(base.q).bit_length()) * abs(int(exponent)) > LARGEST_POWER:
            raise UnreadableError("too large a power")
    return base**exponent


def equal(a: Any, b: Any) -> bool:
    """Whether two values of any kind are the same, `a` being the right one."""
    if isinstance(a, Words) or isinstance(b, Words):
        return isinstance(a, Words) and isinstance(b, Words) and same_words(a.text, b.text)
    if isinstance(a, Based) or isinstance(b, Based):
        return bool(a == b)
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        return isinstance(a, Ratio) and isinstance(b, Ratio) and same_ratio(a, b)
    if isinstance(a, Group) or isinstance(b, Group):
        if not (isinstance(a, Group) and isinstance(b, Group)) or (a.kind, len(a.items)) != (b.kind, len(b.items)):
            return False
        if a.kind == "set of numbers":
            return a == b
        if a.kind in UNORDERED:
            return matched(a.items, b.items, equal)
        return all(equal(x, y) for x, y in zip(a.items, b.items, strict=True))
    return same_value(a, b)


def same_words(a: str, b: str) -> bool:
    """Whether two texts are the same words; letter case counts in words of one or two letters alone."""
    if len(a) > 2:
        return a.casefold() == b.casefold()
    return a == b or (a.casefold() == b.casefold() and len(a) == 2 and a[1:] == b[1:])


def same_ratio(a: Ratio, b: Ratio) -> bool:
    """Whether two ratios are proportional; times of the day must be the same."""
    if a.clock or len(a.parts) != len(b.parts) or 0 in (*a.parts, *b.parts):
        return a == b or bool(a.clock and a.clock == b.clock)
    return all(same_value(a.parts[0] * y, x * b.parts[0]) for x, y in zip(a.parts, b.parts, strict=True))


def same_value(a: Any, b: Any) -> bool:
    """Whether two expressions are equal: at every one of some points, positive and negative, where `a` is defined."""
    if a == b:
        return True
    if a.has(sympy.oo, -sympy.oo) or b.has(sympy.oo, -sympy.oo):
        return False
    applied = a.atoms(sympy.core.function.AppliedUndef) | b.atoms(sympy.core.function.AppliedUndef)
    stand_in = {f: sympy.Dummy() for f in applied}
    a, b = a.xreplace(stand_in), b.xreplace(stand_in)
    variables = sorted(a.free_symbols | b.free_symbols, key=str)
    difference = a - b
    if not variables:
        return vanishes(difference)
    used, real = 0, not a.has(sympy.I)
    for point in points(variables, str(a)):
        here = a.xreplace(point)
        if here.has(sympy.nan, sympy.zoo, sympy.oo) or (real and not is_real(here)):
            continue
        if not vanishes(difference.xreplace(point)):
            return False
        used += 1
    return used >= ENOUGH


def points(variables: Sequence[Any], seed: str) -> list[dict[Any, Any]]:
    """Rational points, of numbers below and above 1, half of them positive throughout; the same for the same answer."""
    draw = random.Random(seed)
    return [{v: sympy.Rational(draw.randint(1, 97), 97 if n % 4 < 2 else 31)
             * (1 if n % 2 else draw.choice((-1, 1))) for v in variables} for n in range(POINTS)]


def is_real(value: Any) -> bool:
    """Whether a number has no imaginary part."""
    return abs(sympy.im(value.evalf(20))) < 1e-15


def vanishes(difference: Any) -> bool:
    """Whether a number is 0: exactly, or without any digit that is not, up to `DIGITS`."""
    if difference == 0:
        return True
    if difference.is_Rational or difference.has(sympy.nan, sympy.zoo, sympy.oo):
        return False
    value = difference.evalf(15, maxn=DIGITS)
    parts = value.as_real_imag()
    return all(part == 0 or (part.is_Float and part._prec == 1) for part in parts)


def matched(wanted: Sequence[Any], found: Sequence[Any], same_one: Callable[[Any, Any], bool]) -> bool:
    """Whether two lists hold the same, each as often, in any order."""
    left = list(found)
    for item in wanted:
        place = next((n for n, other in enumerate(left) if same_one(item, other)), None)
        if place is None:
            return False
        left.pop(place)
    return not left
