"""Reward functions in TRL's convention, `(prompts, completions, **columns) -> list[float | None]`.

A scheme is a tuple of such functions, whose sum is the reward; each built-in one is an extractor, a comparison and
what is paid. They are total (any string gets a number) and never execute or evaluate what a model wrote.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from lorakit import sources
from lorakit.codehash import code_hash
from lorakit.grpo_spec import OWN_REWARD
from lorakit.rewards.answers import (
    after_thinking,
    boxed,
    marked,
    same_answer,
    same_text,
    whole,
)
from lorakit.rewards.capture import CaptureError, importable, load, store, stored
from lorakit.rewards.symbolic import UngradableError, require_sympy, same_mathematics
from lorakit.spec_fields import shown

RewardFunction = Callable[..., list[float | None]]
Extract = Callable[[str], str | None]
Compare = Callable[[str, str], bool | None]


ASYNC = ("reward {} is async, and async rewards are not supported: write a plain `def`, and call asyncio.run(…) in it "
         "for what must be awaited")


class RewardError(ValueError):
    """A reward function failed, or returned what no advantage can be computed from."""


def graded(name: str, extract: Extract, compare: Compare, *, right: float = 1.0, wrong: float = 0.0,
           nonsense: float = 0.0, missing: float = 0.0) -> RewardFunction:
    """A reward function that extracts an answer and compares it with the column `answer`.

    Args:
        name: what records and TRL's logs call it.
        extract: completion to its answer, or None where the form is missed.
        compare: (given, answer) to True, False, or None for nonsense.
        right, wrong, nonsense, missing: what is paid; a problem whose own answer cannot be read pays None.

    >>> reward = graded("six times seven", whole, same_answer, wrong=-1.0, nonsense=-2.0)
    >>> reward(prompts=["6 · 7"] * 3, completions=["42", "41", "?"], answer=["42"] * 3)
    [1.0, -1.0, -2.0]
    """
    def pay(completion: str, answer: str) -> float | None:
        given = extract(completion)
        if given is None:
            return missing
        try:
            verdict = compare(given, answer)
        except UngradableError:
            return None
        return nonsense if verdict is None else right if verdict else wrong

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        answers = columns.get("answer")
        if answers is None or any(not isinstance(answer, str) for answer in answers):
            raise RewardError(f"{name} compares with a column 'answer' of text, and the data has none: columns are "
                              f"{', '.join(columns) or 'none'}; add it, or give a reward function of your own")
        return [pay(text_of(completion), answer) for completion, answer in zip(completions, answers, strict=True)]

    reward.__name__ = reward.__qualname__ = name
    return reward


def in_form(name: str, extract: Extract, *, right: float = 1.0) -> RewardFunction:
    """A reward function that pays `right` for any completion in which `extract` finds an answer, else 0.

    >>> in_form("format", marked, right=3.0)(prompts=["", ""], completions=["#### 7", "7"])
    [3.0, 0.0]
    """
    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [right if extract(text_of(completion)) is not None else 0.0 for completion in completions]

    reward.__name__ = reward.__qualname__ = name
    return reward


def text_of(completion: Any) -> str:
    """A completion's text: itself, or the content of the last message of a conversation; anything else is empty."""
    if isinstance(completion, list | tuple) and completion and isinstance(completion[-1], Mapping):
        completion = completion[-1].get("content")
    return completion if isinstance(completion, str) else ""


SCHEMES: dict[str, tuple[RewardFunction, ...]] = {
    "exact": (graded("exact", whole, same_text),),  # the completion is the answer, character by character
    "numeric": (graded("numeric", whole, same_answer),),  # … or the same number
    "marked": (graded("marked", marked, same_answer),),  # after ####
    "boxed": (graded("boxed", boxed, same_answer),),
    "math": (graded("math", boxed, same_mathematics),),  # boxed and equal as mathematics
    "format": (in_form("format", marked),),
    "reasoning": (graded("reasoning", after_thinking, same_answer),),  # like TRL's: nothing without </think>
}


def scheme(name: str) -> tuple[RewardFunction, ...] | None:
    """The functions of a reward scheme, lorakit's or another source's; None where no source has it."""
    found: tuple[RewardFunction, ...] | None = sources.loader("rewards", name)
    return found


