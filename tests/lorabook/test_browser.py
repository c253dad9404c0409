"""The built pages ask no other host for anything, and draw their charts in a browser that has no network.

How a browser is found and asked is in `pages_in_browser`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages_in_browser import PHONE, axe, browser, first_visit, inspect, open_page, served
from waiting import LONG

from lorabook.page import paper

ROOT = Path(__file__).parents[2]
FETCHING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
LINKS_THAT_FETCH_NOTHING = {"canonical", "author", "license", "search", "next", "prev", "index"}


class Requests(HTMLParser):
    """Addresses that a browser fetches when it opens the page, and the text of inline scripts."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        kinds = set((values.get("rel") or "").split())
        if tag in FETCHING and values.get(FETCHING[tag]) and not (tag == "link" and kinds & LINKS_THAT_FETCH_NOTHING):
            self.addresses.append(values[FETCHING[tag]])


def foreign_addresses(page):
    reader = Requests()
    reader.feed(page)
    return [address for address in reader.addresses if re.match(r"(?:https?:)?//", address)]


def foreign_imports(css):
    return re.findall(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^\"')]+", css)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book of two pages, built as the real one is: same configuration, extension and static files."""
    pytest.importorskip("jupyter_book", reason="needs the book's packages")
    folder = tmp_path_factory.mktemp("mini")
    (folder / "book" / "results").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", folder)
    for part in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / part, folder / "book" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("references.md", "references.bib", "glossary.md", "notation.md"):
        shutil.copy(ROOT / "book" / name, folder / "book")
    shutil.copy(ROOT / "tests" / "lorabook" / "mini_book" / "mini.md", folder / "book")
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/mini\nchapters:\n- file: book/status\n- file: book/references\n"
        "- file: book/glossary\n- file: book/notation\n")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'book'}", "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()",
               "build", str(folder), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LONG, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (folder / "said").write_text(done.stderr, encoding="utf-8")
    return folder / "_build" / "html"


def test_a_build_says_one_line_a_chapter(built):
    said = (built.parents[1] / "said").read_text(encoding="utf-8")
    assert len(re.findall(r"^book/mini: \d+ s$", said, re.M)) == 1
    assert "Kernel" not in said, "no warning of the kernel"


def test_no_page_names_another_host_in_anything_that_is_fetched(built):
    pages = sorted(built.rglob("*.html"))
    assert len(pages) >= 3
    assert {page.name: foreign_addresses(page.read_text(encoding="utf-8")) for page in pages} == {
        page.name: [] for page in pages}
    for sheet in built.rglob("*.css"):
        assert foreign_imports(sheet.read_text(encoding="utf-8")) == [], sheet


def test_a_foreign_script_would_be_found():
    page = '<script src="//cdn.example/x.js"></script><link rel="stylesheet" href="https://a.example/y.css"><img src=z>'
    assert foreign_addresses(page) == ["//cdn.example/x.js", "https://a.example/y.css"]
    assert foreign_imports("@import url(https://a.example/y.css)")


def test_chart_has_picture_description_and_caption_without_script(built):
    page = (built / "book" / "mini.html").read_text(encoding="utf-8")
    picture = re.search(r'<noscript><img alt="Three arms fall together." src="../_images/(chart-\w+.png)"', page)
    assert (built / "_images" / picture.group(1)).read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" not in page, "pictures are not part of the page's weight"
    assert "A caption that ends in its finding." in page
    assert "drawn from 18 rows" in re.sub(r"<[^>]+>", "", page)


def test_chart_and_formula_are_drawn_with_the_network_blocked(built, tmp_path):
    dom, asked = open_page(built / "book" / "mini.html", tmp_path)
    chart = dom[dom.index('class="lorakit-chart"') :]
    chart = chart[: chart.index("</figcaption>")]
    assert re.search(r'<svg[^>]*class="marks"', chart), "Vega drew nothing"
    assert chart.count('aria-roledescription="point"') == 9, "the means of three arms at three steps"
    assert 'stroke="currentColor"' in chart, "full fine-tuning follows the page's ink"
    assert chart.count("<img") == 1, "the picture stays within noscript"
    assert "<noscript>&lt;img" in chart or "<noscript><img" in chart
    assert "Save data as CSV" in chart
    assert "Open in Vega Editor" not in chart
    assert "<mjx-container" in dom, "MathJax drew nothing"
    assert asked == [], f"the page asked for {asked}"


def test_a_first_visit_weighs_less_than_a_megabyte_and_the_page_little_of_it(built, tmp_path):
    weights = first_visit(built, "book/mini.html", tmp_path)
    assert any(name.endswith("vega-bundle.js") for name in weights)
    assert any(name.endswith("fa-solid-900.woff2") for name in weights)
    assert not any(name.startswith("_images/chart-") for name in weights), "a picture is for who has no script"
    search = 60_000  # of the whole book's index, beyond this small one's
    assert sum(weights.values()) + search <= 1_000_000, weights
    assert weights["book/mini.html"] <= 120_000


def test_every_icon_of_the_pages_is_in_the_small_fonts(built):
    fonts = built / "_static" / "vendor" / "fontawesome" / "webfonts"
    assert (fonts / "fa-solid-900.woff2").stat().st_size < 10_000
    held = {line for path in fonts.glob("*.txt") for line in path.read_text().split()}
    css = (built / "_static" / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    names = {name for page in built.rglob("*.html") for classes in
             re.findall(r'class="([^"]*\bfa[bsr-][^"]*)"', page.read_text(encoding="utf-8"))
             for name in re.findall(r"fa-([a-z0-9-]+)", classes)} - {"solid", "brands", "lg"}
    assert len(names) > 8
    for name in names:
        sign = re.search(rf"\.fa-{name}:before[^{{}}]*\{{content:\"(?:\\([0-9a-f]+)|(.))\"", css)
        assert (sign.group(1) or f"{ord(sign.group(2)):x}") in held, f"fa-{name}: add it to the small font"


def test_request_log_would_show_a_foreign_script(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<script src="https://cdn.example/x.js"></script>', encoding="utf-8")
    _, asked = open_page(page, tmp_path)
    assert "https://cdn.example/x.js" in asked


def test_on_a_phone_nothing_scrolls_sideways_and_letters_of_drawings_are_readable(built, tmp_path):
    found = inspect(built / "book" / "mini.html", tmp_path)
    assert found["wide"] <= PHONE
    assert found["sideways"] == []
    assert len(found["letters"]) > 30
    assert min(found["letters"]) >= 11


@pytest.mark.parametrize("page", ["book/mini", "book/glossary", "book/references", "search"])
def test_axe_finds_nothing_serious(built, tmp_path, page):
    if axe() is None:
        pytest.skip("axe-core-python is not installed")
    assert inspect(built / f"{page}.html", tmp_path)["serious"] == []


def test_axe_would_find_a_picture_without_words(tmp_path):
    if axe() is None:
        pytest.skip("axe-core-python is not installed")
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><html lang="en"><title>x</title><main><h1>x</h1><img src="a.png"></main>', "utf-8")
    assert any("image-alt" in one for one in inspect(page, tmp_path)["serious"])


def test_ways_out_are_there_and_those_without_an_address_absent(built):
    page = (built / "book" / "mini.html").read_text(encoding="utf-8")
    assert '<meta name="description" content="' in page
    assert 'property="og:title"' in page
    assert "og:image" not in page, "no address of the site is set"
    assert "github.com" not in page, "no address of the repository is set"
    assert 'href="../notebooks/mini.ipynb"' in page
    cells = json.loads((built / "notebooks" / "mini.ipynb").read_text(encoding="utf-8"))["cells"]
    assert any(cell.get("outputs") for cell in cells)
    assert "stderr" not in json.dumps(cells)


def test_the_button_of_colab_needs_a_repository_that_colab_reads(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import ways_out

    address = "https://colab.research.google.com/github/someone/book/blob/notebooks/02-rank.ipynb"
    assert ways_out.on_colab("https://github.com/someone/book/", "book/02-rank") == address
    assert ways_out.on_colab("", "book/02-rank") == ways_out.on_colab("https://gitlab.com/a/b", "book/02-rank") == ""
    assert "git clone --quiet --depth 1 https://x /content" in ways_out.SETUP.format(repository="https://x")


def test_evidence_is_folded_and_opens_for_an_address_inside_it(built, tmp_path):
    page = built / "book" / "mini.html"
    text = page.read_text(encoding="utf-8")
    fold = r'<section id="evidence">\s*<details class="evidence"><summary><h2>Evidence.*?</details>\s*</section>'
    inside = re.search(fold, text, re.S)
    assert "Deep inside" in inside.group()
    code = re.findall(r'<details class="evidence-code"><summary>(.*?)</summary>.*?</details>', inside.group(), re.S)
    assert code == ["Code, 5 lines"], "a short cell stays in view"
    assert "This is outside of the fold." in text[inside.end():]
    assert 'href="#deep-inside"' in text, "the list of contents keeps what is folded"
    closed, _ = open_page(page, tmp_path)
    assert '<details class="evidence"><summary>' in closed
    fold = closed[closed.index('<details class="evidence"'):]
    assert re.search(r'<svg[^>]*class="marks"[^>]* width="[5-9]\d\d', fold), "drawn before it is opened"
    for anchor in ("evidence", "deep-inside"):
        opened, _ = open_page(page, tmp_path, anchor=anchor)
        assert '<details class="evidence" open=""><summary>' in opened, anchor


def test_a_diagram_is_part_of_the_page_with_words_for_who_cannot_see_it(built):
    page = (built / "book" / "mini.html").read_text(encoding="utf-8")
    drawn = re.findall(r'<svg role="img" aria-label="([^"]+)"[^>]*class="dg">', page)
    assert len(drawn) == 2
    assert "full fine-tuning" in drawn[0]
    assert "B is a tall matrix" in drawn[1]
    assert 'href="#fig-memory"' in page


def test_numbers_of_a_table_are_aligned_and_words_are_not(built):
    page = (built / "book" / "mini.html").read_text(encoding="utf-8")
    tables = re.findall(r'<div class="table-scroll" tabindex="0"><table.*?</table></div>', page, re.S)
    frame, markdown = ([re.sub(r"<[^>]+>", "", cell) for cell in
                        re.findall(r'<t[hd][^>]*class="[^"]*\bnum\b[^"]*"[^>]*>.*?</t[hd]>', table, re.S)]
                       for table in tables[:2])
    assert frame == ["rank", "minus full", "1", "+9.6 (3.8 to 15.0)", "16", "−1.6 (−3.0 to −0.3)"], "no counter"
    assert markdown == ["weights", "393,856"]


def test_a_wide_table_says_on_a_phone_which_column_a_cell_belongs_to(built):
    page = (built / "book" / "mini.html").read_text(encoding="utf-8")
    folded = page[page.index("What stands here is folded"):]
    assert re.search(r'<table[^>]*class="[^"]*\bas-list\b', folded)
    assert len(re.findall(r'data-head="best rate, rank 16"', folded)) == 2
    assert folded.count(">copying</th>") == 2, "a cell over two rows stands in each"
    assert "as-list" not in page[page.index("minus full"):page.index("What stands here")], "a narrow table stays one"


def test_a_table_that_scrolls_sideways_would_be_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><meta name="viewport" content="width=device-width"><div class="table-scroll" '
                    f'style="overflow-x:auto"><table><tr><td>{"x" * 200}</table></div>', encoding="utf-8")
    found = inspect(page, tmp_path)
    assert found["wide"] <= PHONE
    assert [one.partition(" ")[0] for one in found["sideways"]] == ["phone", "desk"]


def test_the_first_use_of_a_word_of_the_glossary_shows_its_meaning(built):
    page = (built / "book" / "mini.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="glossary-word[^"]*" href="([^"]+)" title="([^"]+)">([^<]+)</a>', page)
    assert [(address, word) for address, _, word in links] == [("glossary.html#term-guard", "guard")]
    assert links[0][1].startswith("A sentence of the book tied to the records")
    assert 'id="term-guard"' in (built / "book" / "glossary.html").read_text(encoding="utf-8")


def test_the_book_prints_as_one_pdf_with_its_folds_open(built):
    pages = [built / "book" / f"{name}.html" for name in ("mini", "glossary")]
    whole = paper.one_page(pages)
    assert "<details open class=\"evidence\"" in whole
    assert 'href="#page-glossary"' in whole
    assert whole.count("paper-page") == 2
    browser()
    shutil.copy(built / "book" / "mini.html", built / "book" / "index.html")
    try:
        target = paper.print_pdf(built)
    finally:
        (built / "book" / "index.html").unlink()
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 4
    assert not (built / "book" / "_paper.html").exists()


def test_without_a_book_there_is_nothing_to_print(tmp_path):
    with pytest.raises(paper.PaperError, match="make book"):
        paper.pages(tmp_path)


def test_a_hit_of_the_search_leads_to_its_section(built, tmp_path):
    with served(built) as server:
        dom, _ = open_page(f"http://127.0.0.1:{server.server_port}/search.html?q=outside", tmp_path)
    hit = re.search(r'<p class="context"><a href="([^"]+)">([^<]+)</a>: (.*?)</p>', dom)
    assert hit.groups()[:2] == ("book/mini.html#after-it", "After it")
    assert "This is outside of the fold." in re.sub("<[^>]+>", "", hit.group(3))
