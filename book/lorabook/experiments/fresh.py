"""New seeds and new bases of the embedded models: what the rules that were changed on 2026-11-26 are judged on.

Written before the first of these runs. Post-training with replay, as in `learning-rate` and `rank-replay`, with the arm
that both lack, full fine-tuning of the linear layers alone (embedding and head are what LoRA does not train), and with
8,192 tokens of validation and test text at the end. Rates are the five around the best ones of those experiments; after
the first runs on the other bases, LoRA's were widened downwards there by two, for both ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorabook.experiments.definition import Experiment
from lorabook.experiments.learning_rate import QUARTERS
from lorabook.experiments.rank import REPLAY
from lorakit.specs import SFTSpec, vary

BASE = replace(REPLAY, final_evaluation_tokens=8192)
FULL_RATES, LORA_RATES = QUARTERS[5:10], QUARTERS[7:12]
WIDENED = QUARTERS[5:12]  # of LoRA on the other bases: rank 1 took the lowest of five rates on tiny-w128-s2
OTHER_BASES = ("tiny-w128-s1", "tiny-w128-s2")


def _arms(base: SFTSpec, ranks: list[int], seeds: Iterable[int], rates: list[float]) -> list[SFTSpec]:
    whole = vary(replace(base, lora=None), full_targets=["all", "all-linear"], learning_rate=FULL_RATES, seed=seeds)
    return whole + vary(base, rank=ranks, learning_rate=rates, seed=seeds)


def _seeds() -> list[SFTSpec]:
    return _arms(BASE, [1, 16, 64], range(5, 15), LORA_RATES)


def _bases() -> list[SFTSpec]:
    return [spec for model in OTHER_BASES for spec in _arms(replace(BASE, model=model), [1, 16], range(5), WIDENED)]


EXPERIMENTS = (
    Experiment("learning-rate-bases", "Best rates and gaps on two more bases, with the linear layers alone too.", {
        ("cpu", "record"): _bases,
    }),
    Experiment("learning-rate-fresh", "Best rates and gaps on ten new seeds, with the linear layers alone too.", {
        ("cpu", "record"): _seeds,
    }, under_way=True),
)
