"""A chapter's bookkeeping: numbers for the prose, guards that stop the build, and the page that lists them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_records import make

from lorabook.claims.ledger import VerdictChanged
from lorabook.experiments.results import MissingRecordsError, Results
from lorabook.page import chapter as module
from lorabook.page.chapter import ABSENT, Chapter
from lorabook.page.guards import Guard, guards_of, guards_page
from lorabook.page.rendering import RenderingError

BOOK = Path(__file__).parents[2] / "book"


@pytest.fixture
def glued(monkeypatch):
    found = {}
    plain = module.glue
    monkeypatch.setattr(module, "glue", lambda name, value, form="": found.update({name: plain(name, value, form)}))
    monkeypatch.delenv("LORAKIT_SIZE", raising=False)
    return found


def test_a_false_sentence_stops_the_build_at_record_size_alone():
    Chapter("rank").says(True, "it is so")
    with pytest.raises(VerdictChanged, match="the records no longer say: rank 1 is behind"):
        Chapter("rank").says(False, "rank 1 is behind")
    with pytest.raises(VerdictChanged):
        Chapter("rank").says(lambda: 0, "nor of a function")
    live = Chapter("rank", size="live")
    live.says(False, "nothing")
    live.says(lambda: {}["absent"], "a function is not even called")


def test_the_size_of_the_build_goes_before_the_chapters_own(monkeypatch):
    monkeypatch.setenv("LORAKIT_SIZE", "live")
    assert Chapter("rank").size == "live"
    assert Chapter("rank", "gpu").size == "record"


def test_numbers_are_glued_under_the_chapters_name(glued):
    Chapter("rank").glue(".1f", best_rate=1.25, other=lambda: 2)
    Chapter("rank").glue(words="none")
    assert glued == {"rank-best-rate": "1.2", "rank-other": "2.0", "rank-words": "none"}


def test_what_the_live_size_lacks_is_said_to_be_missing_and_at_record_size_is_an_error(glued):
    Chapter("rank", size="live").glue(".1f", gap=lambda: {}["rank 64"], ratio=lambda: float("inf"))
    assert glued == {"rank-gap": ABSENT, "rank-ratio": ABSENT}
    with pytest.raises(KeyError, match="rank 64"):
        Chapter("rank").glue(gap=lambda: {}["rank 64"])
    with pytest.raises(RenderingError):
        Chapter("rank", size="live").glue(gap=float("nan"))


def test_verdicts_are_the_chapters_own_and_can_be_expected(monkeypatch):
    monkeypatch.setenv("LORAKIT_RESULTS", str(BOOK / "results"))
    monkeypatch.delenv("LORAKIT_SIZE", raising=False)
    page = Chapter("rank")
    assert {"C1", "C2", "C4"} <= set(page.verdicts)
    assert "C8" not in page.verdicts
    page.expect(C2="inconclusive")
    page.expect("tiny", C1="inconclusive")
    with pytest.raises(VerdictChanged, match="C2"):
        page.expect(C2="does not hold")
    assert page.verdicts["C2"].claim.statement[1:] in page.verdict_table().data
    assert "inconclusive</span>" in page.verdict_table().data
    assert len(Chapter("what-to-do").claims) > len(page.claims), "a page that tests none may speak of all"


def test_the_sweeps_that_a_chapter_asked_for_are_its_results_and_fill_its_card(glued, monkeypatch):
    records = make(ranks=(None, 1), seeds=range(2))
    for place, record in enumerate(records):
        record.provenance.update(seconds=60.0, peak_bytes=2_000_000, date=f"2026-01-{1 + place % 9:02d}T00:00:00")
    monkeypatch.setattr(module, "results", lambda name, *_, **__: Results(name, "cpu", "record", (), records))
    page = Chapter("rank")
    ran = page.sweep("rank")
    assert page.results == {"rank": ran}
    page.card(ran)
    assert {name: glued[f"rank-{name}"] for name in ("runs", "minutes", "megabytes", "made")} == {
        "runs": "20", "minutes": "10", "megabytes": "2", "made": "2026-01-01"}
    for record in records:
        record.provenance["peak_bytes"] = None
    page.card(ran)
    assert glued["rank-megabytes"] == "an unknown number of"


def test_a_chapter_can_ask_for_the_runs_of_record_size_at_the_live_size(monkeypatch):
    monkeypatch.setattr(module, "results", lambda *_, **__: pytest.fail("may train"))
    monkeypatch.setattr(module, "recorded", lambda name, profile: Results(name, profile, "record", (), ()))
    assert Chapter("rank", size="live").sweep("rank", size="record").size == "record"


def code(*lines):
    return "```{code-cell} ipython3\n:tags: [remove-cell]\n\n" + "\n".join(lines) + "\n```\n"


def test_guards_are_read_from_the_source_with_their_thresholds():
    text = "# Title\n" + code("page.says(gap.low > 5, 'rank 1 is behind')", "x = 1") + code(
        "for arm in arms:", "    page.says(lambda: cliff[arm] < 0.1, f'the cliff of {arm}')",
        "page.expect(C3_RL='does not hold')", 'expect_verdict("C9", "holds", found)', "other.check(1, 'no guard')")
    assert guards_of(text) == [
        Guard("rank 1 is behind", "gap.low > 5"), Guard("the cliff of {arm}", "cliff[arm] < 0.1"),
        Guard("the verdict on C3-RL", "'does not hold'"), Guard("the verdict on C9", "'holds'")]


def test_the_page_of_guards_lists_every_chapter_that_has_some(tmp_path):
    for name, condition in {"01-one": "a < 1", "02-two": None}.items():
        (tmp_path / f"{name}.md").write_text(code(f"page.says({condition}, 'it <is> so')") if condition else "no code")
    page = guards_page(sorted(tmp_path.glob("*.md")))
    assert "## {doc}`01-one`" in page
    assert "- it &lt;is&gt; so: `a < 1`" in page
    assert "02-two" not in page


def test_every_guard_of_the_book_is_on_the_page():
    chapters = sorted(BOOK.glob("*.md"))
    page = guards_page(chapters)
    assert all(f"{{doc}}`{name}`" in page for name in ("what-to-do", "02-rank", "09-grpo"))
    for path in chapters:
        text = path.read_text(encoding="utf-8")
        assert len(guards_of(text)) >= text.count("page.says("), path.name
        assert "def check(" not in text
    assert page.count("\n- ") == sum(len(guards_of(path.read_text(encoding="utf-8"))) for path in chapters)


def test_a_page_that_only_reads_finds_its_own_runs_or_says_that_it_trained(monkeypatch, tmp_path):
    import lorakit as lk

    monkeypatch.setattr(module, "store", lambda: lk.Store(tmp_path / "results"))
    monkeypatch.delenv("LORAKIT_MISSING", raising=False)
    page = Chapter("rank")
    assert page.runs == tmp_path / "do-it" / "cpu" / "rank"
    old, new = (replace(make(ranks=[1], rates=[1e-3], seeds=[0])[0],
                        provenance={"date": date, "seconds": 2.0, "device": "a CPU"})
                for date in ("2026-11-01T10:00:00+00:00", "2999-01-01T00:00:00+00:00"))
    assert "1 run, recorded on 2026-11-01" in page.made([old]).data
    with pytest.raises(MissingRecordsError, match="1 of 2 runs of this page had no record"):
        page.made([old, new])
    monkeypatch.setenv("LORAKIT_MISSING", "train")
    assert "made just now" in page.made([old, new]).data
    live = Chapter("rank", size="live")
    assert live.runs == live.runs
    assert not list(live.runs.iterdir())
    assert "made just now" in live.made([new]).data


def test_a_refresh_on_one_profile_never_trains_the_runs_of_another(monkeypatch):
    monkeypatch.setenv("LORAKIT_MISSING", "train")
    monkeypatch.setattr("lorakit.sweep.sweeps.run", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(MissingRecordsError, match="lorabook run rank --profile gpu"):
        Chapter("rank").sweep("rank", "gpu", "record")
