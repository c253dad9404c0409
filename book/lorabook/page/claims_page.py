"""The page of the book that lists every claim with its verdict: two tables, then a section a claim with folds."""

from __future__ import annotations

from collections.abc import Sequence

from lorabook.claims.across_bases import ADDED, across_bases
from lorabook.claims.ledger import Verdict
from lorabook.page.verdict_words import (
    CLASSES,
    LATE,
    base,
    counts,
    found,
    in_order,
    late,
    outcome_words,
    sentences,
    short,
    where,
)

LONG = 300  # characters of a reason that is one paragraph
BY_REWARD = "RL: "  # what the short words of a claim about reinforcement learning begin with


def ledger_markdown(verdicts: Sequence[Verdict]) -> str:
    """The MyST text of the page: a count, two tables, each claim with its rule and reason, and when rules were written.

    Every verdict, for a source or against it, has the same form and the same size.
    """
    ordered = in_order(verdicts)
    supervised = [one for one in ordered if not short(one).startswith(BY_REWARD)]
    by_reward = [one for one in ordered if short(one).startswith(BY_REWARD)]
    return "\n".join([
        "# Claims and verdicts",
        "",
        "% Generated from the run records at each build: edits are lost.",
        "",
        f"**{len(verdicts)} claims: {counts(verdicts)}.** Each has a rule, and its verdict is computed from the "
        "records at each build. It is about the scale that is named: a small model can illustrate a claim about a "
        "large one or cast doubt on it, it cannot refute it. Of several scales a row shows the largest; the section "
        f"of the claim has all. Intervals are of 95 %. †: {LATE}; [the dates](rules-written) say which.",
        "",
        *_table("Supervised training", supervised),
        *_table("Reinforcement learning", by_reward),
        "## Each claim",
        "",
        *[_section(verdict) for verdict in ordered],
        *_dates(ordered),
    ])


def _table(title: str, verdicts: Sequence[Verdict]) -> list[str]:
    """A row for each claim, none without claims."""
    if not verdicts:
        return []
    return [f"## {title}", "", "| claim | verdict | on | found |", "| --- | --- | --- | --- |",
            *map(_row, verdicts), ""]


def _row(verdict: Verdict) -> str:
    name = f"[{verdict.claim.id}]({_anchor(verdict)}) {short(verdict).removeprefix(BY_REWARD)}"
    cells = [name, _chip(verdict), base(verdict) or "–", found(verdict) or "–"]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _anchor(verdict: Verdict) -> str:
    return f"claim-{verdict.claim.id.lower()}"


def _chip(verdict: Verdict) -> str:
    return f"[{outcome_words(verdict)}]{{.lk-verdict .lk-{CLASSES[verdict.outcome]}}}" + "**†**" * late(verdict)


def _section(verdict: Verdict) -> str:
    """The claim with its verdict at the largest scale; other scales and the rules are folded."""
    claim = verdict.claim
    rules: dict[str, str] = {}  # each text once, with the date of the first claim that has it
    for one in (verdict, *verdict.others):
        rules.setdefault(one.claim.rule_text, one.claim.written)
    statement = claim.statement[0].upper() + claim.statement[1:]
    lines = [f"({_anchor(verdict)})=", f"### {claim.id}: {short(verdict)}", "",
             f"{_chip(verdict)} {statement} {{cite}}`{claim.source}`. {claim.scope} See {{doc}}`{claim.chapter}`.", "",
             _judged(verdict), ""]
    if verdict.others:
        heads = ", ".join(f"{outcome_words(one)} ({_model(one)})" for one in verdict.others)
        inside = [_judged(one) + (f" *Rule {[*rules].index(one.claim.rule_text) + 1}.*" if len(rules) > 1 else "")
                  for one in verdict.others]
        lines += _fold(f"Elsewhere: {heads}", [*inside, *_together(verdict)])
    lines += _waiting(verdict)
    gates = [f"{where(one)}: {one.regime}." for one in (verdict, *verdict.others) if one.regime]
    numbered = [f"**Rule {place} ({written}).** {text}" if len(rules) > 1 else text
                for place, (text, written) in enumerate(rules.items(), start=1)]
    lines += _fold("The rule" if len(rules) == 1 else "The rules", numbered)
    lines += _fold("Was it post-training?", gates) if gates else []
    return "\n".join(lines)


