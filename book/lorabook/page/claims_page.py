"""Verdicts in words: a sentence for a chapter, and the page of the book that lists them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lorabook.claims.across_bases import ADDED, across_bases
from lorabook.claims.decisions import DEPENDS, FAILS, HOLDS, OPEN, UNTESTED
from lorabook.claims.ledger import Verdict

SCALE_WORDS = {
    HOLDS: "holds at this scale",
    FAILS: "does not hold at this scale",
    DEPENDS: "depends on the data",
    OPEN: "inconclusive",
    UNTESTED: "not tested",
}
CLASSES = {HOLDS: "holds", FAILS: "fails", DEPENDS: "open", OPEN: "open", UNTESTED: "untested"}  # of the page's style
LATE = "rule changed after its records, to be judged on new seeds or bases"


def outcome_words(verdict: Verdict) -> str:
    """A verdict in a word or two. What rests on training runs of the embedded models alone is never said of others."""
    if verdict.seeds and verdict.scale and verdict.scale.embedded:
        return {HOLDS: "seen on tiny", FAILS: "not seen on tiny"}.get(verdict.outcome, SCALE_WORDS[verdict.outcome])
    return SCALE_WORDS[verdict.outcome]


def sentence(verdict: Verdict) -> str:
    """One honest sentence that states a verdict with its scale, effect and seeds; for glue and captions."""
    if verdict.scale is None and verdict.outcome == UNTESTED:
        return f"That {verdict.claim.statement} has not been tested here: there are no records yet."
    counted = verdict.seeds == 0
    where = f"With {_where(verdict)}" if verdict.scale else "By computation"
    who = "the counts" if counted else "the records"
    at = ", at this scale," if verdict.scale else ""
    words = {
        HOLDS: f"{who} bear out{at} that",
        FAILS: f"{who} do not bear out{at} that",
        DEPENDS: f"{who} say that it depends on the data{at} whether",
        OPEN: f"{who} do not settle whether",
        UNTESTED: f"{who} do not test whether",
    }
    effect = effect_text(verdict)
    notes = "; ".join(filter(None, (effect, LATE if verdict.after_records and verdict.claim.changed else "")))
    tail = f" ({notes})" if notes else ""
    return f"{where}, {words[verdict.outcome]} {verdict.claim.statement}{tail}."


def _where(verdict: Verdict) -> str:
    """Model, parameters, tokens and seeds; a verdict without seeds is exact."""
    if verdict.scale is None:
        return "no records" if verdict.outcome == UNTESTED else "exact computation"
    return f"{verdict.scale}, {verdict.seeds} seeds" if verdict.seeds else f"{verdict.scale}, exact"


def effect_text(verdict: Verdict) -> str:
    """The effect with its interval and limit, or an empty text; such as `rank 16 − full, % of …: +1.2, 95% interval …`.

    What cannot be negative, such as `rank 16 / full`, is printed without a sign.
    """
    if verdict.limit is None:
        return ""
    found, limit = verdict.limit.span, verdict.limit
    if not verdict.seeds:
        span = f", {found.low:.3g} to {found.high:.3g}" if found.low < found.high else ""
        return f"{verdict.effect}: {found.mean:.3g}{span} (exact)"
    sign = "+" if limit.unit.signed else ""
    mean, low, high = (f"{value:{sign}.2g}".replace("-", "−") for value in (found.mean, found.low, found.high))
    return (f"{verdict.effect}: {mean}, {found.confidence:.0%} interval {low} to {high}, limit "
            f"{limit.unit.range(limit.inside)}")


def ledger_markdown(verdicts: Sequence[Verdict]) -> str:
    """The MyST text of the book's page of claims: a count, a table, and each claim with its rule and reason.

    Every verdict, for a source or against it, has the same form and the same size.
    """
    counted = Counter(outcome_words(verdict) for verdict in verdicts)
    counts = ", ".join(f"{count} {words}" for words, count in counted.most_common())
    return "\n".join([
        "# Claims and verdicts",
        "",
        "% Generated from the run records at each build: edits are lost.",
        "",
        "Each claim has a rule, and a table below says which were written or changed after their first record, and "
        "why. The verdict is computed from the records at each build and is about the scale that is named: a small "
        "model can illustrate a claim about a large one or cast doubt on it, it cannot refute it. Where records exist "
        "at several scales, the row of a claim is the largest of them; its section has all.",
        "",
        f"{len(verdicts)} claims: {counts}. †: {LATE}.",
        "",
        "| claim | verdict | effect | measured on |",
        "| --- | --- | --- | --- |",
        *map(_row, verdicts),
        "",
        "## When each rule was written",
        "",
        "A rule that was changed after its records were seen is to be judged on new seeds or bases: until then its "
        "verdict says what the old records give under it. Times are UTC.",
        "",
        *_dates(verdicts),
        "",
        *[_section(verdict) for verdict in verdicts],
    ])


def _row(verdict: Verdict) -> str:
    claim = verdict.claim
    cells = [
        f"**{claim.id}** {claim.statement} {{cite}}`{claim.source}`, {{doc}}`{claim.chapter}`",
        f"[{outcome_words(verdict).removesuffix(' at this scale')}]{{.lk-verdict .lk-{CLASSES[verdict.outcome]}}}"
        + ("**†**" if verdict.after_records and claim.changed else ""),
        effect_text(verdict) or "–",
        _where(verdict),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _dates(verdicts: Sequence[Verdict]) -> list[str]:
    """A row for each rule: when it was written and changed, when its first record was made, and why it came after."""
    rules = {id(one.claim): one for verdict in verdicts for one in (verdict, *verdict.others)}
    rows = ["| claim, first experiment | rule written | changed | first record | written or changed after it | why |",
            "| --- | --- | --- | --- | --- | --- |"]
    for verdict in rules.values():
        claim = verdict.claim
        after = ("no records" if verdict.first_record is None else "yes" if verdict.after_records else "no")
        first = next(iter((*claim.experiments, *claim.files)), "")
        cells = [f"**{claim.id}**" + f" `{first}`" * bool(first), claim.written or "–", claim.changed or "–",
                 verdict.first_record or "–", after, claim.why or "–"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _section(verdict: Verdict) -> str:
    claim = verdict.claim
    lines = [
        f"## {claim.id}: {outcome_words(verdict)}",
        "",
        f"Claim {{cite}}`{claim.source}`: {claim.statement}. {claim.scope}",
        "",
        f"Rule: {claim.rule_text}",
        "",
    ]
    for one in (verdict, *verdict.others):
        where = _where(one)
        if one.claim is not claim:
            lines += [f"Rule there ({one.claim.written}): {one.claim.rule_text}", ""]
        lines += [f"**{where[0].upper()}{where[1:]}: {outcome_words(one)}.** {one.reason}", ""]
        if one.regime:
            lines += [f"Regime: {one.regime}.", ""]
    if together := across_bases(verdict):
        found, bases = together
        names = ", ".join(one.scale.model.partition("@")[0] for one in bases if one.scale)
        lines += [f"**Over {len(bases)} bases ({names}): {found.outcome}.** Each base's mean over its seeds counts "
                  f"once, so these intervals range over bases, and those above over seeds. {found.reason} (Added on "
                  f"{ADDED}, after these records; it heads no claim.)", ""]
    return "\n".join(lines)
