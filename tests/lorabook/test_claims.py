import math
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from synthetic_records import changed, curve_loss, make

from lorabook.claims.claim import claim
from lorabook.claims.decisions import OUTCOMES, Finding, Limit, Unit, exactly
from lorabook.claims.evidence import Evidence, Scale
from lorabook.claims.ledger import (
    CLAIMS,
    UnknownClaimError,
    VerdictChanged,
    evaluate,
    expect_verdict,
    gather,
    ledger,
    verdict,
)
from lorabook.page.claims_page import ledger_markdown
from lorabook.page.verdict_words import base, block, counts, late, outcome_words, where
from lorabook.page.verdict_words import found as decided
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import Interval
from lorakit.records import Store
from lorakit.specs import SFTSpec

C1 = CLAIMS[0]


def evidence(records, *, profile="cpu", parameters=None, missing=0, embedded=False):
    model = records[0].spec["model"]
    return Evidence(profile, model, tidy(records), runs(records), missing, 1e-2, parameters, embedded)


def specs_of(records, profile="cpu"):
    specs = [SFTSpec.from_json(record.spec) for record in records]
    return lambda experiment, asked: specs if asked == profile else []


@pytest.fixture
def store(tmp_path):
    filled = Store(tmp_path)
    for record in make():
        filled.append("cpu", "rank", record)
    return filled


SOURCES = {"specs_of": specs_of(make()), "facts": lambda model: {"peak_learning_rate": 1e-2, "parameters": 362_000}}


def test_a_changed_record_changes_the_verdict_and_stops_the_build(store):
    before = ledger(store, **SOURCES)
    assert expect_verdict("C1", "holds", before).outcome == "holds"
    for record in make(ranks=(16,), rates=[1e-3]):
        store.append("cpu", "rank", changed(record, test_loss=record.curve["test_loss"][-1] + 0.3))
    after = ledger(store, **SOURCES)
    with pytest.raises(VerdictChanged, match=r"C1: the prose says 'holds', the records say 'does not hold'.*rank 16"):
        expect_verdict("C1", "holds", after)
    assert ledger_markdown(before) != ledger_markdown(after)
    assert verdict("C1", store, **SOURCES).outcome == "does not hold"


def test_a_missing_run_leaves_no_verdict(store):
    more = make() + make(ranks=(128,), rates=[1e-3], seeds=[0])
    found = verdict("C1", store, specs_of=specs_of(more), facts=SOURCES["facts"])
    assert found.outcome == "inconclusive"
    assert "1 have no record" in found.reason


def test_a_failed_run_is_a_missing_run(tmp_path):
    store = Store(tmp_path)
    for record in [*make()[:-1], replace(make()[-1], status="failed")]:
        store.append("cpu", "rank", record)
    (found,) = gather(C1, store, **SOURCES)
    assert found.missing == 1


def test_runs_that_the_experiment_does_not_name_do_not_enter(store):
    for record in make(curve_loss, ranks=(32,), dataset="reworded-skills@1"):
        store.append("cpu", "other", record)
    (found,) = gather(C1, store, **SOURCES)
    assert "rank 32" not in set(found.curves["arm"])
    assert found.scale.parameters == 362_000


def test_an_empty_store_says_not_tested(tmp_path):
    found = verdict("C1", Store(tmp_path), **SOURCES)
    assert found.outcome == "not tested"
    assert found.scale is None
    assert where(found) == "no records"
    assert base(found) == ""


@pytest.mark.parametrize(("profile", "seeds", "outcome"), [("cpu", 4, "inconclusive"), ("cpu", 5, "holds"),
                                                           ("gpu", 3, "holds"), ("gpu", 2, "inconclusive")])
def test_seeds_that_each_profile_needs(profile, seeds, outcome):
    found = evaluate(C1, [evidence(make(seeds=range(seeds)), profile=profile)])
    assert found.outcome == outcome
    assert found.seeds == seeds
    if outcome == "inconclusive":
        assert f"Needs {5 if profile == 'cpu' else 3} seeds, the records have {seeds}" in found.reason


def test_the_headline_is_the_largest_complete_scale():
    tiny = evidence(make(), parameters=360_000)
    large = evidence(make(model="large@1", seeds=range(3)), profile="gpu", parameters=135_000_000)
    found = evaluate(C1, [tiny, large])
    assert found.scale.model == "large@1"
    assert [other.scale.model for other in found.others] == ["base@1"]
    begun = replace(large, missing=7)
    assert evaluate(C1, [begun, tiny]).scale.model == "base@1"


def test_a_best_rate_at_the_edge_gives_no_verdict():
    def downhill(rank, rate, seed, step):
        return 2 - math.log10(rate) / 10

    found = evaluate(C1, [evidence(make(downhill))])
    assert found.outcome == "inconclusive"
    assert "widen the grid upwards" in found.reason


