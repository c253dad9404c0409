r"""One expression of LaTeX as a sympy object: every sign is read or the expression is refused; nothing is evaluated
as code.

The grammar is that of answers: numbers, letters with subscripts, sums, products, powers, fractions, roots, the usual
functions, absolute values, tuples, intervals, sets and matrices. Sums over an index, integrals and accents are not.
"""

from __future__ import annotations

from typing import Any

import sympy

from lorakit.rewards.notation import Tokens, UnreadableError
from lorakit.rewards.values import CONSTANTS, FUNCTIONS, INVERSE, LETTERS, Group, divided, raised, scalar

LARGEST_FACTORIAL = 1000
APPLIED = "fgh"
CLOSES = {"(": ")]", "[": "])", r"\{": (r"\}",), r"\langle": (r"\rangle",)}
ROUND = {"(": ")", "{": "}"}
ENDS = {")", "]", "}", ",", ";", "+", "-", "&",
        *(rf"\{name}" for name in ("}", "rangle", "rfloor", "rceil", "\\", "end", "pm", "mp", "cup", "cap"))}


class Reader(Tokens):
    """Reads tokens from left to right.

    Args:
        tokens: of `notation.tokens`.
        sign: what a ± stands for.
    """

    def __init__(self, tokens: list[str], sign: int = 1) -> None:
        super().__init__(tokens)
        self.sign, self.bars = sign, 0
        self.both = False  # whether there was a ±

    def read(self) -> Any:
        """All of the tokens as one expression or group.

        Raises:
            UnreadableError: they are not exactly one.
        """
        found = self.union()
        if self.at < len(self.tokens):
            raise UnreadableError(f"what is {self.tokens[self.at]!r} doing here?")
        return found

    def union(self) -> Any:
        """Groups with one sign of union or intersection between them, or one sum."""
        parts, joint = [self.sum()], self.peek()
        while joint in (r"\cup", r"\cap") and self.peek() == joint:
            self.take()
            parts.append(self.sum())
        return Group(joint, tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> Any:
        """Products with signs between them."""
        total: Any = None
        while True:
            token = self.peek()
            if token in ("+", "-", r"\pm", r"\mp"):
                self.take()
                self.both |= token in (r"\pm", r"\mp")
                factor = {"+": 1, "-": -1, r"\pm": self.sign, r"\mp": -self.sign}[token]
            elif total is None:
                factor = 1
            else:
                return total
            term = self.product()
            if total is None and factor == 1:
                total = term
            else:
                total = scalar(term) * factor if total is None else scalar(total) + factor * scalar(term)

    def product(self) -> Any:
        """Powers with signs of multiplication or nothing between them, from left to right."""
        result = self.power()
        while True:
            token = self.peek()
            if token in (r"\times", r"\cdot", "/", r"\div"):
                self.take()
                negative = self.peek() == "-" and bool(self.take())
                other = scalar(self.power()) * (-1 if negative else 1)
                result = scalar(result) * other if token in (r"\times", r"\cdot") else divided(scalar(result), other)
            elif self.continues():
                result = scalar(result) * scalar(self.power())
            else:
                return result

    def continues(self) -> bool:
        """Whether the next token multiplies what stands before it; a number does not."""
        token = self.peek()
        return bool(token) and token not in ENDS and not token[0].isdigit() and token[0] not in ".,=<>:" and not (
            token == "|" and self.bars)

    def power(self) -> Any:
        """A primary with its factorials, degrees or exponent."""
        base = self.primary()
        while self.peek() == "!":
            self.take()
            base = scalar(base)
            if base.is_number and not (base.is_Integer and 0 <= base <= LARGEST_FACTORIAL):
                raise UnreadableError("a factorial of that")
            base = sympy.factorial(base)
        if self.peek() != "^":
            return base
        self.take()
        if self.peek() == r"\circ":
            self.take()
            return scalar(base) * sympy.pi / 180
        exponent = self.exponent()
        if self.peek() in ("^", "!"):
            raise UnreadableError("a power of a power without braces")
        return raised(scalar(base), exponent)

    def exponent(self) -> Any:
        """What follows a `^`."""
        if self.peek() in ("-", "+"):
            return (-1 if self.take() == "-" else 1) * self.argument(whole=True)
        return self.argument(whole=True)

    def argument(self, whole: bool = False) -> Any:
        r"""What a command takes: a group in braces, or one sign; the first digit of a number unless `whole`."""
        token = self.peek()
        if token == "{":
            self.take()
            return self.inside("}")
        if token.isdigit() and len(token) > 1 and not whole:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        if token in ("^", "_", "-", "+"):
            raise UnreadableError("an argument is missing")
        return scalar(self.primary(applied=False))

    def inside(self, closing: str) -> Any:
        """An expression up to the sign that closes it."""
        bars, self.bars = self.bars, 0
        found = self.union()
        self.take(closing)
        self.bars = bars
        return scalar(found)

    def primary(self, applied: bool = True) -> Any:
        """A number, a letter, or what a bracket or a command opens."""
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self.number(token)
        if token in CLOSES or token == "{":
            return self.group(token)
        if token == "|":
            self.bars += 1
            inner = scalar(self.sum())
            self.bars -= 1
            self.take("|")
            return sympy.Abs(inner)
        if token in (r"\lfloor", r"\lceil"):
            return (sympy.floor if token == r"\lfloor" else sympy.ceiling)(self.inside(token.replace("l", "r", 1)))
        if token == r"\frac":
            return divided(self.argument(), self.argument())
        if token == r"\binom":
            return sympy.binomial(self.argument(), self.argument())
        if token in (r"\sqrt", r"\surd"):
            return self.root(token)
        if token[1:] in FUNCTIONS and token[0] == "\\":
            return self.function(token[1:])
        if token == r"\begin":
            return self.matrix()
        if token == r"\emptyset":
            return Group(r"\{", ())
        if token == r"\mathbb":
            self.take("{")
            name = self.take()
            self.take("}")
            return Group("set of numbers", (name,))
        return self.letter(token, applied)

    def number(self, token: str) -> Any:
        """A number, with digits that repeat or as a mixed one."""
        value = sympy.Rational(token.rstrip("."))  # of 2.5e3 too
        if "." in token and self.peek() == r"\overline":
            self.take()
            self.take("{")
            digits = self.take()
            self.take("}")
            if not digits.isdigit():
                raise UnreadableError("what repeats is no digits")
            places = len(token.partition(".")[2])
            value += sympy.Rational(int(digits), (10 ** len(digits) - 1) * 10**places)
        elif token.isdigit() and self.peek() == r"\frac":  # a mixed number, if the fraction is a proper one
            here, tokens = self.at, list(self.tokens)
            self.take()
            top, bottom = self.argument(), self.argument()
            if top.is_Integer and bottom.is_Integer and self.peek() not in ("^", "!"):
                if not 0 < top < bottom:
                    raise UnreadableError("a mixed number with an improper fraction")
                return value + divided(top, bottom)
            self.tokens, self.at = tokens, here
        return value

    def group(self, opening: str) -> Any:
        """What stands in brackets: an expression, or a group if there are several or the brackets are not round."""
        bars, self.bars = self.bars, 0
        items = [self.union()]
        while self.peek() in (",", ";"):
            self.take()
            items.append(self.union())
        self.bars = bars
        closing = self.take()
        if len(items) == 1 and ROUND.get(opening) == closing:
            return items[0]
        if opening == "{" and closing == "}":  # braces without their backslashes
            opening, closing = r"\{", r"\}"
        if closing not in CLOSES[opening] or (len(items) == 1 and opening != r"\{"):
            raise UnreadableError(f"{opening} … {closing}")
        if opening + closing in ("[)", "(]") and len(items) != 2:
            raise UnreadableError("an interval has two ends")
        return Group(opening if opening == r"\{" else opening + closing, tuple(items))

    def root(self, command: str) -> Any:
        """A root, of a degree if one is named."""
        degree = sympy.Integer(2)
        if command == r"\sqrt" and self.peek() == "[":
            self.take()
            degree = self.inside("]")
        radicand = self.group(self.take()) if self.peek() == "(" else self.argument(whole=True)  # or sqrt(2)
        return raised(scalar(radicand), divided(sympy.Integer(1), degree))

    def function(self, name: str) -> Any:
        """A function of what stands in brackets, or of the factors up to the next function."""
        apply, exponent = FUNCTIONS[name], sympy.Integer(1)
        if name == "log" and self.peek() == "_":
            self.take()
            base = self.argument(whole=True)
            apply = lambda x: sympy.log(x) / sympy.log(base)
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
            if exponent == -1:
                if name not in INVERSE:
                    raise UnreadableError(f"{name} to the power of -1")
                apply, exponent = INVERSE[name], sympy.Integer(1)
        if self.peek() in ("(", "{"):
            closing = ROUND[self.take()]
            argument = self.inside(closing)
            result = apply(argument)
            return result if exponent == 1 else raised(result, exponent)
        argument = scalar(self.power())
        while self.continues() and self.peek()[1:] not in FUNCTIONS and self.peek() not in ("(", "[", "|"):
            argument *= scalar(self.power())
        return raised(apply(argument), exponent)

    def letter(self, token: str, applied: bool) -> Any:
        """A variable with its subscript, a constant, or f, g, h of something."""
        if token.startswith(r"\text"):
            token = token.partition("{")[2][:-1].strip()
            if len(token) != 1:
                raise UnreadableError("words in an expression")
        if not (token in LETTERS or token in CONSTANTS or (len(token) == 1 and token.isascii() and token.isalpha())):
            raise UnreadableError(f"{token} is not known")
        if self.peek() == "_":
            self.take()
            below = [self.take()]
            if below == ["{"]:
                below = []
                while self.peek() not in ("}", ""):
                    below.append(self.take())
                self.take("}")
            if not below or any(not (part.isalnum() or part in "+-,") for part in below):
                raise UnreadableError("a subscript of other signs")
            return sympy.Symbol(f"{token}_{' '.join(below)}")
        if applied and token in APPLIED and self.peek() == "(":
            self.take()
            return sympy.Function(token)(self.inside(")"))
        return CONSTANTS[token] if token in CONSTANTS else sympy.Symbol(token)

    def matrix(self) -> Any:
        """A matrix as a group of rows."""
        self.take("{")
        kind = ""
        while self.peek() not in ("}", ""):
            kind += self.take()
        self.take("}")
        if kind not in ("pmatrix", "bmatrix", "matrix"):
            raise UnreadableError(kind)
        rows: list[list[Any]] = [[]]
        while True:
            rows[-1].append(scalar(self.sum()))
            token = self.take()
            if token == r"\\" and self.peek() != r"\end":
                rows.append([])
            elif token == r"\end" or (token == r"\\" and self.take() == r"\end"):
                break
            elif token != "&":
                raise UnreadableError("a matrix with something else between its entries")
        self.take("{")
        while self.take() != "}":
            pass
        if len({len(row) for row in rows}) != 1:
            raise UnreadableError("rows of different length")
        return Group("matrix", tuple(Group("row", tuple(row)) for row in rows))
