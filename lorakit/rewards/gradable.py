"""Whether a grader can say which answers are right: it must pay a right answer 1, and never less than 0 or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.rewards import RewardError, load_rewards, text_of, total
from lorakit.rewards.symbolic import is_gradable

# How a completion that holds nothing but the right answer looks, for each scheme.
FORMS = {"exact": "{}", "numeric": "{}", "marked": "#### {}", "boxed": r"\boxed{{{}}}", "math": r"\boxed{{{}}}",
         "format": "#### {}", "reasoning": "</think>{}"}
TRIED = 16  # problems that a grader of one's own is tried on


def ungradable(grader: str, answers: Sequence[str], stop: str | None = None) -> list[int]:
    """The places of the answers that a built-in scheme does not pay even where they are given as they stand.

    Args:
        grader: a reward scheme.
        answers: right answers.
        stop: text that ends a completion; an answer that holds it can never be given whole.

    Raises:
        RewardError: the scheme pays a right answer more than 1, so that no share of right answers comes of it.

    >>> ungradable("marked", ["7", "so\\n#### 7"]), ungradable("numeric", ["7", "3,5"], stop=",")
    ([1], [1])
    """
    values = total([function(prompts=[""] * len(answers), answer=list(answers),
                             completions=[FORMS[grader].format(answer.strip()) for answer in answers])
                    for function in load_rewards(grader)])
    accuracy(grader, values, answers)
    readable = {answer: grader != "math" or is_gradable(answer) for answer in set(answers)}
    return [place for place, (value, answer) in enumerate(zip(values, answers, strict=True))
            if value != 1.0 or not readable[answer] or (stop is not None and stop in answer.strip())]


def try_grader(grader: str, columns: Mapping[str, Sequence[Any]], prompts: Sequence[str]) -> None:
    """Let a grader that is none of `FORMS` grade some right answers in every form, some wrong ones and none.

    Args:
        grader: what `register_reward` returned.
        columns: the problems' columns but the prompt; right answers stand in `answer`, if anywhere.
        prompts: the problems' prompts.

    Raises:
        RewardError: it cannot be loaded, fails, or pays less than 0 or more than 1.
    """
    count = min(TRIED, len(prompts))
    own = [str(answer) for answer in columns.get("answer", prompts)]
    shown = [[f"{form.format(answer)}\n" for answer in own[:count]] for form in sorted({*FORMS.values()})]
    for completions in (own[:count], [*own[1:count], *own[:1]], [""] * count, ["?"] * count, *shown):
        for function in load_rewards(grader):
            accuracy(grader, function(prompts=list(prompts[:count]), completions=completions,
                                      completion_ids=[[] for _ in completions],
                                      **{name: list(values[:count]) for name, values in columns.items()}), completions)


def accuracy(grader: str, values: Sequence[float | None], completions: Sequence[Any]) -> list[float]:
    """What each completion adds to a count of right ones; one without a value adds nothing.

    Raises:
        RewardError: a value below 0 or above 1.

    >>> accuracy("exact", [1.0, None, 0.5], ["a", "b", "c"])
    [1.0, 0.0, 0.5]
    """
    for value, completion in zip(values, completions, strict=True):
        if value is not None and not 0 <= value <= 1:
            raise RewardError(f"the grader {grader!r} paid {value:g} for {text_of(completion)!r:.200}; accuracy is the "
                              "share of right answers, so a grader pays from 0 (wrong) to 1 (right): give the task "
                              "such a grader, and what you want to pay as GRPOSpec(reward=…)")
    return [value or 0.0 for value in values]
