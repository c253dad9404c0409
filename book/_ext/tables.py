"""Sphinx extension of this book: in every table numbers stand on the right in figures of one width, words on the left.

A column is one of numbers where each of its cells begins like a number and holds few letters: "−1.2 (−2.0 to 0.5)" is
one. A counter that pandas adds as its index (0, 1, 2 …) goes. A table that is too wide for a phone stands there as a
list, a row an entry, each cell behind the words of its column's head; on a narrow desk it scrolls by itself.
"""

from __future__ import annotations

import re
from copy import copy
from itertools import zip_longest
from typing import Any

from bs4 import BeautifulSoup, Tag

TABLE = re.compile(r"<table\b[^>]*>.*?</table>", re.S)
NUMBER = re.compile(r"[~≈<>≤≥]?\s?[+\-−±$×]?\s?[\d.,]*\d")
SPAN = re.compile(r"(\S+) (\([^()]* to [^()]*\))")  # a number with its interval
EXPONENT = re.compile(r"(?<=\de)([+-])0(?=\d\b)")  # Python's 1e-05
BREAK = re.compile(r"\s+|(?<=\w-)(?=\w)")  # where a browser may break a line
NOTHING = {"", "–", "—", "-", "nan", "none", "not run", "not timed"}
LONG = 160  # characters of a cell that is read, not looked up
PHONE = 36  # characters that fit beside each other on a phone
AIR = 2  # of these, between two columns
WRAPPED = 60  # characters of a cell that makes a phone's narrow column too long
SMALLEST_DESK = 74  # characters of the smallest letters with hardly any air
DESK, FULL_DESK = 54, 64  # characters with air between columns on a desk, and with hardly any
SHORT = 14  # characters of a column's longest words that stay in one line on a desk, and on the right of a phone's list
KEY = 24  # characters of the longest name of a row that stays in one line on a desk
SAME_FOR_ALL = {"Modified", "Method", "Status"}  # of myst-nb's table of pages, since a build stops at an error
MOST_LETTERS = 8  # of a number with its unit: "1.6 hours", "2.0 to 3.1", "5 seeds"


