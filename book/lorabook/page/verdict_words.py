"""Verdicts in words: an outcome, what decided it and where; and the block of one claim on a chapter's page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from lorabook.claims.decisions import DEPENDS, FAILS, HOLDS, OPEN, UNTESTED
from lorabook.claims.ledger import Verdict
from lorabook.page.code_tabs import HUB_IDS

CLASSES = {HOLDS: "holds", FAILS: "fails", DEPENDS: "open", OPEN: "open", UNTESTED: "untested"}  # of the page's style
NOT_FINISHED = "after which no arm has finished learning"
LATE = "rule changed after its records, to be judged on new seeds or bases"
# A claim in a few words, in the order of the landing page; the page of claims has all of each.
IN_SHORT = {
    "C1": "high rank equals full fine-tuning", "C2": "capacity decides when ranks fall behind",
    "C3": "best rate ten times full's", "C4": "first steps alike at every rank",
    "C5": "large batches hurt LoRA", "C6": "attention below the MLP",
    "C7": "rank over active experts", "C10": "data carry one bit a token",
    "C10-W": "a weight stores two bits", "C11": "two thirds of the operations", "C12": "four settings, two freedoms",
    "C13": "ratio independent of width", "C14": "larger ratio in short runs",
    "C14-B": "B outgrows A", "A1": "LoRA suffers more at high rates", "C8": "RL: LoRA equals full, from rank 1",
    "C9": "RL: rank 1 has capacity enough", "C3-RL": "RL: ten times the rate",
    "C6-RL": "RL: attention below the MLP", "C10-RL": "RL: an episode tells a token's bits",
    "M1": "RL: cost grows with the secrets", "T1": "RL: rank 1, ten times the rate",
    "T2": "RL: rank 1 saves memory", "O1": "RL: at full's rate LoRA falls behind",
    "O2": "RL: LoRA as such is worse", "P1": "RL: rank 1 is a bottleneck",
}


def in_order(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts in the order of `IN_SHORT`; a claim that it does not know comes last."""
    known = list(IN_SHORT)
    return sorted(verdicts, key=lambda one: known.index(one.claim.id) if one.claim.id in known else len(known))


def short(verdict: Verdict) -> str:
    """The claim in a few words."""
    return IN_SHORT.get(verdict.claim.id, f"claim {verdict.claim.id}")


def outcome_words(verdict: Verdict) -> str:
    """A verdict in a word or two. What rests on training runs of the embedded models alone is never said of others."""
    if verdict.seeds and verdict.scale and verdict.scale.embedded:
        return {HOLDS: "seen on tiny", FAILS: "not seen on tiny"}.get(verdict.outcome, verdict.outcome)
    return verdict.outcome


def counts(verdicts: Iterable[Verdict]) -> str:
    """How many verdicts there are of each kind: `8 inconclusive, 5 hold, 1 seen on tiny`."""
    several = {HOLDS: "hold", FAILS: "do not hold", DEPENDS: "depend on the data"}
    counted = Counter(outcome_words(verdict) for verdict in verdicts)
    return ", ".join(f"{count} {several.get(words, words) if count > 1 else words}"
                     for words, count in counted.most_common())


def base(verdict: Verdict) -> str:
    """Where a verdict was measured, in a word or two: the model, `tiny` for any of its kind, or `exact`.

    Runs that stop before any arm has finished learning are named by their length, too: `tiny, 75 steps`.
    """
    if verdict.outcome == UNTESTED and not verdict.scale:
        return ""
    if not verdict.seeds or verdict.scale is None:
        return "exact"
    if verdict.scale.embedded:
        return f"tiny, {verdict.claim.stopped}" if verdict.claim.stopped else "tiny"
    name = verdict.scale.model.partition("@")[0]
    known = max((one for one in HUB_IDS if name.startswith(one)), key=len, default="")
    return HUB_IDS[known].partition("/")[2] if known else name


def where(verdict: Verdict) -> str:
    """Model, parameters, tokens and seeds; a verdict without seeds is exact."""
    if verdict.scale is None:
        return "no records" if verdict.outcome == UNTESTED else "exact computation"
    stopped = f", {verdict.claim.stopped}, {NOT_FINISHED}" if verdict.claim.stopped else ""
    return f"{verdict.scale}, {verdict.seeds} seeds{stopped}" if verdict.seeds else f"{verdict.scale}, exact"


def found(verdict: Verdict) -> str:
    """What decided, with its interval and limit: `rank 16 − full, % of …: +2.1 (−1.7 to +5.9), limit …`, or nothing.

    Where a claim holds all its limits decided: the first, which is what it is about, stands for them. What cannot be
    negative, such as `rank 16 / full`, has no sign. Intervals are of 95 %; what is exact has none.
    """
    limit = verdict.limits[0] if verdict.outcome == HOLDS and verdict.limits else verdict.limit
    if limit is None:
        return ""
    span, form = limit.span, ".2g" if verdict.seeds else ".3g"
    sign = "+" if limit.unit.signed and verdict.seeds else ""
    mean, low, high = (f"{value:{sign}{form}}".replace("-", "−") for value in (span.mean, span.low, span.high))
    interval = f" ({low} to {high})" if span.low < span.high or (verdict.seeds and span.n > 1) else ""
    exact = "" if verdict.seeds else ", exact"
    return f"{replace(verdict, limit=limit).effect}: {mean}{interval}{exact}, limit {limit.unit.range(limit.inside)}"


def late(verdict: Verdict) -> bool:
    """Whether the rule was changed after the records that it judges."""
    return bool(verdict.after_records and verdict.claim.changed)


def chip(verdict: Verdict, words: str = "") -> str:
    """The outcome as a coloured word of HTML."""
    return f'<span class="lk-verdict lk-{CLASSES[verdict.outcome]}">{words or outcome_words(verdict)}</span>'


def block(verdict: Verdict, *, why: bool) -> str:
    """One claim as HTML: its verdict, the claim, where it was measured, and what was found, a line a sentence."""
    claim = verdict.claim
    said = [f"{where(verdict)}.", *sentences(verdict.reason if why else found(verdict)),
            *[f"† {LATE[0].upper()}{LATE[1:]}."] * late(verdict)]
    return (f'<div class="lk-claim"><p><b>{claim.id}</b> {chip(verdict)} '
            f"{html.escape(claim.statement[0].upper() + claim.statement[1:])}.</p>"
            f'<p class="lk-found">{"<br>".join(map(html.escape, said))}</p></div>')


def sentences(text: str) -> list[str]:
    """A text's sentences.

    >>> sentences("One thing. Another.")
    ['One thing.', 'Another.']
    """
    return [f"{part}." for part in text.rstrip(".").split(". ")] if text else []
