"""The reward of Osmosis' recipe: pay for the form, and pay more, or fine, for the answer in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from fractions import Fraction

from lorakit.rewards import RewardFunction, graded, in_form
from lorakit.rewards.answers import LONGEST_NUMBER, marked, same_answer, whole

BARE_NUMBER = re.compile(r"\$?([+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
                         r"|[+-]?[0-9]+/[1-9][0-9]*)")

def one_line(completion: str) -> str | None:
    """The one line that the completion consists of, its end included: a completion that was cut has none.

    >>> one_line("42\\n"), one_line("42"), one_line("42\\n43\\n")
    ('42', None, None)
    """
    text = whole(completion)
    return text if text is not None and completion.endswith("\n") and "\n" not in text else None


def bare_number(text: str) -> Fraction | None:
    """The number that the text is in the plainest form: a point only between digits, no sign but `$` beside them.

    >>> bare_number("$1,250.50"), bare_number("3/4"), bare_number("42."), bare_number(".5")
    (Fraction(2501, 2), Fraction(3, 4), None, None)
    """
    found = BARE_NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    return Fraction(found.group(1).replace(",", "")) if found else None


def _scheme(suffix: str, extract: Callable[[str], str | None]) -> tuple[RewardFunction, ...]:
    """Osmosis' figures: 3 for the form; 5, -2.5 or -4.5 (nonsense) for the answer; 0 in all when the form is missed.

    A number in any but the plainest form (`42.`) is nonsense: recorded runs were paid so.
    """
    bare = functools.partial(same_answer, read=bare_number)
    return (in_form(f"format{suffix}", extract, right=3.0),
            graded(f"answer{suffix}", extract, bare, right=5.0, wrong=-2.5, nonsense=-4.5, missing=0.0))


SCHEMES = {
    "osmosis": _scheme("", marked),
    "osmosis-line": _scheme("_line", one_line),  # for a model that has never met ####
}
