"""The book as it was built last, page by page: weight, phone, letters, axe, words. Without a build, nothing to look at.

`.ci/run` builds the book and then runs this file; `make test` comes before any build.
"""

import gzip
import re
from pathlib import Path

import pytest
from pages_in_browser import PHONE, axe, first_visit, inspect

BUILT = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(path for path in (BUILT / "book").glob("*.html") if not path.name.startswith("_"))
HEAVIEST = 120_000  # bytes of a page as a server compresses it
FIRST_VISIT = 1_000_000  # bytes of the landing page and all that comes with it

pytestmark = pytest.mark.skipif(not PAGES, reason="the book is not built: make book")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_is_light_and_readable_on_a_phone_and_axe_finds_nothing_serious(page, tmp_path):
    assert len(gzip.compress(page.read_bytes())) <= HEAVIEST
    found = inspect(page, tmp_path)
    assert found["wide"] <= PHONE, "it scrolls sideways"
    assert found["sideways"] == [], "these tables or formulas scroll sideways within it"
    assert min(found["letters"], default=11) >= 11, "letters of a chart or drawing"
    if axe() is None:
        pytest.skip("weight and phone are fine; axe-core-python is not installed")
    assert found["serious"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_output_is_what_python_calls_it(page):
    shown = re.findall(r'<div class="output text_plain[^"]*"><div class="highlight"><pre>(?:<span></span>)?(.*?)</pre>',
                       page.read_text(encoding="utf-8"), re.S)
    assert [said for said in shown if re.match(r"[\[({]|&#39;|'|.*(?:tensor|np\.\w+)\(|.*dtype:", said, re.S)] == []


def test_the_first_visit_of_the_landing_page_weighs_less_than_a_megabyte(tmp_path):
    weights = first_visit(BUILT, "book/index.html", tmp_path)
    assert any(name.endswith("vega-bundle.js") for name in weights), "its chart is drawn"
    assert sum(weights.values()) <= FIRST_VISIT, sorted(weights.items(), key=lambda one: -one[1])


def test_the_book_has_all_its_pages():
    contents = (BUILT.parents[1] / "_toc.yml").read_text(encoding="utf-8")
    missing = {path.stem for path in PAGES} ^ {line.rpartition("book/")[2] for line in contents.splitlines()
                                               if "book/" in line}
    assert missing == set()
