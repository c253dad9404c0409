"""Words of records on a page: built with the book's own extensions, they appear as they were given and do nothing."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lorabook.page.status import status_page
from lorakit.markdown import LONGEST, cell, table
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec

EXTENSIONS = yaml.safe_load((Path(__file__).parents[2] / "_config.yml").read_text())["parse"]["myst_enable_extensions"]
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "<!-- gone", "&lt;b&gt; &#60;i&#62;",
    "```{literalinclude} secret.txt\n```", "\n\n```{include} secret.txt\n```\n\n", "\r\n:::{include} secret.txt\n:::",
    "~~~{include} secret.txt\n~~~", "{literalinclude}`secret.txt`", "{doc}`index`", "{{ secret }}", "`code` ``more``",
    "% all of this line", "$x_1$ and $$y$$", r"\begin{align} z \end{align}", "a | b || c", "| x | y |\n| --- | --- |",
    "**bold** __too__ _it_ *al* snake_case_name", "[link](javascript:alert(3))", "![picture](secret.txt)",
    "<javascript:alert(4)>", "[note]: secret.txt", "[^1] [^1]: foot", "(target)=", "# heading", "1. first", "1) first",
    "- item", "+ item", "* item", "> quoted", "--- ", "===", "+++", "- [ ] task", "term\n: meaning", ":field: value",
    "{.class #id}", "[words]{.class}", "text {#id}", "back\\slash \\", "https://a.example/x?y=z&w", "user@a.example",
    "un\x00der \x1b[31m \u202egnol \u2028 \u2029 \x85 \ud800", "2.13.0+cpu", "Intel(R) Xeon(R) @ 2.10GHz", "~~struck~~",
]


def words(text):
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The pages that Sphinx makes of a status page of hostile records, and of a list and a table of the same words."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "secret.txt").write_text("TOPSECRET\n")
    store = Store(folder / "results")
    for k, text in enumerate(HOSTILE):
        spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, seed=k)
        provenance = dict.fromkeys(("device", "threads", "engine", "torch", "python", "date"), words(text) or text)
        provenance |= {"threads": text, "torch": [text]}
        store.append("cpu", "rank", Record.from_run(spec, "ok", {}, {}, provenance))
    with store.path("cpu", "rank").open("a", encoding="utf-8", errors="replace") as file:
        for text in HOSTILE:
            line = Record.from_run(spec, "ok", {}, {}, {}).to_json() | {"status": text}
            file.write(json.dumps(line) + "\n")
    status = status_page(store).replace("```{nb-exec-table}\n```", "")
    (folder / "index.md").write_text(status + "\n```{toctree}\nwords\n```\n", encoding="utf-8")
    listed = "".join(f"- {cell(text)}\n" for text in HOSTILE)
    shown = table(["word"], [[text] for text in HOSTILE])
    (folder / "words.md").write_text(f"# Words\n\n{shown}\n{listed}", encoding="utf-8")
    (folder / "conf.py").write_text(f'extensions = ["myst_nb", "sphinx_design"]\nnb_execution_mode = "off"\n'
                                    f"myst_enable_extensions = {EXTENSIONS}\nsmartquotes = False\n"
                                    'myst_substitutions = {"secret": "TOPSECRET"}\n')
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(folder),
                           str(folder / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: (folder / "out" / f"{name}.html").read_text(encoding="utf-8") for name in ("index", "words")}


def test_hostile_words_appear_as_they_were_given(built):
    body = built["words"].split('<h1>Words')[1].split("</section>")[0]
    cells = [re.sub(r"</?p>", "", c).strip() for c in re.findall(r"<td>(.*?)</td>", body, re.DOTALL)]
    items = [re.sub(r"</?p>", "", c).strip() for c in re.findall(r"<li>(.*?)</li>", body, re.DOTALL)]
    assert [html.unescape(c) for c in cells] == [html.unescape(c) for c in items] == [words(t) for t in HOSTILE]
    assert not any("<" in c for c in (*cells, *items)), "no element of any kind came of them"


def test_the_status_page_runs_nothing_and_includes_nothing(built):
    page = built["index"].split("<h2>Records")[1].split("<footer")[0]
    assert "TOPSECRET" not in page
    for mark in ("<script>alert", "<img", "<h4", "<code", "<em", "<strong", "reference external", 'class="math'):
        assert mark not in page, mark
    assert page.count("&lt;img src=x onerror=alert(2)&gt;") >= 4, "the words themselves are there"


def test_a_cell_is_one_short_line():
    assert cell("x" * 10**6) == "x" * (LONGEST - 2) + " …"
    assert cell(None) == "None"
    for text in HOSTILE:
        assert cell(text).isprintable()
