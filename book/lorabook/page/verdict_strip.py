"""The landing page's strip of verdicts: a claim a row, in a few words, with its verdict as a coloured word."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lorabook.claims.decisions import FAILS, HOLDS, OPEN, UNTESTED
from lorabook.claims.ledger import Verdict
from lorabook.page.claims_page import outcome_words

# A claim in a few words, in the strip's order; the page of claims has all of each.
IN_SHORT = {
    "C1": "high rank ends level with full fine-tuning", "C2": "capacity sets when a rank falls behind",
    "C3": "LoRA's best rate is ten times full's", "C4": "first steps are alike at every rank",
    "C5": "large batches cost LoRA more", "C6": "attention alone is worse than the MLP",
    "C7": "expert rank: total over active experts", "C10": "data carry one bit a token",
    "C11": "LoRA takes two thirds of the operations", "C12": "four settings, two freedoms",
    "C13": "the ratio ignores the width", "C14": "short runs need a larger ratio",
    "A1": "LoRA suffers more from a high rate", "C8": "by reward even rank 1 ends level",
    "C9": "rank 1 has room for what rewards tell", "C3-RL": "by reward, too, ten times the rate",
    "C6-RL": "by reward, too, the MLP beats attention", "C10-RL": "an episode tells as much as a token",
    "M1": "reward's cost grows with the secrets", "T1": "rank 1 at ten times the rate suffices",
    "T2": "rank 1 takes less memory by reward", "O1": "at full's rate LoRA stays far behind",
    "O2": "LoRA as such is worse by reward", "P1": "a very small rank is a bottleneck",
}
CLASSES = {HOLDS: "holds", FAILS: "fails", OPEN: "open", UNTESTED: "untested"}


def strip(verdicts: Sequence[Verdict]) -> str:
    """The list as HTML; a claim that `IN_SHORT` does not know shows its id, and comes last."""
    known = list(IN_SHORT)
    ordered = sorted(verdicts, key=lambda one: known.index(one.claim.id) if one.claim.id in known else len(known))
    return f'<ul class="lk-strip">{"".join(map(row, ordered))}</ul>'


def row(verdict: Verdict) -> str:
    """One claim, linked to its chapter."""
    claim, words = verdict.claim, outcome_words(verdict).removesuffix(" at this scale")
    name = html.escape(IN_SHORT.get(claim.id, f"claim {claim.id}"))
    return (f'<li><a href="{claim.chapter}.html">{name}</a>'
            f'<span class="lk-verdict lk-{CLASSES[verdict.outcome]}">{words}</span></li>')
