"""Units of measurement: which words and letters are one, and how units of one dimension convert.

Factors are exact, of the SI (BIPM brochure, 9th edition) and of the international yard and pound of 1959.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

# Dimension: its units, each `symbols and words = factor`; plurals are made by `singular`.
TABLE = {
    "length": "mm millimeter millimetre=1/1000, cm centimeter centimetre=1/100, m meter metre=1, "
              "km kilometer kilometre=1000, in inch=127/5000, ft foot=381/1250, yd yard=1143/1250, mi mile=201168/125",
    "mass": "mg milligram=1/1000000, g gram=1/1000, kg kilogram=1, lb pound=45359237/100000000, "
            "oz ounce=45359237/1600000000, tonne=1000",
    "time": "ms millisecond=1/1000, s sec second=1, min minute=60, h hr hour=3600, day=86400, week=604800",
    "month": "month=1, year=12",
    "volume": "ml mL milliliter millilitre=1/1000000, L l liter litre=1/1000, gal gallon=473176473/125000000000",
    "angle": "degree deg °=1", "radian": "rad radian=1",
    "celsius": "celsius C=1", "fahrenheit": "fahrenheit F=1", "kelvin": "K kelvin=1",
    "dollar": "$ dollar USD=1, ¢ cent penny=1/100", "euro": "€ euro EUR=1", "sterling": "£ GBP=1", "yen": "¥ JPY yen=1",
    "rupee": "₹ INR rupee=1", "percent": "% percent=1", "force": "N newton=1", "energy": "J joule=1, kJ kilojoule=1000",
    "power": "W watt=1, kW kilowatt=1000", "current": "A amp ampere=1", "voltage": "V volt=1",
    "frequency": "Hz hertz=1", "pressure": "Pa pascal=1, kPa kilopascal=1000", "amount": "mol mole=1", "unit": "unit=1",
    **{noun: f"{noun}=1" for noun in ("way", "person", "student", "marble", "coin", "book", "step", "point",
                                      "apple", "ball", "solution", "root", "integer", "value", "triangle", "side",
                                      "term", "pair", "card", "game", "page", "ticket", "child", "hit", "vote")},
}
IRREGULAR = {"feet": "foot", "inches": "inch", "people": "person", "pennies": "penny", "children": "child", "hrs": "hr",
             "lbs": "lb", "kgs": "kg",
             "mph": "mile/hour", "kph": "kilometer/hour", "kmh": "kilometer/hour"}
BASE = re.compile(r"([a-zA-Z°$€£¥₹¢%]+)(?:\^?\{?(-?[1-9])\}?)?")


@dataclass(frozen=True)
class Unit:
    """A unit: its dimensions with their exponents, and how many base units it is."""

    dimensions: frozenset[tuple[str, int]]
    factor: Fraction
    known: bool = True


def _units() -> dict[str, tuple[str, Fraction]]:
    found = {}
    for dimension, entries in TABLE.items():
        for entry in entries.split(", "):
            names, _, factor = entry.partition("=")
            for name in names.split():
                found[name] = (dimension, Fraction(factor))
    return found


UNITS = _units()


def singular(word: str) -> str:
    """The word that a plural is made of, if it is a regular one.

    >>> singular("Hours"), singular("feet"), singular("s"), singular("inches")
    ('hour', 'foot', 's', 'inch')
    """
    if word in UNITS:
        return word
    if len(word) > 3:  # in symbols, case counts: mW and MW
        word = word.lower()
    word = IRREGULAR.get(word, word)
    return word if word in UNITS or len(word) < 4 or not word.endswith("s") or word.endswith("ss") else word[:-1]


def unit(text: str) -> Unit | None:
    r"""The unit that a text names, known or any one word; None if it is neither.

    >>> unit("km/h") == unit("kilometers per hour"), unit("cm^2") == unit("square centimeters")
    (True, True)
    >>> unit("apricots").known, unit("is wrong")
    (False, None)
    """
    words = re.sub(r"[{}]", "", re.sub(r"\\circ|\^\s*\\circ", "°", text)).replace("^°", "°").strip().rstrip(".")
    words = re.sub(r"\bsq\.? ", "square ", re.sub(r"\bper\b", "/", words.replace("°C", "C").replace("°F", "F")))
    for short in ("mph", "kph"):
        words = re.sub(rf"\b{short}\b", IRREGULAR[short], words)
    dimensions, factor, known = Counter[str](), Fraction(1), True
    sign, power, pieces = 1, 1, 0
    for piece in re.findall(r"[^\s/·]+|/", words.replace(r"\cdot", "·")):
        if piece == "/":
            if sign < 0 or not pieces:
                return None
            sign = -1
            continue
        if piece.lower() in ("square", "cubic"):
            power = 2 if piece.lower() == "square" else 3
            continue
        found = BASE.fullmatch(piece)
        if found is None:
            return None
        name, exponent = singular(found[1]), sign * power * int(found[2] or 1)
        if name not in UNITS:
            known = False
        dimension, size = UNITS.get(name, (name, Fraction(1)))
        if dimension == "volume":  # litres and cubic metres are one dimension
            dimension, exponent, size = "length", 3 * exponent, size
            factor *= size ** (exponent // 3)
        else:
            factor *= size**exponent
        dimensions[dimension] += exponent
        power, pieces = 1, pieces + 1
    if not pieces or power != 1 or (not known and pieces > 1):
        return None
    return Unit(frozenset((d, n) for d, n in dimensions.items() if n), factor, known)
