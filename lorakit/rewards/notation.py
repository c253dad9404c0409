r"""How an answer is written: Unicode and LaTeX of one meaning become one spelling, and nothing is dropped unread.

Only what changes how an answer looks goes away (`\left`, `\,`, `\displaystyle`). A command that the reader does not
know, such as `\phantom` or `\color`, stays where it is and makes the answer unreadable.
"""

from __future__ import annotations

import re

LONGEST_EXPRESSION = 300
DEEPEST = 12
NAMES = ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega "
         "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega")
GREEK = dict(zip("αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ", NAMES.split(), strict=True))
SIGNS = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "√": r"\surd ",
    "°": r"^\circ ", "º": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅕": r"\frac{1}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "∛": r"\sqrt[3]",
    "⁄": "/", "…": r"\ldots ", "ϕ": r"\phi ", "ϵ": r"\epsilon ",
    "\u2009": r"\,", "\u202f": r"\,", "′": "'", "⟨": r"\langle ", "⟩": r"\rangle ",
    **{sign: rf"\{name} " for sign, name in GREEK.items()},
    **{chr(0x2080 + n): f"_{n}" for n in range(10)}}
POWERS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n", strict=True))
CURRENCY = "$€£¥₹"
SPELLINGS = [(re.compile(pattern), plain) for pattern, plain in (
    (r"\\\$", "$"), (r"\\%", "%"), (r"\s+", " "), (r"\{,\}", ","), (r"\\(?:euro|EUR)(?![a-zA-Z])", "€"),
    (r"\\pounds(?![a-zA-Z])", "£"), (r"\\yen(?![a-zA-Z])", "¥"),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![a-zA-Z])|\\!", ""),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"), (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
    (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"), (r"\\lt(?![a-zA-Z])", "<"), (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\neq(?![a-zA-Z])", r"\\ne"), (r"<=", r"\\le "), (r">=", r"\\ge "), (r"\\colon(?![a-zA-Z])", ":"),
    (r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset "), (r"\\degree(?![a-zA-Z])", r"^\\circ "),
    (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "), (r"\\(?:dots|cdots|dotsc)(?![a-zA-Z])|\.\.\.", r"\\ldots "),
    (r"\\varphi(?![a-zA-Z])", r"\\phi"), (r"\\varepsilon(?![a-zA-Z])", r"\\epsilon"),
    (r"\\[lr]vert(?![a-zA-Z])", "|"), (r"\\(?:dbinom|tbinom)(?![a-zA-Z])", r"\\binom"),
    (r"\\(?:textbf|mathbf|boldsymbol|bm)\s*\{\s*(-?\d[\d.,/]*)\s*\}", r" \1 "),
    (r"\\(?:textbf|textit|textrm|textsf|mathrm|mathbf|mbox|operatorname)\s*\{", r"\\text{"),
    (r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*(\^\{?\d\}?)?\s*\}", r"\\text{\1/\2}\3"),
    (r"\\text\s*\{([a-zA-Z() ]+), ?([a-zA-Z() ]+)\}", r"\\text{\1}, \\text{\2}"),
    (r"\\text\s*\{([a-zA-Z() ]+) (and|or) ([a-zA-Z() ]+)\}", r"\\text{\1} \\text{ \2 } \\text{\3}"),
    (r"^ ?\\text\s*\{ ?(-?[\d.,]+) ([a-zA-Z ]+)\}$", r"\1 \\text{\2}"),
    (r"\\text\s*\{([$€£¥])\}", r"\1"), (r"\\text\s*\{\s*\^\\circ\s*([CF]?)\s*\}", r"^\\circ \1"),
    (r"\{\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*\}", r"\\binom{\1}{\2}"),
    (r"(\.\d*)\\dot\s*\{(\d)\}", r"\1\\overline{\2}"),
    (r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|ln|log|pi)(?![a-zA-Z])", r"\\\1"),
    (r"(?<![\d.,])(\d{1,3}(?:\\,\d{3})+)(?!\\?,?\d)", "GROUPS"),
    (r"(?<![\d.,(\[])(\d{1,3}(?:,\d{3})+)(?!,?\d|[)\]])", "GROUPS"),
    (r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))|(?<=.)~", " "))]
WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}"), (r"\fbox{", "}"))
TOKEN = re.compile(r"\s*(\\text\s*\{[^{}\\]*\}|\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?[eE][+-]?\d{1,3}(?![\d.a-zA-Z])"
                   r"|\d+\.?\d*|\.\d+|\S)")


class UnreadableError(ValueError):
    """An expression that is not of the forms that can be compared."""


def spelled(text: str) -> str:
    r"""The text in one spelling.

    Raises:
        UnreadableError: too long, too deep, or with characters that no answer has (hidden ones among them).

    >>> spelled("−√2"), spelled(r"\left(1{,}000\right)"), spelled("$\\dfrac12.$"), spelled("x ≤ 3")
    ('-\\surd 2', '(1,000)', '\\frac12', 'x \\le 3')
    """
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+", lambda power: "^{" + "".join(POWERS[c] for c in power[0]) + "}", text)
    text = unwrapped("".join(SIGNS.get(character, character) for character in text))
    if not 0 < len(text) <= LONGEST_EXPRESSION or not all(
            (c.isascii() and c.isprintable()) or c in CURRENCY or c in "\n¢" for c in text):
        raise UnreadableError("not an expression")
    for pattern, plain in SPELLINGS:
        text = pattern.sub((lambda found: re.sub(r"\\?,", "", found[1])) if plain == "GROUPS" else plain, text)
    depth = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        if depth > DEEPEST:
            raise UnreadableError("nested too deeply")
    text = text.strip()
    return (text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text).strip()


def unwrapped(text: str) -> str:
    r"""The text without the dollars, brackets and boxes that stand around all of it.

    >>> unwrapped(r"$\boxed{ 7 }$"), unwrapped("$5"), unwrapped(r"\boxed{1}, \boxed{2}")
    ('7', '$5', '\\boxed{1}, \\boxed{2}')
    """
    text, before = text.strip(" \t\r\n"), ""
    while text != before:
        before = text
        for opening, closing in WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            if (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)
                    and balanced(inner) and opening not in (inner.replace(r"\$", "") if closing != "}" else "")):
                text = inner.strip(" \t\r\n")
    return text


def balanced(text: str) -> bool:
    """Whether no brace of the text closes what it did not open."""
    depth = 0
    for character in re.sub(r"\\.", "", text):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def tokens(text: str) -> list[str]:
    r"""Numbers, letters, commands, texts and signs, in order.

    >>> tokens(r"3x^{12}+\frac12 \text{ cm}")
    ['3', 'x', '^', '{', '12', '}', '+', '\\frac', '12', '\\text{ cm}']
    """
    return TOKEN.findall(text.strip())


class Tokens:
    """Tokens that are taken one by one."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = list(tokens), 0

    def peek(self) -> str:
        """The next token, or nothing."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        """The next token, which must be the one wanted."""
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise UnreadableError(f"{wanted or 'something'} is missing")
        self.at += 1
        return token
