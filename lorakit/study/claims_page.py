"""Verdicts in words: a sentence for a chapter, and the page of the book that lists them all."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.study.claims import Verdict
from lorakit.study.evidence import FAILS, HOLDS, OPEN, OUTCOMES, UNTESTED

SCALE_WORDS = {
    HOLDS: "holds at this scale",
    FAILS: "does not hold at this scale",
    OPEN: "inconclusive",
    UNTESTED: "not tested at this scale",
}


def sentence(verdict: Verdict) -> str:
    """One honest sentence that states a verdict with its scale, effect and seeds; for glue and captions."""
    if verdict.scale is None:
        return f"That {verdict.claim.statement} has not been tested here: there are no records yet."
    where = f"With {verdict.scale}, {verdict.seeds} seeds"
    words = {
        HOLDS: "the records bear out, at this scale, that",
        FAILS: "the records do not bear out, at this scale, that",
        OPEN: "the records do not settle whether",
        UNTESTED: "the records do not test whether",
    }
    effect = effect_text(verdict)
    tail = f" ({effect})" if effect else ""
    return f"{where}, {words[verdict.outcome]} {verdict.claim.statement}{tail}."


def effect_text(verdict: Verdict) -> str:
    """The effect with its interval, or an empty text; such as `rank 16 − full, % of …: +1.2 (95 % interval …)`."""
    if verdict.effect is None or verdict.interval is None:
        return ""
    found = verdict.interval
    mean, low, high = (f"{value:+.2g}".replace("-", "−") for value in (found.mean, found.low, found.high))
    return f"{verdict.effect}: {mean}, {found.confidence:.0%} interval {low} to {high}"


def ledger_markdown(verdicts: Sequence[Verdict]) -> str:
    """The MyST text of the book's page of claims: a count, a table, and each claim with its rule and reason.

    Every verdict, for a source or against it, has the same form and the same size.
    """
    counts = ", ".join(f"{sum(v.outcome == outcome for v in verdicts)} {outcome}" for outcome in OUTCOMES)
    return "\n".join([
        "# Claims and verdicts",
        "",
        "% Generated from the run records at each build: edits are lost.",
        "",
        "Each claim was given a rule before its records were looked at. The verdict is computed from the records at "
        "each build and is about the scale that is named: a small model can illustrate a claim about a large one or "
        "cast doubt on it, it cannot refute it. Where records exist at several scales, the first row of a claim is "
        "the largest of them.",
        "",
        f"{len(verdicts)} claims: {counts}.",
        "",
        "| claim | source | verdict | effect | seeds | scale | chapter |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *[_row(one) for verdict in verdicts for one in (verdict, *verdict.others)],
        "",
        *[_section(verdict) for verdict in verdicts],
    ])


def _row(verdict: Verdict) -> str:
    claim = verdict.claim
    cells = [
        f"**{claim.id}** {claim.statement}",
        f"{{cite}}`{claim.source}`",
        f"**{SCALE_WORDS[verdict.outcome]}**",
        effect_text(verdict) or "–",
        str(verdict.seeds) if verdict.seeds else "–",
        str(verdict.scale) if verdict.scale else "no records",
        f"{{doc}}`{claim.chapter}`",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _section(verdict: Verdict) -> str:
    claim = verdict.claim
    lines = [
        f"## {claim.id}: {SCALE_WORDS[verdict.outcome]}",
        "",
        f"Claim {{cite}}`{claim.source}`: {claim.statement}. {claim.scope}",
        "",
        f"Rule: {claim.rule_text}",
        "",
    ]
    for one in (verdict, *verdict.others):
        where = f"{one.scale}, {one.seeds} seeds" if one.scale else "No records"
        lines += [f"**{where}: {SCALE_WORDS[one.outcome]}.** {one.reason}", ""]
        if one.regime:
            lines += [f"Regime: {one.regime}.", ""]
    return "\n".join(lines)
