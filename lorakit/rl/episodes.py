"""What a run's episodes were paid and what they tell: rewards, advantages, bits per episode, the points of the curve.

An episode is one sampled completion with its reward. Both engines log them here, one `Episodes` a run.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lorakit.data.rl_tasks import Problem, Task, encode_prompts
from lorakit.grpo_spec import GRPOSpec
from lorakit.result import GRPO_CURVE, HELD_OUT, Metrics, RunResult, evaluation_steps
from lorakit.rewards import SCHEMES, RewardFunction, load_rewards, total
from lorakit.rewards.gradable import accuracy
from lorakit.rl.objective import advantages
from lorakit.rl.rollout import sample
from lorakit.rl.stops import Stops, without_stop

ROWS_AT_ONCE = 1024  # problems times configurations in one evaluation forward pass


class NoRewardWarning(UserWarning):
    """No group of a run ever held two different rewards, so that nothing could be learnt from it."""


def bits(values: Sequence[float]) -> float:
    """Entropy, in bits, of the values as they are distributed in the sample; for two values H(p).

    >>> bits([1.0, 0.0, 0.0, 1.0]), bits([0.5, 0.5])
    (1.0, 0.0)
    """
    counts = Counter(round(value, 6) for value in values if math.isfinite(value))
    whole = sum(counts.values())
    return abs(sum(n / whole * math.log2(n / whole) for n in counts.values()))


def pay(functions: Sequence[RewardFunction], task: Task, problems: Sequence[Problem], completions: Sequence[str],
        tokens: Sequence[Sequence[int]]) -> list[list[float | None]]:
    """Each reward function's value for each completion; `problems` holds the problem of each completion."""
    prompts = [problem["prompt"] for problem in problems]
    columns = task.columns(problems)
    return [function(prompts=prompts, completions=list(completions), completion_ids=list(tokens), **columns)
            for function in functions]


