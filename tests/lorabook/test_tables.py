"""Tables of a page: one line of heads, thousands apart, what a phone or a desk has room for; and per cent signs."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("bs4", reason="needs the book's packages")
sys.path.append(str(Path(__file__).parents[2] / "book" / "_ext"))
import tables
import units


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


@pytest.mark.parametrize(("columns", "heads"), [(["full", "rank 1"], ["step", "full", "rank 1"]),
                                                ([1, 16], ["step", "rank 1", "rank 16"])])
def test_the_name_of_the_columns_goes_or_stands_before_heads_that_are_numbers(columns, heads):
    page = shown(pd.DataFrame([[1.5, 2.5]], index=pd.Index([9], name="step"), columns=pd.Index(columns, name="rank")))
    assert re.findall(r'scope="col"[^>]*>([^<]*)</th>', page) == heads


def test_a_list_on_a_phone_says_what_its_numbered_columns_are():
    page = shown(pd.DataFrame([["0.07"] * 8], index=["chance of the secret"], columns=pd.Index(range(8), name="step")))
    assert 'data-head="step 7"' in page


@pytest.mark.parametrize("verdict", ['<span class="lk-verdict">depends on the data</span>', "depends on the data"])
def test_a_verdict_and_a_short_cell_take_the_width_of_their_line(verdict):
    row = "".join(f"<td>{said}</td>" for said in ("C6 below the operations", verdict, "a word or two", "improvements"))
    heads = "".join(f"<th>{head}</th>" for head in ("claim", "verdict", "on", "found"))
    page = tables.arranged(f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{row}</tr></tbody></table>")
    assert ("of-many" in page) is ("lk-verdict" in verdict)


def test_numbers_have_a_minus_and_no_zero_before_an_exponent():
    page = shown(pd.DataFrame({"rate": ["2.15e-05"], "lost": ["-0.4%"], "made": ["2026-11-22"], "of": ["2 to -3"]}))
    assert [said in page for said in (">2.15e-5<", ">−0.4%<", ">2026-11-22<", ">2 to −3<")] == 4 * [True]


def test_a_wide_table_breaks_its_numbers_before_their_intervals_if_that_makes_it_narrow_enough():
    spans = {f"after {n}": ["10.89 (10.61 to 11.17)"] for n in range(6)}
    some, more = (shown(pd.DataFrame(dict(list(spans.items())[:count]), index=["rank 1"])) for count in (3, 6))
    assert some.count('10.89 <span class="interval">(10.61 to 11.17)</span>') == 3
    assert "interval" not in more


def test_numbers_under_heads_of_several_columns_stand_on_the_right():
    heads = pd.MultiIndex.from_product([["best", "all"], ["answer", "form"]])
    page = shown(pd.DataFrame([[6, 1, 14, 26]], index=["full"], columns=heads))
    assert re.findall(r'<td class="num">(\d+)</td>', page) == ["6", "1", "14", "26"]


def test_words_that_are_short_in_all_rows_of_a_column_stay_in_one_line():
    page = shown(pd.DataFrame({"what": ["a long name of a goal", "b"], "verdict": ["not timed", "missed"],
                               "GPU": ["not timed", "1.05"]}))
    assert re.findall(r'class="short">([^<]*)</td>', page) == ["not timed", "missed"]
    assert re.findall(r'class="num">([^<]*)</td>', page) == ["not timed", "1.05"], "a number that is missing"


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


def test_a_number_and_its_per_cent_sign_stay_together_but_in_code():
    page = '<p title="5%">8% of 95 %, (1 to 2) %, <span>3.7</span> %, <i>(1 to 2)</span> %'
    assert units.together(page).replace("\xa0", "~") == (
        '<p title="5%">8~% of 95~%, (1 to 2)~%, <span>3.7</span>~%, <i>(1 to 2)</span>~%')
    code = '<pre>{x:.0%} <i>5%</i></pre><script>"9 %"</script>'
    assert units.together(code) == code
