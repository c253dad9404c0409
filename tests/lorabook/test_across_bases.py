"""Several bases together: each base's mean counts once, and the interval ranges over bases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_claims import C1

from lorabook.claims.across_bases import across_bases, over_bases
from lorabook.claims.decisions import PERCENT, Limit, over_seeds
from lorabook.claims.evidence import Scale
from lorabook.claims.ledger import Verdict
from lorabook.page.claims_page import ledger_markdown

GAP = Limit("the gap", (-5, 5), PERCENT)


def limits(*means, label="rank 16 − full"):
    """Of each base one limit, of two seeds close to its mean."""
    return [(GAP.measured(label, over_seeds([mean - 0.01, mean + 0.01])),) for mean in means]


def test_the_interval_ranges_over_bases():
    found = over_bases(limits(0.9, 1.0, 1.1))
    assert found.outcome == "holds"
    assert found.limit.span.n == 3
    assert found.limit.span.mean == pytest.approx(1.0)
    assert (found.limit.span.low, found.limit.span.high) == pytest.approx((1 - 0.2484, 1 + 0.2484), abs=1e-3)
    assert over_bases(limits(-4.0, 1.0, 4.0)).outcome == "inconclusive", "each alone would hold"


def test_two_bases_or_limits_that_differ_say_nothing_together():
    assert over_bases(limits(0.9, 1.0)) is None
    assert over_bases([*limits(0.9, 1.0), *limits(1.0, label="rank 64 − full")]) is None
    assert over_bases([]) is None


def verdict(model, mean, claim=C1, parameters=393_856):
    (found,) = limits(mean)
    return Verdict(claim, "holds", "", found[0], 5, Scale("cpu", model, parameters, 1000, True), limits=found)


def test_of_each_base_the_newest_runs_count_and_the_page_says_so():
    old, new = verdict("a@1", 3.0), verdict("a@1", 1.0, replace(C1, again=True))
    others = (new, verdict("b@1", 0.9), verdict("c@1", 1.1), verdict("large@1", 40.0, parameters=10**9))
    whole = replace(old, others=others)
    found, bases = across_bases(whole)
    assert [one.scale.model for one in bases] == ["a@1", "b@1", "c@1"]
    assert found.limit.span.mean == pytest.approx(1.0)
    assert across_bases(replace(old, others=(verdict("b@1", 0.9),))) is None
    assert "**Over 3 bases (a, b, c): holds.**" in ledger_markdown([whole])
