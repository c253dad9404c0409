"""What new seeds say of RL claims, beside the first runs, which had been seen before the rules were changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorabook.claims.decisions import Limit
from lorabook.claims.grpo import EQUAL
from lorabook.claims.ledger import Verdict, on_first_runs
from lorabook.page.verdict_words import NOT_FINISHED, found, outcome_words, sentences


def beside_the_first_runs(verdicts: Iterable[Verdict]) -> str:
    """A Markdown list: for each claim that has new runs, what its first ones say under its rule, and what these do.

    First runs are those of `tiny`, or of the embedded base that the claim was tried on. Of new runs without all records
    it says how many are missing, or that there are none.
    """
    lines = []
    for verdict in verdicts:
        every = (verdict, *verdict.others)
        new = [twin.experiments[0] for one in every for twin in one.claim.twins if twin.again]
        if not new:
            continue
        bases = [one.scale.model.partition("@")[0] for one in every if one.scale and one.scale.embedded]
        first = on_first_runs(verdict, "tiny" if "tiny" in bases else bases[0])
        head = f"- **{first.claim.id}**, first runs: {outcome_words(first)}."
        lines += in_lines(head, found(first) or first.reason)
        made = {one.claim.experiments[0]: one for one in every if one.claim.again}
        for name in dict.fromkeys(new):
            said = made[name].reason if name in made else ""
            if name in made and made[name].limits and made[name].claim.stopped:
                said += f" These are runs of {made[name].claim.stopped}, {NOT_FINISHED}."
            outcome = outcome_words(made[name]) if name in made else "not run"
            lines += in_lines(f"- **{first.claim.id}**, new seeds, `{name}`: {outcome}.", said)
    return "\n".join(lines)


def in_lines(head: str, text: str) -> list[str]:
    """An item of a Markdown list; of several sentences each is an item beneath it.

    >>> in_lines("- C8:", "One thing. Another.")
    ['- C8:', '  - One thing.', '  - Another.']
    """
    parts = sentences(text)
    return [head, *(f"  - {part}" for part in parts)] if len(parts) > 1 else [f"{head} {text}".rstrip()]


def rank_one_with_room(equality: Verdict) -> str:
    """A sentence on rank 1 in the short runs on new seeds, where it holds enough; or how far these runs are.

    Args:
        equality: of C8, with its others.
    """
    runs = "runs, in which rank 1 holds at least twice what the rewards tell, at two bits a weight,"
    short = _of(equality, "grpo-fresh-short")
    if short is None:
        return f"Shorter {runs} are defined, and none is made."
    gaps = [limit for limit in _gaps(short) if limit.label == "rank 1 − full"]
    if not gaps:
        return f"Of shorter {runs} the records say: {short.reason}"
    return (f"There are shorter {runs} too: on {short.seeds} new seeds, {_side(gaps[0])} % of full fine-tuning's gain. "
            f"They stop at {short.claim.stopped}, {NOT_FINISHED}.")


def equal_again(equality: Verdict) -> str:
    """A sentence on the ranks of the whole runs on new seeds; or how far these runs are.

    Args:
        equality: of C8, with its others.
    """
    whole = _of(equality, "grpo-fresh")
    if whole is None:
        return "New seeds of these ranks are defined, and none is made."
    if not (gaps := _gaps(whole)):
        return f"Of new seeds of these ranks the records say: {whole.reason}"
    return f"On {whole.seeds} new seeds, in % of full fine-tuning's gain, {'; '.join(map(_side, gaps))}."


def _of(equality: Verdict, name: str) -> Verdict | None:
    return next((one for one in (equality, *equality.others) if one.claim.experiments == (name,)), None)


def _gaps(verdict: Verdict) -> list[Limit]:
    return [limit for limit in verdict.limits if limit.what == EQUAL.what]


def _side(gap: Limit) -> str:
    span = gap.span
    side = "is behind" if span.high < 0 else "is ahead" if span.low > 0 else "is not shown to differ"
    return f"{gap.label.partition(' − ')[0]} {side}: {replace(gap.unit, short='').text(span)}"
