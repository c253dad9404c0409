"""Results as tables: numbers to the right in figures of one width, words to the left; text in a terminal."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import pandas as pd

T = TypeVar("T")
WORDS = "text-align:left;padding:.2em .5em"
NUMBER = "text-align:right;padding:.2em .5em;font-variant-numeric:tabular-nums;white-space:nowrap"


class Table:
    """Rows of text for a reader; numbers to compute with are in the frame or dictionary that it was made from.

    Args:
        rows: mappings of column to text, all with the same columns; the first column names the row.
        caption: what the numbers are, with their unit.
    """

    def __init__(self, rows: Sequence[Mapping[str, str]], caption: str = "") -> None:
        self.rows, self.caption = [dict(row) for row in rows], caption

    @classmethod
    def of(cls, found: Mapping[str, object], name: str, value: str, form: str = "", caption: str = "") -> Table:
        """Two columns, from values by name.

        >>> Table.of({"rank 1": 2577.4, "rank 2": 4727.0}, "arm", "bits", ",.0f")
        arm      bits
        rank 1  2,577
        rank 2  4,727
        """
        return cls([{name: one, value: format(number, form)} for one, number in found.items()], caption)

    def __repr__(self) -> str:
        columns = list(self.rows[0]) if self.rows else []
        widths = [max(len(column), *(len(row[column]) for row in self.rows)) for column in columns]
        places = list(zip(columns, widths, strict=True))
        lines = [dict(zip(columns, columns, strict=True)), *self.rows]
        text = ["  ".join(f"{line[c]:>{w}}" if self._is_number(c) else f"{line[c]:<{w}}" for c, w in places).rstrip()
                for line in lines if columns]
        return "\n".join([*([self.caption] if self.caption else []), *text])

    def _repr_html_(self) -> str:
        columns = list(self.rows[0]) if self.rows else []
        style = {column: NUMBER if self._is_number(column) else WORDS for column in columns}
        style |= {column: f"{style[column]};white-space:nowrap" for column in columns[:1]}
        head = "".join(f'<th scope="col" style="{style[c]}">{html.escape(c)}</th>' for c in columns)
        body = "".join("<tr>" + "".join(
            f'<td style="{style[c]}">{html.escape(row[c])}</td>' for c in columns) + "</tr>" for row in self.rows)
        caption = f'<caption style="caption-side:top;{WORDS}">{html.escape(self.caption)}</caption>'
        shown = caption if self.caption else ""
        return f'<table class="dataframe">{shown}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _is_number(self, column: str) -> bool:
        return all(row[column][:1] in "0123456789+−–." for row in self.rows)


class ByArm(dict[str, T], Generic[T]):
    """One result an arm, in the arms' order: a dictionary that prints as a table.

    Args:
        found: results by arm.
        caption: what they are, with their unit.
        cells: the columns that a reader sees of one result.
    """

    def __init__(self, found: Mapping[str, T], caption: str, cells: Callable[[T], Mapping[str, str]]) -> None:
        super().__init__(found)
        self.table = Table([{"arm": arm, **cells(result)} for arm, result in self.items()], caption)

    @property
    def frame(self) -> pd.DataFrame:
        """One row an arm with every number of its result."""
        return pd.DataFrame.from_dict({arm: vars(result) for arm, result in self.items()}, orient="index")

    def having(self, word: str) -> list[str]:
        """The arms of a comparison that have this word: `sweep.compare().having("equal")`."""
        return [arm for arm, result in self.items() if getattr(result, "word", None) == word]

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()
