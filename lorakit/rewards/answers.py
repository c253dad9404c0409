"""Find the answer in a completion, and compare it with the right one: total, linear in time, nothing is evaluated.

An extractor takes a completion and returns the text of its answer, or None where the form is missed. What a model
thinks (up to the last `</think>`) is no answer, nor is what is ambiguous (two different boxes, a second marker).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from lorakit.rewards.notation import unwrapped

LONGEST = 100_000  # characters of a completion; longer ones have no answer
BLANK = " \t\r\n"  # str.strip() would also take control characters away, and they are no part of an honest answer
MARKER = "####"
THINKING_STARTS, THINKING_ENDS = "<think>", "</think>"
MOST_BOXES = 8
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
MARKS = "$€£¥%"  # what may stand beside a number
NUMBER = re.compile(r"(?=\D{0,3}[0-9])([+-]?)[$€£¥]?([+-]?)((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]*)?"
                    r"(?:(?<=[0-9])[eE][+-]?[0-9]{1,2})?)%?|([+-]?[0-9]+/[1-9][0-9]*)")
SPELLED = (("−", "-"), ("{,}", ","), (r"\,", ","), (r"\$", "$"), (r"\%", "%"))
LONGEST_NUMBER = 64


def whole(completion: str) -> str | None:
    """All of the completion, without surrounding blanks.

    >>> whole(" 42\\n"), whole(" \\n")
    ('42', None)
    """
    return completion.strip(BLANK) or None if len(completion) <= LONGEST else None


def spoken(completion: str) -> str | None:
    """What stands after the thinking: all of it where there is none, nothing where it has no end.

    >>> spoken("<think>41?</think> 42"), spoken("42"), spoken("<think>42"), spoken("41?</think>42")
    (' 42', '42', None, '42')
    """
    said = completion.rpartition(THINKING_ENDS)[2]
    return None if len(completion) > LONGEST or THINKING_STARTS in said else said


def marked(completion: str) -> str | None:
    """What follows the completion's only `####`, which opens its last line: the form of GSM8K.

    >>> marked("7 · 6 is 42.\\n#### 42"), marked("#### 41\\n#### 42"), marked("#### 42, I think\\nso")
    ('42', None, None)
    """
    text = whole(spoken(completion) or "")
    if text is None or text.count(MARKER) != 1:
        return None
    before, after = text.split(MARKER)
    opens_the_line = not before.strip(" \t") or before.rstrip(" \t").endswith("\n")
    answer = after.strip(" \t")
    return answer if answer and opens_the_line and "\n" not in answer and answer[0] != "#" else None


def boxes(completion: str) -> list[str]:
    r"""The contents of every `\boxed{…}` (or `\fbox`) with matching braces, in order; none if there are too many.

    A box inside another counts as a part of what that one holds.

    >>> boxes(r"\boxed{1} or \boxed {\frac{1}{2}}"), boxes(r"\boxed{1"), boxes(r"\boxed{\boxed{ 2 }}")
    (['1', '\\frac{1}{2}'], [], ['\\boxed{ 2 }'])
    """
    starts = list(BOX.finditer(completion)) if len(completion) <= LONGEST else []
    found, end = [], 0
    for start in starts if len(starts) <= MOST_BOXES else []:
        if start.start() < end:
            continue
        depth, position = 1, start.end()
        while position < len(completion) and depth:
            if completion[position] == "\\":
                position += 1
            elif completion[position] in "{}":
                depth += 1 if completion[position] == "{" else -1
            position += 1
        if depth == 0:
            found.append(completion[start.end() : position - 1].strip(BLANK))
            end = position
    return found


def boxed(completion: str) -> str | None:
    r"""What stands in `\boxed{…}`, after the thinking; several boxes count if they agree.

    >>> boxed(r"so \boxed{42}"), boxed(r"\boxed{42} or \boxed{43}"), boxed(r"\boxed{}"), boxed(r"\boxed{\boxed{42}}")
    ('42', None, None, '42')
    """
    found = {unwrapped(text) for text in boxes(spoken(completion) or "")}
    return found.pop() or None if len(found) == 1 else None


def after_thinking(completion: str) -> str | None:
    """What follows the completion's only `</think>`; a model that does not think aloud has none.

    >>> after_thinking("6 · 7 …</think> 42"), after_thinking("42")
    ('42', None)
    """
    text = whole(completion)
    if text is None or text.count(THINKING_ENDS) != 1:
        return None
    return text.split(THINKING_ENDS)[1].strip(BLANK) or None


def number(text: str) -> Fraction | None:
    r"""The number that the text is (integer, decimal, fraction, exponent), with `$`, `%` or thousands, or None.

    >>> number("$1,250.50"), number("3/4"), number("2e3"), number("6*7"), number("42 apples")
    (Fraction(2501, 2), Fraction(3, 4), Fraction(2000, 1), None, None)
    >>> number(".5"), number("42."), number("−7"), number("-$5"), number("1{,}000")
    (Fraction(1, 2), Fraction(42, 1), Fraction(-7, 1), Fraction(-5, 1), Fraction(1000, 1))
    """
    if len(text) > LONGEST_NUMBER:
        return None
    for written, plain in SPELLED:
        text = text.replace(written, plain)
    found = NUMBER.fullmatch(text)
    if found is None or (found[1] and found[2]):
        return None
    digits = found[4] or found[1] + found[2] + found[3].replace(",", "")
    return Fraction(re.sub(r"\.(?![0-9])", "", digits))


def marks(text: str) -> str:
    """The signs of a currency or of percent beside a number."""
    return "".join(character for character in text if character in MARKS)


def same_answer(given: str, answer: str, read: Callable[[str], Fraction | None] = number) -> bool | None:
    """Whether two answers are the same number or the same text; None if `given` is not even of the answer's kind.

    Text is of the answer's kind if it has no character of a class (letter, digit, blank, other) that the answer lacks.

    >>> same_answer("42.0", "42"), same_answer("41", "42"), same_answer("forty-two", "42"), same_answer("€5", "$5")
    (True, False, None, False)
    >>> same_answer("cba", "abc"), same_answer("The word is abc.", "abc")
    (False, None)
    """
    wanted, answer = read(answer.strip(BLANK)), answer.strip(BLANK)
    if wanted is not None:
        found = read(given)
        if found is None:
            return None
        beside, wished = marks(given), marks(answer)
        if beside == "%" != wished and abs(wanted) <= 1:  # 0.2% is not 0.2, but 20% is
            found /= 100
        return found == wanted and not (beside and wished and beside != wished)
    if given == answer:
        return True
    return False if _kinds(given) <= _kinds(answer) else None


def same_text(given: str, answer: str) -> bool | None:
    """Whether two answers are the same text, character by character.

    >>> same_text("abc", "abc"), same_text("42.0", "42")
    (True, False)
    """
    return given == answer.strip(BLANK)


def _kinds(text: str) -> set[str]:
    return {"letter" if c.isalpha() else "digit" if c.isdigit() else "blank" if c in BLANK else "other" for c in text}