def test_guards_name_what_exists():
    found = [evaluate(claim, []) for claim in CLAIMS]
    with pytest.raises(UnknownClaimError, match="no claim 'C99'; known: C1, C2, "):
        expect_verdict("C99", "holds", found)
    with pytest.raises(ValueError, match="allowed: holds, does not hold"):
        expect_verdict("C1", "true", found)
    with pytest.raises(UnknownClaimError):
        verdict("C99", Store("nowhere"))


def test_claims_are_complete_and_their_rules_name_their_thresholds():
    assert len({each.id for each in CLAIMS}) == len(CLAIMS)
    references = (Path(__file__).parents[2] / "book" / "references.bib").read_text(encoding="utf-8")
    for each in CLAIMS:
        assert f"{{{each.source}," in references
        assert each.limits or each.id == "C7", "C7 asks for one of two numbers"
        for limit in each.limits:
            assert f"{limit.what}: {limit.unit.range(limit.inside)}" in each.rule_text
        assert not each.statement.endswith(".")
        assert each.rule_text.endswith(".")
        assert not set("{}") & set(each.statement + each.rule_text)


SUM = Limit("sum", (3, 5)).measured("", exactly(4))


@claim("X1", source="schulman2025lora", chapter="01-what-lora-is", scope="Sums.", computed=True)
def COUNTED(store):  # noqa: N802
    """two and two is four

    Add.
    """
    return [(Scale("cpu", "base@1", 360_000, None), Finding("holds", "It is 4.", SUM))]


def test_a_computed_claim_is_exact_and_needs_no_seeds(tmp_path):
    (found,) = ledger(Store(tmp_path), [COUNTED])
    assert (found.outcome, found.seeds) == ("holds", 0)
    assert decided(found) == "sum: 4, exact, limit within 3 to 5"
    assert base(found) == "exact"
    assert "**base, 360,000 parameters, exact: holds.** It is 4." in ledger_markdown([found])

    def about_nothing(store):
        """two and two is four"""
        return [(None, Finding("holds", "4."))]

    (found,) = ledger(Store(tmp_path), [replace(COUNTED, rule=about_nothing)])
    assert where(found) == "exact computation"
    assert "| exact | – |" in ledger_markdown([found])


def test_a_computed_claim_without_counts_is_not_tested(tmp_path):
    (found,) = ledger(Store(tmp_path), [replace(COUNTED, rule=lambda store: [])])
    assert found.outcome == "not tested"
    assert where(found) == "no records"


def test_a_computed_claim_has_no_rule_for_runs():
    with pytest.raises(ValueError, match="X1 has no rule for training runs"):
        evaluate(COUNTED, [evidence(make())])


@pytest.mark.parametrize(("shift", "words"), [(0.0, "holds"), (0.3, "does not hold"), (None, "inconclusive")])
def test_a_block_follows_its_verdict(shift, words):
    def loss(rank, rate, seed, step):
        lora = 0.2 * (seed - 2) if shift is None else shift
        return curve_loss(rank, rate, seed, step) + (lora if rank else 0.0)

    found = evaluate(C1, [evidence(make(loss))])
    text, brief = (unescape(block(found, why=why)).replace("<br>", " ") for why in (True, False))
    assert f">{words}</span> LoRA" in text
    assert "base, 360,000 parameters, 32,768 training tokens, 5 seeds. " in text
    assert found.reason in text
    assert decided(found) in brief


@pytest.mark.parametrize(("unit", "words"), [
    (Unit(" %", "% of the gain", signed=True), "rank 4, % of the gain: +12 (−1.5 to +20), limit above 0 %"),
    (Unit("", "", signed=True), "rank 4: +12"), (Unit("", ""), "rank 4: 12 (−1.5 to 20), limit above 0"),
    (Unit("", "bits a token"), "rank 4, bits a token: 12"),
])
def test_only_what_can_be_negative_has_a_sign_and_the_limit_stands_beside_it(unit, words):
    limit = Limit("gap", (0, math.inf), unit).measured("rank 4", lambda confidence: Interval(12.0, -1.5, 20.0, 5))
    verdict = replace(evaluate(C1, [evidence(make())]), limit=limit, limits=(limit,))
    assert decided(verdict).startswith(words)