def _waiting(verdict: Verdict) -> list[str]:
    """The runs that a claim has rules for and that do not exist yet, with these rules folded."""
    every = (verdict, *verdict.others)
    judged = {one.claim.experiments for one in every}
    twins = [twin for one in every for twin in one.claim.twins if twin.experiments not in judged]
    if not twins:
        return []
    names = "; ".join(f"`{twin.experiments[0]}`" + f" and {len(twin.experiments) - 1} more" * (
        len(twin.experiments) > 1) for twin in twins)
    return _fold(f"Defined and not run: {names}", [
        f"**`{twin.experiments[0]}` ({twin.changed or twin.written}).** {twin.rule_text}" for twin in twins])


def _judged(verdict: Verdict) -> str:
    """Where and what, and why: a list where that is long."""
    head, parts = f"**{where(verdict)}: {outcome_words(verdict)}.**", sentences(verdict.reason)
    if len(verdict.reason) <= LONG or len(parts) < 2:
        return f"{head} {verdict.reason}"
    return "\n".join([head, "", *(f"- {part}" for part in parts)])


def _model(verdict: Verdict) -> str:
    return verdict.scale.model.partition("@")[0] if verdict.scale else "computed"


def _together(verdict: Verdict) -> list[str]:
    """What the bases of one size say together, where there are enough of them."""
    if not (together := across_bases(verdict)):
        return []
    judged, bases = together
    names = ", ".join(map(_model, bases))
    return [f"**Over {len(bases)} bases ({names}): {judged.outcome}.** Each base's mean over its seeds counts once, so "
            f"these intervals range over bases, and those above over seeds. {judged.reason} (Added on {ADDED}, after "
            "these records; it heads no claim.)"]


def _fold(title: str, paragraphs: Sequence[str]) -> list[str]:
    return [f":::{{dropdown}} {title}", "\n\n".join(paragraphs), ":::", ""]


def _dates(verdicts: Sequence[Verdict]) -> list[str]:
    """When each rule was written and changed, when its first record was made, and, once each, why it came after."""
    rules = {id(one.claim): one for verdict in verdicts for one in (verdict, *verdict.others)}
    reasons = list(dict.fromkeys(part for one in rules.values() for part in sentences(one.claim.why)))
    rows = ["| claim | first experiment | written | changed | first record | after it? | why |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
    for verdict in rules.values():
        claim = verdict.claim
        after = "no records" if verdict.first_record is None else "yes" if verdict.after_records else "no"
        first = next(iter((*claim.experiments, *claim.files)), "")
        why = ", ".join(str(reasons.index(part) + 1) for part in sentences(claim.why))
        cells = [f"**{claim.id}**", f"`{first}`" if first else "–", claim.written or "–", claim.changed or "–",
                 verdict.first_record or "–", after, why or "–"]
        rows.append("| " + " | ".join(cells) + " |")
    listed = [f"{place}. {reason}" for place, reason in enumerate(reasons, start=1)]
    waiting = ", ".join(verdict.claim.id for verdict in verdicts if late(verdict))
    return ["(rules-written)=", "## When each rule was written", "",
            "A rule that was changed after its records were seen is to be judged on new seeds or bases: until then its "
            "verdict says what the old records give under it"
            f"{f' (so far: {waiting})' if waiting else ''}. Times are UTC.", "",
            *_fold("Dates of every rule", ["\n".join(rows), "Why a rule was changed, or written after its records:",
                                           "\n".join(listed)] if listed else ["\n".join(rows)])]
