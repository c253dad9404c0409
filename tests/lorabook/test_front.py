"""The landing page and What to do: short enough to read at once, and complete."""

import json
import re
from pathlib import Path

import pytest

from lorabook.claims import CLAIMS
from lorabook.claims.decisions import HOLDS
from lorabook.claims.ledger import Verdict
from lorabook.page import ratios
from lorabook.page.calculator_form import LINES, Support, fragment
from lorabook.page.verdict_strip import strip
from lorabook.page.verdict_words import IN_SHORT
from lorakit.analysis.statistics import Interval
from lorakit.theory.hardware import GPUS

BOOK = Path(__file__).parents[2] / "book"
README = BOOK.parent / "README.md"
CHIP = "tiny not seen"  # base and verdict have two to five words, fewer than three on average


def prose(markdown):
    """A page's words: no cells but captions, no targets of links, no front matter."""
    captions = " ".join(re.findall(r"caption: \|\n(.*?)\n    name:", markdown, re.S))
    text = re.sub(r"^(`{3,})\{code-cell\}.*?^\1\s*$|\A---.*?^---$", "", markdown, flags=re.S | re.M)
    text = re.sub(r"\{\w+\}`[^`]*`", "word", re.sub(r"\]\([^)]*\)|^:\w.*$|^\(.*\)=$", "", text, flags=re.M))
    return words(re.sub(r"^:+\{[\w-]+\}", "", text, flags=re.M) + captions)


def words(text):
    return len(re.findall(r"[A-Za-z]\S*", text))


def seen(html):
    """Words of HTML that a reader sees: menus, code and what shows without script alone not counted."""
    hidden = r"<(script|select|template|noscript|pre)\b.*?</\1>"
    return words(re.sub(r"<[^>]+>", " ", re.sub(hidden, " ", html, flags=re.S)))


def test_the_landing_page_has_at_most_400_words():
    page = (BOOK / "index.md").read_text(encoding="utf-8")
    row_words = sum(words(text) for text in IN_SHORT.values()) + words(CHIP) * len(IN_SHORT)
    assert prose(page) + row_words <= 400


def test_what_to_do_has_at_most_900_words_and_thirty_questions():
    page = (BOOK / "what-to-do.md").read_text(encoding="utf-8")
    advice, _, index = page.partition("## Thirty questions")
    word = ["word"]
    support = Support(" ".join(12 * word), "medium: " + " ".join(20 * word), ("02-rank", "Rank"), " ".join(18 * word))
    assert prose(advice) + seen(fragment({task: dict.fromkeys(LINES, support) for task in ("sft", "rl")})) <= 900
    questions = re.findall(r"^(\S.*)\n: (.*(?:\n  .*)*)$", index, re.M)
    assert len(questions) == 30
    for question, answer in questions:
        assert "{doc}" in answer, f"{question} has no link"
        assert len(re.sub(r"\{doc\}`[^`]*`", "", answer)) <= 260, f"{question}: more than two lines"


def test_every_claim_has_a_row_in_words():
    assert {claim.id for claim in CLAIMS} == set(IN_SHORT)


def test_every_reference_has_a_link():
    entries = re.split(r"\n(?=@)", (BOOK / "references.bib").read_text(encoding="utf-8"))
    assert [entry.split(",")[0] for entry in entries if not re.search(r"\b(url|doi|eprint) = ", entry)] == []


@pytest.mark.parametrize("claim", [CLAIMS[0]])
def test_a_row_links_to_its_chapter_and_says_its_verdict(claim):
    row = strip([Verdict(claim, HOLDS, "because")])
    assert f'href="{claim.chapter}.html"' in row
    assert 'lk-holds">holds<' in row


def test_sentences_quote_no_ratio_whose_interval_is_wide():
    found = [ratios.Ratio("tiny", "a", ratios.REWARD, Interval(5.0, 4.0, 6.0, 5)),
             ratios.Ratio("tiny", "b", ratios.REWARD, Interval(8.6, 3.6, 20.9, 10)),
             ratios.Ratio("tiny", "c", ratios.SUPERVISED, Interval(2.0, 1.5, 2.5, 5)),
             ratios.Ratio("other", "d", ratios.REWARD, ratios.one_run(2.8), ours=False)]
    assert ratios.settled(found, ratios.REWARD) == [5.0, 2.8]
    assert ratios.settled(found, ratios.REWARD, "other") == [2.8]


def test_readme_has_the_ratios_of_its_chart():
    said = re.search(r"is ([\d.]+) times .* and ([\d.]+) times after 1,000, ([\d.]+) times .*, ([\d.]+) times where",
                     README.read_text("utf-8"))
    chart = (BOOK / "_static" / "ratio.svg").read_text(encoding="utf-8")
    for number in said.groups():
        assert f">{number}<" in chart, number


def test_readme_has_the_costs_of_the_records():
    text = README.read_text("utf-8")
    hours, minutes, dollars = map(float, re.search(r"about (\d+) hours, added .*\n.* about (\d+) minutes of one H200: "
                                                   r"(\d+) dollars", text).groups())
    pattern = (r"study of ranks \((\d+) runs that screen, (\d+) that confirm, (\d+) of ten steps\), that of layers on "
               r"real text \((\d+) that screen, (\d+) that confirm\) and a part of RL \((\d+) that screen, (\d+) that "
               r"confirm\)")
    runs = [int(count) for count in re.search(pattern, text).groups()]
    gpu = BOOK / "results" / "gpu"
    made = [sum(len(path.read_text("utf-8").splitlines()) for path in gpu.glob(f"smollm2-{name}.jsonl")) for name in (
                "rank-[0-9]", "rank-confirmed", "rank-early", "layers-[0-9]", "layers-confirmed", "grpo-*-[0-9]",
                "grpo-*-confirmed")]
    assert runs == made
    spent = {}
    for profile in ("cpu", "gpu"):
        lines = [line for path in (BOOK / "results" / profile).glob("*.jsonl")
                 for line in path.read_text(encoding="utf-8").splitlines()]
        spent[profile] = sum(json.loads(line)["provenance"].get("seconds", 0) for line in lines) / 3600
    price = spent["gpu"] * GPUS["H200"].price_per_hour
    found = {"hours": spent["cpu"], "minutes": 60 * spent["gpu"], "dollars": price}
    assert {"hours": hours, "minutes": minutes, "dollars": dollars} == pytest.approx(found, rel=0.3), "tell README"
