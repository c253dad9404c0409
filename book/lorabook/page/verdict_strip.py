"""The landing page's strip of verdicts: a claim a row, in a few words, with its verdict as a coloured word."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lorabook.claims.ledger import Verdict
from lorabook.page.claims_page import CLASSES, outcome_words

# A claim in a few words, in the strip's order; the page of claims has all of each.
IN_SHORT = {
    "C1": "high rank equals full fine-tuning", "C2": "capacity decides when ranks fall behind",
    "C3": "best rate ten times full's", "C4": "first steps alike at every rank",
    "C5": "large batches hurt LoRA", "C6": "attention below the MLP",
    "C7": "rank over active experts", "C10": "one bit a token",
    "C10-W": "two bits a weight", "C11": "two thirds of the operations", "C12": "four settings, two freedoms",
    "C13": "ratio independent of width", "C14": "larger ratio in short runs",
    "C14-B": "B outgrows A", "A1": "LoRA suffers more at high rates", "C8": "RL: rank 1 equals full fine-tuning",
    "C9": "RL: rank 1 has capacity enough", "C3-RL": "RL: ten times the rate",
    "C6-RL": "RL: attention below the MLP", "C10-RL": "RL: an episode tells a token's bits",
    "M1": "RL: cost grows with the secrets", "T1": "RL: rank 1, ten times the rate",
    "T2": "RL: rank 1 saves memory", "O1": "RL: at full's rate LoRA falls behind",
    "O2": "RL: LoRA as such is worse", "P1": "RL: rank 1 is a bottleneck",
}


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
