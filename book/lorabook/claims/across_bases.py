"""Verdicts of one claim on several bases of one size, taken together: intervals that range over bases."""

from __future__ import annotations

from collections.abc import Sequence

from lorabook.claims.decisions import Finding, Limit, decide, over_seeds
from lorabook.claims.ledger import Verdict

ADDED = "2026-11-26"  # when this reading was written: its first records were there
LEAST_BASES = 3


def across_bases(verdict: Verdict) -> tuple[Finding, list[Verdict]] | None:
    """What a claim's verdicts on several bases of one size say together (`over_bases`), and those verdicts.

    Of each base the newest runs count. None where there are too few bases.
    """
    every = [one for one in (verdict, *verdict.others) if one.limits and one.seeds and one.scale]
    for size in dict.fromkeys(one.scale.parameters for one in every if one.scale):
        newest: dict[str, Verdict] = {}
        for one in sorted(every, key=lambda one: one.claim.again, reverse=True):
            if one.scale and one.scale.parameters == size:
                newest.setdefault(one.scale.model, one)
        chosen = [newest[model] for model in sorted(newest)]
        if found := over_bases([one.limits for one in chosen]):
            return found, chosen
    return None


def over_bases(limits: Sequence[Sequence[Limit]]) -> Finding | None:
    """The verdict of the limits that several bases have in common, each base's mean counting once.

    The interval then ranges over bases: their number less one degrees of freedom, and what differs between them is in
    it. That of one base ranges over seeds alone.

    Args:
        limits: of each base; two limits are the same if quantity and label are.

    Returns:
        None where fewer than `LEAST_BASES` bases were measured, or none of their limits is the same.
    """
    by_base = [{(limit.what, limit.label): limit for limit in one} for one in limits if one]
    common = [key for key in by_base[0] if all(key in one for one in by_base)] if by_base else []
    if len(by_base) < LEAST_BASES or not common:
        return None
    means = {key: [one[key].span.mean for one in by_base] for key in common}
    return decide([by_base[0][key].measured(key[1], over_seeds(values)) for key, values in means.items()])