def rewards_of(name: str, task: Task) -> tuple[RewardFunction, ...]:
    """The functions of a reward; a built-in scheme is not shown a stop that is more than blanks, one of your own is."""
    stop = task.stop or ""

    def unstopped(function: RewardFunction) -> RewardFunction:
        @functools.wraps(function)
        def paid(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
            texts = [without_stop(text, stop) if isinstance(text, str) else text for text in completions]
            return function(prompts=prompts, completions=texts, **columns)

        return paid

    functions = load_rewards(name)
    return tuple(map(unstopped, functions)) if stop.strip() and name in SCHEMES else functions


class Episodes:
    """The log of one run's episodes.

    Args:
        spec: of the run.
        task: its problems.
    """

    def __init__(self, spec: GRPOSpec, task: Task) -> None:
        self.spec, self.task = spec, task
        self.functions = rewards_of(spec.reward or task.grader, task)
        self.components = [getattr(f, "__name__", "reward") for f in self.functions] if len(self.functions) > 1 else []
        self.points = evaluation_steps(spec.steps, spec.evaluations)
        names = (*GRPO_CURVE, *(f"reward_{name}" for name in self.components))
        self.curve: dict[str, list[Any]] = {name: [] for name in names}
        self.episodes = self.tokens = self.groups_with_spread = 0
        self.latest = math.nan  # mean reward of the last batch
        self.finite, self.gaps = True, [0.0, 0.0, 0.0]  # sum, count and maximum of |learner − sampler|
        self.base_gap_first: float | None = None
        self.base_gap_last: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._rewards: list[float] = []
        self._advantages: list[float] = []
        self._parts: list[list[float]] = [[] for _ in self.functions]
        self._lengths: list[int] = []
        self._cut = self._flat = self._groups = 0

    def facts(self) -> dict[str, Any]:
        """All that has been entered, as JSON holds it."""
        given = ("spec", "task", "functions", "components", "points")
        return {name: value for name, value in vars(self).items() if name not in given}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take up what `facts` gave."""
        vars(self).update(facts)

    def weights(self, step: int) -> tuple[float, ...]:
        """What each component counts at a step: while the format is learnt, the first one alone."""
        given = self.spec.reward_weights or (1.0,) * len(self.functions)
        return given if step > self.spec.format_steps else (given[0], *[0.0] * (len(given) - 1))

    def add(self, step: int, parts: Sequence[Sequence[float | None]], lengths: Sequence[int],
            ended: Sequence[bool]) -> torch.Tensor:
        """Enter the completions of one batch, N of them, and return their advantages (N,).

        Args:
            parts: the value of each reward function for each completion.
            lengths: tokens of each completion.
            ended: False where a completion was cut.
        """
        paid = total(parts, self.weights(step))
        rewards = torch.tensor([math.nan if r is None else r for r in paid], dtype=torch.float64)
        self.latest = float(rewards.nanmean())
        groups = rewards.view(-1, self.spec.group_size)
        advantage = advantages(rewards, self.spec.group_size, self.spec.scale_rewards)
        flat = int(((groups - groups.nanmean(1, keepdim=True)).nan_to_num().abs().amax(1) < 1e-9).sum())
        self.groups_with_spread += len(groups) - flat
        self._flat, self._groups = self._flat + flat, self._groups + len(groups)
        self._rewards += [r for r in paid if r is not None]
        self._advantages += advantage.tolist()
        for values, part in zip(self._parts, parts, strict=True):
            values += [value for value in part if value is not None]
        self._lengths += lengths
        self._cut += len(ended) - sum(ended)
        self.episodes, self.tokens = self.episodes + len(lengths), self.tokens + sum(lengths)
        return advantage

    def add_log_probs(self, learner: torch.Tensor, sampler: torch.Tensor, mask: torch.Tensor) -> None:
        """Enter the log-probabilities (N, C) that learner and sampler give to the same completions."""
        gap = (learner - sampler).abs()[mask]
        self.finite &= bool(torch.isfinite(gap).all())
        self.gaps = [self.gaps[0] + float(gap.sum()), self.gaps[1] + gap.numel(),
                     max(self.gaps[2], float(gap.max()) if gap.numel() else 0.0)]

    def add_base_log_probs(self, base: torch.Tensor, sampler: torch.Tensor, mask: torch.Tensor) -> float:
        """Enter the base's log-probabilities of the sampler's completions; nats per episode between the two."""
        gap = float((base - sampler).abs()[mask].max())
        self.base_gap_first, self.base_gap_last = gap if self.base_gap_first is None else self.base_gap_first, gap
        return float((sampler - base).where(mask, 0.0).sum(1).mean())

    def point(self, step: int, accuracy: dict[str, float], kl: float) -> None:
        """Close a stretch of the curve: what came since the last point, with the accuracies at its end."""
        def mean(values: Sequence[float]) -> float:
            return sum(values) / len(values) if values else math.nan

        row = {"step": step, "episodes": self.episodes, "tokens": self.tokens, "reward": mean(self._rewards),
               "advantage_entropy": bits(self._advantages), "reward_entropy": bits(self._rewards),
               "length": mean(self._lengths), "truncated": self._cut / max(1, len(self._lengths)),
               "zero_spread": self._flat / max(1, self._groups), "kl": kl,
               **{f"{name}_accuracy": accuracy[name] for name in HELD_OUT},
               **{f"reward_{name}": mean(part) for name, part in zip(self.components, self._parts, strict=False)}}
        for name, column in self.curve.items():
            column.append(row[name])
        self._clear()

    def result(self, base: dict[str, float], last: dict[str, float], metrics: Metrics,
               weights: dict[str, Any], seconds: float) -> RunResult:
        """The run's result; says so if it never had a group with two different rewards.

        Args:
            base, last: accuracies on each held-out split before and after.
            metrics: what the engine measured besides.
        """
        best = max(range(len(self.curve["step"])), key=lambda i: (self.curve["validation_accuracy"][i], -i))
        found: Metrics = {
            **{f"base_{name}_accuracy": value for name, value in base.items()},
            **{f"{name}_accuracy": value for name, value in last.items()},
            **{f"best_{name}_accuracy": self.curve[f"{name}_accuracy"][best] for name in HELD_OUT},
            "best_step": self.curve["step"][best], "reward": self.curve["reward"][-1],
            "groups_with_spread": self.groups_with_spread,
            "sampler_gap_mean": self.gaps[0] / max(1.0, self.gaps[1]), "sampler_gap_max": self.gaps[2],
            "sampler_base_gap_first": self.base_gap_first, "sampler_base_gap_last": self.base_gap_last, **metrics}
        if not self.groups_with_spread:
            warnings.warn(no_reward(self.spec.id), NoRewardWarning, stacklevel=2)
        return RunResult(self.spec, "ok" if self.finite else "diverged", found, self.curve, weights, seconds,
                         self.tokens)


def no_reward(run: str) -> str:
    """What to tell the owner of a run that never had two different rewards in one group."""
    return (f"run {run}: every completion of every group earned the same reward, so H(Adv) = 0 bits an episode and the "
            "policy never moved. Look at the base's pass rate (metric base_validation_accuracy); then pay the format "
            "first (format_steps), take easier problems or a larger group_size, raise temperature or "
            "max_completion_length, or choose a reward that the model's form can earn ('reasoning' pays 0 without "
            "</think>)")


class HeldOut:
    """Problems that accuracy is measured on, encoded once."""

    def __init__(self, spec: GRPOSpec, task: Task, tokenizer: Any, context: int, stop: Stops) -> None:
        self.spec, self.task, self.tokenizer, self.stop = spec, task, tokenizer, stop
        self.grader = rewards_of(task.grader, task)
        self.prompts = {name: encode_prompts(task, name, tokenizer, context, spec.max_completion_length)
                        for name in task.splits}

    def accuracy(self, model: Any, split: str, count: int = 1, final: bool = False) -> list[float]:
        """Share of a split's problems that each of `count` packed policies answers rightly, greedily.

        Args:
            final: on `final_evaluation_problems` instead of `evaluation_problems`.
        """
        several = self.spec.final_evaluation_problems if final else None
        problems = self.task.splits[split][: several or self.spec.evaluation_problems]
        prompts = self.prompts[split][: len(problems)]
        right = [0.0] * count
        some = max(1, ROWS_AT_ONCE // count)
        for start in range(0, len(problems), some):
            part = problems[start : start + some]
            rollout = sample(model, prompts[start : start + some] * count, 1, self.spec.max_completion_length,
                             self.stop)
            tokens = rollout.completions()
            texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            counted = accuracy(self.task.grader, total(pay(self.grader, self.task, part * count, texts, tokens)), texts)
            for k in range(count):
                right[k] += sum(counted[k * len(part) : (k + 1) * len(part)])
        return [value / len(problems) for value in right]

    def accuracies(self, model: Any, splits: Sequence[str], count: int = 1,
                   final: bool = False) -> list[dict[str, float]]:
        """`accuracy` of several splits, one mapping a policy."""
        columns = {split: self.accuracy(model, split, count, final) for split in splits}
        return [{split: values[k] for split, values in columns.items()} for k in range(count)]