def load_rewards(name: str) -> tuple[RewardFunction, ...]:
    """The reward functions of a scheme, or your own, each checked: what it returns is numbers or None, one each.

    Args:
        name: of a scheme, or what `register_reward` returned.

    Raises:
        RewardError: unknown, or your function's file is no longer the one that the name pins.
        MissingExtraError: `math` without sympy.

    >>> [function.__name__ for function in load_rewards("marked")]
    ['marked']
    """
    if name == "math":
        require_sympy()
    if (functions := scheme(name)) is not None:
        return tuple(checked(function) for function in functions)
    if not OWN_REWARD.fullmatch(name):
        raise RewardError(f"unknown reward {name!r}; known: {', '.join(sources.rewards())}; your own: what "
                          "lorakit.register_reward(…) returns")
    place, _, pin = name.partition("@")
    module_name, _, function_name = place.partition(":")
    file = stored(pin) if module_name == "__main__" else _source(module_name)
    if file is None:
        raise RewardError(f"{place} was defined in a notebook or script, and this machine does not keep it (any more): "
                          "define it there and call lorakit.register_reward again" if module_name == "__main__" else
                          f"{place} cannot be imported here: there is no such file; run where it is, or put its folder "
                          "on PYTHONPATH")
    found = code_hash([file])
    if found != pin:
        raise RewardError(f"{place} is pinned to {pin}, but its file now hashes to {found}: register it again")
    try:
        function = getattr(load(file) if module_name == "__main__" else importlib.import_module(module_name),
                           function_name)
    except (ImportError, AttributeError) as error:
        raise RewardError(f"{place} cannot be imported here: {error}; run where the file is, or put its folder on "
                          "PYTHONPATH") from error
    return (checked(function),)


def _source(module_name: str) -> str | None:
    """The file that importing a module would execute, found without executing any, its packages' included."""
    path: Sequence[str] | None = None
    origin = None
    parts = module_name.split(".")
    for count in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:count]), path)
        if spec is None:
            return None
        origin, path = spec.origin, spec.submodule_search_locations
    return origin if origin is not None and origin.endswith(".py") else None


def register_reward(function: RewardFunction) -> str:
    """Name your own reward function by its source's hash, so that specs can hold it and workers can import it.

    One at the top level of an importable file is named by that whole file. Of one in a notebook, in a script or in
    another function, the source is kept, with the constants and functions beside it that it uses as they are now;
    modules that it imports are not part of either hash.

    Args:
        function: `(prompts, completions, **columns) -> list[float | None]`.

    Returns:
        `module:function@hash` (`__main__:function@hash` if the source was stored), for `GRPOSpec(reward=…)`.

    Raises:
        RewardError: it is asynchronous, a lambda, decorated or no function, has no source, or uses what cannot be
            written down.
    """
    if _is_async(function):
        raise RewardError(ASYNC.format(getattr(function, "__name__", function)))
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    name = getattr(function, "__name__", "")
    if importable(function) and (file := getattr(module, "__file__", None)) is not None \
            and re.fullmatch(r"[A-Za-z_]\w*", name):
        return f"{function.__module__}:{name}@{code_hash([str(file)])}"
    if not isinstance(function, FunctionType):
        raise RewardError(f"{name or function!r} is no plain function: write a `def` that calls it")
    try:
        return f"__main__:{name}@{store(function)}"
    except CaptureError as error:
        raise RewardError(str(error)) from None


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - an instance may have an async __call__
    return any(test(f) for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
               for f in (inspect.unwrap(function), call))


def checked(function: RewardFunction) -> RewardFunction:
    """The same function, whose failures are errors that say which completion they concern.

    Raises:
        RewardError: when called, if it raises, returns NaN or an infinity, or not one number or None a completion.
    """
    name = getattr(function, "__name__", "reward")

    @functools.wraps(function)
    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            values = function(prompts=prompts, completions=completions, **columns)
            if inspect.isawaitable(values) or inspect.isasyncgen(values):
                if inspect.iscoroutine(values):
                    values.close()
                raise RewardError(ASYNC.format(name))
            values = list(values)
        except RewardError:
            raise
        except Exception as error:
            raise RewardError(f"reward {name} raised {type(error).__name__}: {error}; a reward must return a number "
                              "for any text, or None where it has none") from error
        if len(values) != len(completions):
            raise RewardError(f"reward {name} returned {len(values)} values for {len(completions)} completions")
        paid = [_finite(value) for value in values]
        for completion, value, number in zip(completions, values, paid, strict=True):
            if number is None and value is not None:
                raise RewardError(f"reward {name} returned {shown(value)} for the completion "
                                  f"{text_of(completion)!r:.200}; allowed: a finite number, or None where there is no "
                                  "reward")
        return paid

    return reward


def _finite(value: Any) -> float | None:
    """The value as a float, or None where it is no finite number."""
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # a whole number above 1e308, a signalling NaN, an array
        return None
    return number if math.isfinite(number) else None


def total(rewards: Sequence[Sequence[float | None]], weights: Sequence[float] | None = None) -> list[float | None]:
    """The weighted sum of the components for each completion; None only where every component is None, as in TRL.

    >>> total([[3.0, None, None], [5.0, 1.0, None]], weights=[1.0, 2.0])
    [13.0, 2.0, None]
    """
    weights = weights or [1.0] * len(rewards)
    sums: list[float | None] = []
    for values in zip(*rewards, strict=True):
        paid = [w * v for w, v in zip(weights, values, strict=True) if v is not None]
        sums.append(sum(paid) if paid else None)
    return sums
