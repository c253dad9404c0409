"""New seeds and new bases of the embedded models: what the rules that were changed on 2026-11-26 are judged on.

Written before the first of these runs. Supervised: post-training with replay, as in `learning-rate` and `rank-replay`,
with the arm that both lack, full fine-tuning of the linear layers alone (embedding and head are what LoRA does not
train), and with 8,192 tokens of validation and test text at the end. Rates are the five around the best ones of those
experiments; after the first runs on the other bases, LoRA's were widened downwards there by two, for both ranks.

By reward: copying alone, as in `grpo`. The other task, whose form is new, is left out: chance decides its runs, and
equality of shares of seeds would take hundreds. Held-out problems are more, since the rules ask for 1,024; rates are
the four around the best ones of `grpo`, and seeds are those that no RL run has. From `grpo` we expect that 20 seeds of
75 steps leave a gap uncertain by about 15 % of full fine-tuning's gain and 8 seeds of 300 steps by 9 %: so equality
within 5 % cannot be shown by them, and what is further behind than these can.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorabook.experiments.definition import Experiment, grid
from lorabook.experiments.grpo import COPY
from lorabook.experiments.learning_rate import QUARTERS
from lorabook.experiments.rank import REPLAY
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import SFTSpec, vary

BASE = replace(REPLAY, final_evaluation_tokens=8192)
FULL_RATES, LORA_RATES = QUARTERS[5:10], QUARTERS[7:12]
WIDENED = QUARTERS[5:12]  # of LoRA on the other bases: rank 1 took the lowest of five rates on tiny-w128-s2
OTHER_BASES = ("tiny-w128-s1", "tiny-w128-s2")

RL_PROTOCOL = (
    "Runs on new seeds, defined on 2026-11-26 at 12:40 UTC, before any of them: copying on `tiny`, with 512 validation "
    "and 1,024 test problems, full fine-tuning and the ranks named, four rates each, three to a factor of ten. They "
    "alone are judged, by the rule as it stood then.")
RL_WHOLE = f"{RL_PROTOCOL} Ranks 8 and 64, 300 steps as in the first runs, eight seeds."
SHORT_STEPS = 75
RL_SHORT = (
    f"{RL_PROTOCOL} Ranks 1 and 64, twenty seeds of {SHORT_STEPS} steps, a quarter of the first runs' episodes: by "
    "those runs the rewards then tell less than half of what rank 1 holds, so that it can be judged. No arm has "
    "finished learning by then: what is judged is how far 4,800 episodes bring each.")
COPYING = replace(COPY, task="copy-1024", evaluation_problems=64, final_evaluation_problems=1024)
COPY_FULL, COPY_LORA = grid(1e-4, 6)[2:], grid(1e-3, 6)[1:5]  # 4.64e-5 to 4.64e-4, 2.15e-4 to 2.15e-3


def _arms(base: SFTSpec, ranks: list[int], seeds: Iterable[int], rates: list[float]) -> list[SFTSpec]:
    whole = vary(replace(base, lora=None), full_targets=["all", "all-linear"], learning_rate=FULL_RATES, seed=seeds)
    return whole + vary(base, rank=ranks, learning_rate=rates, seed=seeds)


def _seeds() -> list[SFTSpec]:
    return _arms(BASE, [1, 16, 64], range(5, 15), LORA_RATES)


def _bases() -> list[SFTSpec]:
    return [spec for model in OTHER_BASES for spec in _arms(replace(BASE, model=model), [1, 16], range(5), WIDENED)]


def _rewarded(base: GRPOSpec, ranks: list[int], seeds: Iterable[int]) -> list[GRPOSpec]:
    return (vary(replace(base, lora=None), learning_rate=COPY_FULL, seed=seeds)
            + vary(base, rank=ranks, learning_rate=COPY_LORA, seed=seeds))


EXPERIMENTS = (
    Experiment("learning-rate-bases", "Best rates and gaps on two more bases, with the linear layers alone too.", {
        ("cpu", "record"): _bases,
    }),
    Experiment("learning-rate-fresh", "Best rates and gaps on ten new seeds, with the linear layers alone too.", {
        ("cpu", "record"): _seeds,
    }),
    Experiment("grpo-fresh-short", "By reward, on twenty new seeds: rank 1 while it has room for what it is told.", {
        ("cpu", "record"): lambda: _rewarded(replace(COPYING, steps=SHORT_STEPS), [1, 64], range(10, 30)),
    }),
    Experiment("grpo-fresh", "By reward, on eight new seeds: ranks 8 and 64 against full fine-tuning.", {
        ("cpu", "record"): lambda: _rewarded(COPYING, [8, 64], range(10, 18)),
    }),
)
