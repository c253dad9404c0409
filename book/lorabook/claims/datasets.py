"""One finding of those on several datasets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from lorabook.claims.decisions import DEPENDS, FAILS, HOLDS, UNTESTED, Finding, combine


def by_data(findings: Mapping[str, Finding], made_up: Collection[str]) -> Finding:
    """One finding, with a verdict for each dataset in its reason: it depends on the data where they contradict.

    They do where a quantity holds on one dataset and is refuted on another: the effect is then that quantity's on
    natural data. Otherwise natural data decide, of which a source speaks, and skills made up for a small model only
    where there are no others.

    Args:
        made_up: names of datasets that are no natural ones.
    """
    reason = " ".join(f"On {name.partition('@')[0]} ({found.outcome}): {found.reason}"
                      for name, found in findings.items())
    natural = {name: found for name, found in findings.items() if name.partition("@")[0] not in made_up}
    tested = {name: found for name, found in natural.items() if found.outcome != UNTESTED}
    gates = "; ".join(f"{name.partition('@')[0]}: {found.regime}" for name, found in findings.items() if found.regime)
    whole = replace(combine(tested or findings), reason=reason, regime=gates or None)
    if whole.limit and tested and len(tested) < len(natural):  # not all: say of which data it was measured
        data = " and ".join(name.partition("@")[0] for name in tested)
        limit, *limits = (replace(one, label=f"{data}, {one.label or one.what}")
                          for one in (whole.limit, *whole.limits))
        whole = replace(whole, limit=limit, limits=tuple(limits))
    for what in dict.fromkeys(what for found in findings.values() for what in found.states):
        said = [found.states[what] for found in (*tested.values(), *findings.values()) if what in found.states]
        if {HOLDS, FAILS} <= {state for state, _ in said}:
            return replace(whole, outcome=DEPENDS, limit=said[0][1])
    return whole