def setup(app: Any) -> dict[str, Any]:
    """After everything that writes into a page's body."""
    app.connect("html-page-context", in_columns, priority=910)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def in_columns(_app: Any, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Every table of a page's body."""
    if "<table" in context.get("body", ""):
        context["body"] = TABLE.sub(lambda found: arranged(found.group()), context["body"])


def arranged(text: str) -> str:
    """One table; the calculator's own, whose class begins with `lk-`, is as it should be."""
    soup = BeautifulSoup(text, "html.parser")
    table = soup.find("table")
    rows = [cells_of(row) for row in soup.find_all("tr")]
    if not isinstance(table, Tag) or not rows or re.search(r'<table[^>]*class="lk-', text):
        return text
    for cell in soup.select("tbody [rowspan]"):
        repeated(cell)
    rows = [cells_of(row) for row in soup.find_all("tr")]
    body = [cells_of(row) for part in soup.find_all("tbody") for row in part.find_all("tr")]
    top, name = rows[: len(rows) - len(body)], ""
    if not soup.find(colspan=True):
        name = across(top) if body and body[0][0].name == "th" else ""
        if len(top) == 2 and len(top[0]) == len(top[1]) and one_line(*top, name):
            top, rows = top[:1], [top[0], *body]
        if len(top) == 1 and "Run Time (s)" in map(words, top[0]):
            for place in [place for place, cell in enumerate(top[0]) if words(cell) in SAME_FOR_ALL][::-1]:
                for row in rows:
                    row.pop(place).decompose()
            body = rows[1:]
        if is_counter(top, body):
            for row in rows:
                row.pop(0).decompose()
            body = [row[1:] for row in body]
        for place in range(max(map(len, rows))):
            arrange([row[place] for row in rows if place < len(row)], [row[place] for row in body if place < len(row)])
    elif top and {len(row) for row in body} == {len(top[-1])}:
        for place in range(len(top[-1])):
            arrange([row[place] for row in [top[-1], *body]], [row[place] for row in body])
    if top and is_wide(top + body):
        table["class"] = [*table.get_attribute_list("class", []), "as-list"]
        for row in body:
            for cell, head in zip(row, heads_of(top), strict=False):
                cell["data-head"] = f"{name} {head}" if NUMBER.match(head) and name else head
    if max(len(words(row[0])) for row in rows if row) <= KEY:
        for row in rows:
            row[0]["class"] = [*row[0].get_attribute_list("class", []), "key"]
    if (width := sum(widths_of(top + body)) + AIR * max(map(len, rows))) > DESK:
        table["class"] = [*table.get_attribute_list("class", []), "of-many", *["of-too-many"] * (width > FULL_DESK)]
    whole_intervals(top + body, any_width=width <= FULL_DESK)
    if max(len(words(cell)) for row in rows for cell in row) > LONG:
        table["class"] = [*table.get_attribute_list("class", []), "of-prose"]
    for row in soup.find_all("tr", style=True):
        del row["style"]  # pandas aligns all heads to the right
    return f'<div class="table-scroll" tabindex="0">{soup}</div>'  # it scrolls by keyboard, too


def cells_of(row: Tag) -> list[Tag]:
    """The cells of a row."""
    return list(row.find_all(["th", "td"], recursive=False))


def repeated(cell: Tag) -> None:
    """A cell over several rows, once in each of them at its place."""
    row, rows = cell.find_parent("tr"), int(str(cell.get("rowspan")))
    del cell["rowspan"]
    if not isinstance(row, Tag):
        return
    place = next(place for place, one in enumerate(cells_of(row)) if one is cell)
    for later in row.find_next_siblings("tr")[: rows - 1]:
        later.insert(0, copy(cell)) if place == 0 else cells_of(later)[place - 1].insert_after(copy(cell))


def across(top: list[list[Tag]]) -> str:
    """What the heads of the columns are of, such as "step": pandas puts it over the last cell of the index."""
    if not top or any(cell.name != "th" for cell in top[0]):
        return ""
    index = [words(cell) for cell in top[-1]] if len(top) == 2 else [words(top[0][0])]
    place = max((place for place, said in enumerate(index) if said), default=0)
    return words(top[0][place]) if place < len(top[0]) - 1 else ""


def whole_intervals(rows: list[list[Tag]], *, any_width: bool) -> None:
    """Let numbers break before their intervals and nowhere else, where a desk has room for that."""
    columns = [[cell for cell in column if cell is not None] for column in zip_longest(*rows)]
    whole = [[SPAN.sub(lambda found: f"{found[1]} {found[2].replace(' ', '_')}", words(cell)) for cell in column]
             for column in columns]
    broken = [max(len(part) for said in column for part in BREAK.split(said)) for column in whole]
    if not any_width and sum(broken) + len(columns) > SMALLEST_DESK:
        return
    for cell in (cell for row in rows for cell in row if "num" in cell.get_attribute_list("class", [])):
        if (found := SPAN.fullmatch(words(cell))) and not cell.find(True):
            cell.clear()
            interval = Tag(name="span", attrs={"class": "interval"})
            interval.string = found.group(2)
            cell.extend([f"{found.group(1)} ", interval])


def one_line(first: list[Tag], second: list[Tag], name: str = "") -> bool:
    """Put pandas' second line of a head, which names the index alone, into the first one's cells.

    In the last cell of the index the first line may name the columns: heads that are numbers take the name with them,
    others say well enough what they are.
    """
    named = [place for place, lower in enumerate(second) if words(lower)]
    both = [place for place in named if words(first[place])]
    if both not in ([], named[-1:]) or len(named) == len(second):
        return False
    for upper, lower in zip(first, second, strict=True):
        if words(lower):
            upper.string = words(lower)
        elif both and NUMBER.match(words(upper)):
            upper.string = f"{name} {words(upper)}"
    if row := second[0].find_parent("tr"):
        row.extract()
    return True


def heads_of(top: list[list[Tag]]) -> list[str]:
    """What stands over each column; the lines of a head of several joined, and a cell over several columns in each."""
    lines = [[words(cell) for cell in row for _ in range(int(str(cell.get("colspan", 1))))] for row in top]
    return [", ".join(filter(None, column)) for column in zip_longest(*lines)]


def is_wide(rows: list[list[Tag]]) -> bool:
    """Whether a phone has no room for the columns, or makes towers of their cells."""
    widths = widths_of(rows)
    longest = max(len(words(cell)) for row in rows for cell in row)
    return sum(widths) + AIR * len(widths) > PHONE or (len(widths) > 2 and longest > WRAPPED)


def widths_of(rows: list[list[Tag]]) -> list[int]:
    """The characters of each column that no browser breaks: of a number, of a short cell and of a verdict all."""
    def unbroken(cell: Tag) -> int:
        if {"num", "short"} & set(cell.get_attribute_list("class", [])):
            return len(words(cell))
        return max(map(len, [*BREAK.split(words(cell)), *map(words, cell.select(".lk-verdict"))]))

    columns = [[cell for cell in column if cell is not None] for column in zip_longest(*rows)]
    return [max(map(unbroken, column)) for column in columns]


def is_counter(head: list[list[Tag]], body: list[list[Tag]]) -> bool:
    """Whether the first column is what pandas counts rows by: 0, 1, 2 … without a name."""
    return bool(body) and all(not words(row[0]) for row in head) and all(
        row[0].name == "th" and words(row[0]) == str(place) for place, row in enumerate(body))


def arrange(column: list[Tag], body: list[Tag]) -> None:
    """Align one column, and say of its heads whether they name a row or a column; an empty one names nothing."""
    numbers = is_of_numbers([words(cell) for cell in body])
    longest = max((len(words(cell)) for cell in body), default=0)
    for cell in column:
        if numbers:
            cell["class"] = [*cell.get_attribute_list("class", []), "num"]
            if re.fullmatch(r"\d{5,}", words(cell)):
                cell.string = f"{int(words(cell)):,}"
            elif not cell.find(True) and (said := EXPONENT.sub(r"\1", re.sub(r"(?<!\w)-(?=[\d.])", "−", words(cell)))):
                cell.string = said
        elif longest <= SHORT:
            cell["class"] = [*cell.get_attribute_list("class", []), "short"]
        if cell.name == "th" and not words(cell):
            cell.name = "td"
        elif cell.name == "th" and "scope" not in cell.attrs:
            cell["scope"] = "row" if any(cell is one for one in body) else "col"


def words(cell: Tag) -> str:
    """What a cell says."""
    return " ".join(cell.get_text().split())


def is_of_numbers(cells: list[str]) -> bool:
    """Whether a column's cells are numbers, but for those that say nothing.

    >>> is_of_numbers(["1.2 (0.9 to 1.4)", "–"]), is_of_numbers(["16 of 20 runs agree"]), is_of_numbers(["–"])
    (True, False, False)
    """
    said = [cell for cell in cells if cell.lower() not in NOTHING]
    letters = [len(re.findall(r"[^\W\d_]", cell)) for cell in said]
    return bool(said) and max(letters) <= MOST_LETTERS and all(map(NUMBER.match, said))
