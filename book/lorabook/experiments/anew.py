"""New seeds, and new data, for rules on embedded bases that were changed on 2026-11-26 and that `fresh` does not ask.

Written on 2026-11-26, before the first of these runs. Arms and grids are those of the first runs, whose best rates lay
inside; seeds are none of theirs. Two ask for more than new seeds:

C14-B asks for a thousand steps, which no run had: replay goes on for 1,200, over lower rates in place of the highest.
C2 asks for three steps of leaving and for data that the best arm cannot finish: four times as many random associations.
A pilot with one seed (42 runs of 1,000 and of 1,600 steps) chose rates and steps: after 1,600 the best arm, full
fine-tuning, had finished them. In it every rank left that arm's curve within two evaluations, so we expect no order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorabook.experiments.capacity import capacity_record
from lorabook.experiments.definition import Experiment, grid
from lorabook.experiments.fresh import BASE, COPYING, FULL_RATES, LORA_RATES
from lorabook.experiments.layers import ALL, ATTENTION, MLP, WITH_HEAD, moe_record
from lorabook.experiments.learning_rate import QUARTERS
from lorabook.experiments.rank import ASSOCIATIONS, TEXT
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec, vary

PROTOCOL = ("Runs on five new seeds, defined on 2026-11-26 at 16:30 UTC, before any of them. They alone are judged, by "
            "the rule as it stood then.")
BEYOND = (f"{PROTOCOL} There are 1,024 random associations, four times as many, and 1,000 steps: by a pilot with one "
          "seed, too few for the best arm to finish them.")
SEEDS = range(30, 35)
ALONE = (ATTENTION, MLP, ALL)
MANY = replace(ASSOCIATIONS, dataset="random-associations-1024", steps=1000, evaluations=20, evaluation_tokens=8192)


def _arms(base: SFTSpec, adapters: Iterable[LoRASpec], lora: list[float], full: list[float]) -> list[SFTSpec]:
    return (vary(base, lora=list(adapters), learning_rate=lora, seed=SEEDS)
            + vary(replace(base, lora=None), learning_rate=full, seed=SEEDS))


def _layers() -> list[SFTSpec]:
    text = replace(TEXT, final_evaluation_tokens=8192)
    return (_arms(BASE, (*ALONE, *WITH_HEAD), LORA_RATES, FULL_RATES)
            + _arms(text, ALONE, grid(2.15e-3, 6), grid(1e-3, 6)))


def _rewarded_layers() -> list[GRPOSpec]:
    return vary(replace(COPYING, steps=200), lora=list(ALONE), learning_rate=grid(1e-3, 5), seed=SEEDS)


def _long() -> list[SFTSpec]:
    return _arms(replace(BASE, steps=1200), [LoRASpec(rank=64)], QUARTERS[5:11], QUARTERS[3:9])


def _beyond() -> list[SFTSpec]:
    return _arms(MANY, [LoRASpec(rank=rank) for rank in (1, 2, 4, 8, 64)], grid(2.15e-3, 4), grid(1e-3, 4))


def _on_new_seeds(first: Iterable[SFTSpec]) -> list[SFTSpec]:
    return [replace(spec, seed=SEEDS[spec.seed]) for spec in first]


EXPERIMENTS = (
    Experiment("layers-fresh", "Attention, MLP or both on five new seeds, with and without the head.", {
        ("cpu", "record"): _layers,
    }),
    Experiment("moe-fresh", "Layers of a mixture of experts on five new seeds.", {
        ("cpu", "record"): lambda: _on_new_seeds(moe_record()),
    }, engine="peft"),
    Experiment("grpo-layers-fresh", "By reward, attention, MLP or both on five new seeds.", {
        ("cpu", "record"): _rewarded_layers,
    }),
    Experiment("learning-rate-long", "A thousand steps and more: has B outgrown A?", {
        ("cpu", "record"): _long,
    }),
    Experiment("capacity-fresh", "Bits of strings that an adapter stores, on three new seeds.", {
        ("cpu", "record"): lambda: _on_new_seeds(capacity_record()),
    }),
    Experiment("rank-beyond", "Four times as many random associations: when does each rank fall behind?", {
        ("cpu", "record"): _beyond,
    }),
)
