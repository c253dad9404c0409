"""Tables of a page: one line of heads, thousands apart, and what a phone or a desk has room for."""

import sys
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("bs4", reason="needs the book's packages")
sys.path.append(str(Path(__file__).parents[2] / "book" / "_ext"))
import tables


def shown(frame):
    return tables.arranged(frame.to_html())


def test_the_name_of_an_index_stands_beside_the_other_heads():
    page = shown(pd.DataFrame({"loss": [1.5]}, index=pd.Index(["rank 1"], name="arm")))
    assert page.count("<tr>") == 2
    assert page.index(">arm</th>") < page.index(">loss</th>")
    assert page.count("arm") == 1


def test_large_counts_have_commas_and_a_run_that_is_missing_leaves_numbers_on_the_right():
    page = shown(pd.DataFrame({"weights": [1234567, 2048], "gap": ["+1.2", "not run"]}, index=["a", "b"]))
    assert ">1,234,567</td>" in page
    assert ">2048</td>" in page, "four digits may be a year"
    assert page.count('class="num"') == 6


@pytest.mark.parametrize(("name", "as_list"), [
    ("learning-rate-alpha-epsilon", False), ("learningratealphaepsilonset", True)])
def test_a_name_with_hyphens_may_break_on_a_phone(name, as_list):
    page = shown(pd.DataFrame({"runs": [225], "hours": ["0.34"], "made": ["26 Nov"]}, index=[name]))
    assert ("as-list" in page) is as_list


def test_a_table_too_wide_for_a_desk_has_less_air_and_then_breaks_its_numbers():
    spans = {f"after {n}": ["0.89 (0.61 to 1.17)"] for n in range(4)}
    narrow, wide = (shown(pd.DataFrame(dict(list(spans.items())[:count]), index=["rank 1"])) for count in (1, 4))
    assert "of-many" not in narrow
    assert "of-many of-too-many" in wide


def test_the_table_of_pages_leaves_out_what_all_of_them_have_in_common():
    page = shown(pd.DataFrame({"Document": ["a"], "Modified": ["now"], "Method": ["force"], "Run Time (s)": [3.5],
                               "Status": ["x"]}).set_index("Document"))
    assert [word in page for word in ("Modified", "Method", "Status", "3.5")] == [False, False, False, True]
