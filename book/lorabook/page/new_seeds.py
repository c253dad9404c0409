"""What new seeds say, beside the first runs of claims whose rules were changed after these had been seen."""

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
        first = on_first_runs(verdict, base)
        new = [twin.experiments[0] for twin in first.claim.twins if twin.again]
        made = {one.claim.experiments[0]: one for one in (verdict, *verdict.others) if one.claim.again}
        if new:
            lines.append(f"- **{first.claim.id}**, first runs: {outcome_words(first)}. {found(first) or first.reason}")
        for name in new:
            said = f"{outcome_words(made[name])}. {made[name].reason}" if name in made else "not run."
            lines.append(f"- **{first.claim.id}**, new seeds, `{name}`: {said}")
    return "\n".join(lines)
