"""Where a run of GRPO spends its time, in packs and under TRL: by the clock, part by part, and by torch's profiler.

The functions that make a part are timed from outside, and of a part that calls another only its own time counts.
`scoring` are the log-probabilities that the record asks for, of the base and, under TRL, of the learner: packs take the
learner's from the update, TRL computes them once more, for us. The profiler counts operations and their own time; it
lengthens small ones, so that their sum is cut to the clock's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

from lorabook.benchmarks import packed_grpo
from lorabook.benchmarks.benchmark import Setting, in_turns, to_record
from lorabook.benchmarks.outcome import clock
from lorabook.benchmarks.where_time_goes import profiled
from lorakit.records import Record

Places = Mapping[str, list[tuple[Any, str]]]


class Stopwatch:
    """Seconds by part, of functions that may call each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within = [0.0]  # of each call that is open: seconds of the parts that it called

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose own time counts for the part."""
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            started = clock()
            self._within.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - started
                self.seconds[part] = self.seconds.get(part, 0.0) + took - self._within.pop()
                self._within[-1] += took

        return call


def by_part(train: Callable[[], Any], places: Places) -> dict[str, float]:
    """Seconds of a training by part; `rest` is what no part makes."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for part, functions in places.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, watch.timed(part, getattr(owner, name))))
        watch.timed("rest", train)()
    return watch.seconds


def of_packs() -> Places:
    """The functions of `train_grpo_pack` that make each part."""
    from lorakit.packed import grpo
    from lorakit.rl.episodes import HeldOut

    return {"sampling": [(grpo, "sample")], "rewards": [(grpo, "_score")], "scoring": [(grpo, "_in_parts")],
            "update": [(grpo, "learn")], "evaluation": [(HeldOut, "accuracies")]}


def of_trl() -> Places:
    """The same of TRL's trainer, as `train_grpo` uses it."""
    from accelerate.optimizer import AcceleratedOptimizer
    from trl import GRPOTrainer

    from lorakit.reference import grpo
    from lorakit.rl.episodes import HeldOut

    return {"sampling": [(GRPOTrainer, "_generate_single_turn")], "rewards": [(GRPOTrainer, "_calculate_rewards")],
            "scoring": [(grpo, "log_probs")], "rest": [(GRPOTrainer, "_prepare_inputs")],
            "update": [(GRPOTrainer, "training_step"), (AcceleratedOptimizer, "step")],
            "evaluation": [(HeldOut, "accuracies")]}


def grpo_parts(setting: Setting) -> Iterator[Record]:
    """The record of half of P7's policies in a pack, as one of its two processes trains them, and of one under TRL."""
    half = packed_grpo.sweep(setting.quick)[0::2]
    arms = {"packed": (partial(packed_grpo.packed, half, "cpu"), of_packs(), len(half)),
            "trl": (partial(packed_grpo.trl, half[:1], "cpu"), of_trl(), 1)}
    for train, _, _ in arms.values():  # imports, first touches
        train()
    found = in_turns(setting, {name: partial(by_part, train, places) for name, (train, places, _) in arms.items()})
    metrics: dict[str, float] = {}
    for name, (train, _, runs) in arms.items():
        parts = {part: 1e3 * median(one[part] for one in found[name]) / runs for part in found[name][0]}
        whole, seen = sum(parts.values()), profiled(train)
        dispatched, own = seen.pop("dispatched") / runs, sum(seen.values())
        metrics |= {f"{name}_{part}": value for part, value in parts.items()} | {
            f"{name}_whole": whole, f"{name}_dispatched": dispatched, f"{name}_products": seen["products"] / own,
            f"{name}_operations": min(whole, own / 1e3 / runs)}
    yield to_record(setting, "profile-grpo", {"spec": half[0].to_json(), "configurations": len(half), "processes": 2,
                                              "unit": "ms of a run"}, metrics)
