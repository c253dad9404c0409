"""The landing page's strip of verdicts: a claim a row, in a few words, with its base and a coloured word."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lorabook.claims.ledger import Verdict
from lorabook.page.verdict_words import base, chip, in_order, outcome_words, short


def strip(verdicts: Sequence[Verdict]) -> str:
    """The list as HTML."""
    return f'<ul class="lk-strip">{"".join(map(row, in_order(verdicts)))}</ul>'


def row(verdict: Verdict) -> str:
    """One claim, linked to its chapter."""
    words = outcome_words(verdict).removesuffix(" on tiny")  # its base says so
    return (f'<li><a href="{verdict.claim.chapter}.html">{html.escape(short(verdict))}</a>'
            f"<span><small>{base(verdict)}</small> {chip(verdict, words)}</span></li>")
