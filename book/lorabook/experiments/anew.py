"""New seeds, and new data, for rules on `tiny` that were changed on 2026-11-26 and that `fresh` does not ask.

Written on 2026-11-26, before the first of these runs. Arms and grids are those of the first runs, whose best rates lay
inside; seeds are none of theirs.

C2 asks for three steps of leaving and for data that the best arm cannot finish: so there are four times as many random
associations, evaluated more densely. C14-B asks for a thousand steps, which no run on `tiny` had: so replay goes on for
1,200, with two lower rates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorabook.experiments.capacity import STRING_RATES, strings
from lorabook.experiments.definition import Experiment, grid
from lorabook.experiments.fresh import COPYING
from lorabook.experiments.layers import ALL, ATTENTION, MLP, WITH_HEAD
from lorabook.experiments.learning_rate import QUARTERS
from lorabook.experiments.rank import ASSOCIATIONS, REPLAY, TEXT
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec, vary

PROTOCOL = ("Runs on new seeds, defined on 2026-11-26 at TIME UTC, before any of them, on `tiny`. They alone are "
            "judged, by the rule as it stood then.")
ALONE = (ATTENTION, MLP, ALL)


def _arms(base: SFTSpec, adapters: Iterable[LoRASpec], lora: list[float], full: list[float],
          seeds: Iterable[int]) -> list[SFTSpec]:
    return (vary(base, lora=list(adapters), learning_rate=lora, seed=seeds)
            + vary(replace(base, lora=None), learning_rate=full, seed=seeds))