def test_the_page_shows_each_verdict_alike():
    def worse(rank, rate, seed, step):
        return curve_loss(rank, rate, seed, step) + (0.3 if rank else 0.0)

    good, bad = evaluate(C1, [evidence(make())]), replace(evaluate(C1, [evidence(make(worse))]))
    pages = {v.outcome: ledger_markdown([v]) for v in (good, bad)}
    assert "**1 claims: 1 holds.**" in pages["holds"]
    assert "| [does not hold]{.lk-verdict .lk-fails} |" in pages["does not hold"]
    assert "seeds: does not hold.**" in pages["does not hold"]
    forms = [[line[:1] for line in page.splitlines()] for page in pages.values()]
    assert forms[0] == forms[1]
    for page in pages.values():
        assert "{cite}`schulman2025lora`" in page
        assert C1.rule_text in page
        rows = [line for line in page.partition("### C1")[0].splitlines() if line.startswith("|")]
        assert {row.count("|") - row.count("\\|") for row in rows} == {5}


def test_what_rests_on_an_embedded_model_is_said_of_it_alone():
    seen = evaluate(C1, [evidence(make(model="tiny@1"), embedded=True)])
    words = {outcome: outcome_words(replace(seen, outcome=outcome)) for outcome in OUTCOMES}
    assert words == {"holds": "seen on tiny", "does not hold": "not seen on tiny", "inconclusive": "inconclusive",
                     "depends on the data": "depends on the data", "not tested": "not tested"}
    assert outcome_words(replace(seen, seeds=0)) == "holds", "a count is exact on any model"
    assert counts([seen, replace(seen, outcome="does not hold"), seen]) == "2 seen on tiny, 1 not seen on tiny"
    assert "[seen on tiny]{.lk-verdict .lk-holds}" in ledger_markdown([seen])


@pytest.mark.parametrize(("written", "changed", "recorded", "after"), [
    ("2025-12-31T10:00", "", "2026-01-01", "no"), ("2026-01-02T10:00", "", "2026-01-01", "yes"),
    ("2025-12-31T10:00", "2026-03-01", "2026-01-01", "yes"), ("2025-12-31T10:00", "2026-03-01", None, "no records"),
])
def test_a_rule_changed_after_its_records_says_so(store, tmp_path, written, changed, recorded, after):
    dated = replace(C1, written=written, changed=changed, why="Because.", twins=())
    (found,) = ledger(store if recorded else Store(tmp_path / "empty"), [dated], **SOURCES)
    page = ledger_markdown([found])
    assert f"| **C1** | `rank` | {written} | {changed or '–'} | {recorded or '–'} | {after} | 1 |" in page
    assert "\n1. Because." in page
    assert late(found) == (after == "yes" and bool(changed))
    assert ("Rule changed after its records" in block(found, why=False)) == late(found)
    assert ("**†" in page) == ("under it (so far: C1). Times" in page) == late(found)


@pytest.mark.parametrize(("old", "new", "whole"), [(0.0, 0.0, True), (0.3, 0.0, True), (0.0, 0.3, True),
                                                    (0.0, 0.3, False)])
def test_new_runs_of_one_base_go_before_the_old_once_they_are_whole(tmp_path, old, new, whole):
    def shifted(by):
        return lambda rank, rate, seed, step: curve_loss(rank, rate, seed, step) + (by if rank else 0.0)

    store, twin = Store(tmp_path), replace(C1, experiments=("again",), again=True, twins=())
    runs_of = {"rank": make(shifted(old)), "again": make(shifted(new), seeds=range(5, 10))}
    for name, records in runs_of.items():
        for record in records[: None if name == "rank" or whole else -1]:
            store.append("cpu", name, record)
    found = verdict("C1", store, specs_of=lambda name, profile: specs_of(runs_of.get(name, []))(name, profile),
                    facts=SOURCES["facts"], claims=[replace(C1, twins=(twin,))])
    assert (found.claim is twin) == whole
    assert [other.claim is twin for other in found.others] == [not whole]
    assert found.outcome == ("does not hold" if (new if whole else old) else "holds")
    page = ledger_markdown([found])
    assert page.count(C1.rule_text) == 1, "one rule for both"
    other = replace(found.others[0], claim=replace(found.others[0].claim, rule_text="Another rule."))
    assert "**Rule 2 (2026-11-22T00:02).** Another rule." in ledger_markdown([replace(found, others=(other,))])


def test_the_page_lists_smaller_scales_too():
    large = evidence(make(model="large@1", seeds=range(3)), profile="gpu", parameters=135_000_000)
    page = ledger_markdown([evaluate(C1, [evidence(make()), large])])
    rows = [line for line in page.partition("### C1")[0].splitlines() if line.startswith("| [C1](claim-c1)")]
    assert ["| large |" in row for row in rows] == [True], "one row a claim"
    section = page.partition("### C1")[2]
    assert ":::{dropdown} Elsewhere: holds (base)" in section
    assert "**large, 135,000,000" in section
    assert "**base, " in section
