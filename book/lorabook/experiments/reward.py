"""How much a reward teaches: one secret out of N, learnt from examples and learnt from a reward.

Rates come from a pilot with one seed (18 runs, one core-minute). Steps are about eight times what a policy needs that
guesses evenly until it is right.
"""

from __future__ import annotations

from dataclasses import replace

from lorabook.experiments.definition import Experiment
from lorakit.grpo_spec import GRPOSpec
from lorakit.specs import LoRASpec, SFTSpec, vary

STEPS = {10: 40, 26: 60, 100: 120, 676: 450, 10_000: 5000}
SECRETS = {f"secret-{count}": count for count in STEPS}  # how many secrets there could be
ARMS = [LoRASpec(rank=1), None]
TOKENS = {10: 1, 26: 1, 100: 2, 676: 2, 10_000: 5}
REWARDED = GRPOSpec(task="secret-10", learning_rate=1e-3, prompts_per_step=1, group_size=16, evaluations=20,
                    evaluation_problems=1)
SHOWN = SFTSpec(dataset="secret-10", learning_rate=1e-3, batch_size=1, max_length=16, steps=20, evaluations=20)


def _by_reward(counts: tuple[int, ...], rates: list[float], seeds: int) -> list[GRPOSpec]:
    return [spec for count in counts
            for spec in vary(replace(REWARDED, task=f"secret-{count}", steps=STEPS[count],
                                     max_completion_length=TOKENS[count]),
                             lora=ARMS, learning_rate=rates, seed=range(seeds))]


def _by_example(counts: tuple[int, ...], rates: list[float], seeds: int) -> list[SFTSpec]:
    return vary(SHOWN, dataset=[f"secret-{count}" for count in counts], lora=ARMS, learning_rate=rates,
                seed=range(seeds))


def _after_a_wait(base: GRPOSpec, settings: tuple[tuple[float, float], ...], seeds: int) -> list[GRPOSpec]:
    """A large secret, full fine-tuning and rank 1, at pairs of a rate and Adam's beta2."""
    return [spec for lora in ARMS for rate, beta2 in settings
            for spec in vary(base, lora=[lora], learning_rate=[rate], beta2=[beta2], seed=range(seeds))]


def _wait_record() -> list[GRPOSpec]:
    """The largest secret again: at a lower rate, and with an Adam that forgets fast.

    Made after `secret-reward` showed runs whose first success was their last. Adam divides by the root of a mean square
    that has fallen to nothing during the wait, and its momentum goes on for ten steps: one gradient after a thousand
    steps of none moves a weight by about 25 times the rate; with beta2 = 0.9 by 6. If that is the cause, both changes
    let most seeds learn that had not.
    """
    base = replace(REWARDED, task="secret-10000", max_completion_length=TOKENS[10_000], steps=2000)
    return _after_a_wait(base, ((1e-4, 0.999), (1e-3, 0.9)), 5)


def _wait_live() -> list[GRPOSpec]:
    """A smaller secret, and fewer guesses a step, so that chance still asks for a wait of more than a hundred steps.

    The setting that is to be improved on is among them: `secret-reward` has no run of this secret at its live size.
    """
    base = replace(REWARDED, task="secret-676", max_completion_length=TOKENS[676], steps=600, group_size=4)
    return _after_a_wait(base, ((1e-3, 0.999), (1e-4, 0.999), (1e-3, 0.9)), 2)


EXPERIMENTS = (
    Experiment("secret-reward", "How many episodes does a reward need to teach one secret out of N?", {
        ("cpu", "record"): lambda: _by_reward(tuple(STEPS), [3e-4, 1e-3], 5),
        ("cpu", "live"): lambda: _by_reward((10, 26, 100), [1e-3], 3),
    }),
    Experiment("secret-example", "How many examples does it take to learn the same secrets?", {
        ("cpu", "record"): lambda: _by_example(tuple(STEPS), [3e-4, 1e-3, 3e-3, 1e-2], 5),
        ("cpu", "live"): lambda: _by_example((10, 26, 100), [3e-3], 3),
    }),
    Experiment("secret-wait", "Why do some runs never succeed a second time, and what helps?", {
        ("cpu", "record"): _wait_record, ("cpu", "live"): _wait_live,
    }),
)
