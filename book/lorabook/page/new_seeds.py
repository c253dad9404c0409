"""What new seeds say of RL claims, beside the first runs, which had been seen before the rules were changed."""

from __future__ import annotations

from collections.abc import Iterable

from lorabook.claims.ledger import Verdict, on_first_runs
from lorabook.page.verdict_words import found, outcome_words


def beside_the_first_runs(verdicts: Iterable[Verdict], base: str = "tiny") -> str:
    """A Markdown list: for each claim that has new runs, what its first ones say under its rule, and what these do.

    Of new runs without all records it says how many are missing, or that there are none.

    Args:
        base: of the first runs.
    """
    lines = []
    for verdict in verdicts:
        every = (verdict, *verdict.others)
        new = [twin.experiments[0] for one in every for twin in one.claim.twins if twin.again]
        if not new:
            continue
        first = on_first_runs(verdict, base)
        lines.append(f"- **{first.claim.id}**, first runs: {outcome_words(first)}. {found(first) or first.reason}")
        made = {one.claim.experiments[0]: one for one in every if one.claim.again}
        for name in dict.fromkeys(new):
            said = f"{outcome_words(made[name])}. {made[name].reason}" if name in made else "not run."
            lines.append(f"- **{first.claim.id}**, new seeds, `{name}`: {said}")
    return "\n".join(lines)


def rank_one_with_room(equality: Verdict) -> str:
    """A sentence on rank 1 in the short runs on new seeds, where it holds enough; or how far these runs are.

    Args:
        equality: of C8, with its others.
    """
    every = (equality, *equality.others)
    short = next((one for one in every if one.claim.experiments == ("grpo-fresh-short",)), None)
    if short is None:
        return "Runs so short that rank 1 has the room are defined, and none is made."
    gap = next((limit for limit in short.limits if limit.label == "rank 1 − full"), None)
    if gap is None:
        return f"Of runs so short that rank 1 has the room: {short.reason}"
    side = "is still behind" if gap.span.high < 0 else "is ahead" if gap.span.low > 0 else "is not shown to differ"
    return (f"In runs so short that rank 1 has the room, on {short.seeds} new seeds, it {side}: "
            f"{gap.unit.text(gap.span)} of full fine-tuning's gain.")
