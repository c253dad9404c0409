"""What a binary reward can tell on paper: one advantage, a whole group's advantages, and a search that starts blind.

The information that a policy gradient gets from an episode passes through its advantage (Schulman et al. 2025), so
entropies of advantages bound it from above. Success rates are those of one prompt at one moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


class RewardError(ValueError):
    """A question about rewards has an input outside its meaning."""


def entropy(chances: Iterable[float]) -> float:
    """In bits, of outcomes with these chances."""
    return -sum(chance * math.log2(chance) for chance in chances if chance > 0)


def _check(share: float, group_size: int) -> None:
    if not 0 <= share <= 1:
        raise RewardError(f"a share of {share!r}; allowed: 0 to 1")
    if group_size != int(group_size) or group_size < 2:
        raise RewardError(f"group_size={group_size!r}; allowed: a whole number of 2 or more")


def advantage_bits(success_rate: float, group_size: int) -> float:
    """Entropy of *one* advantage, reward minus the group's mean, where each of a group succeeds independently.

    It can exceed one bit: besides its own reward an advantage tells how many others of its group succeeded, which
    their advantages tell again. A group of equal rewards has advantages of 0, whichever reward it was.

    Args:
        success_rate: of a binary reward, 0 to 1.
        group_size: completions of one prompt, 2 or more.

    Raises:
        RewardError: an argument outside its meaning.

    >>> advantage_bits(0.5, 2)  # +1/2 and −1/2 with a chance of 1/4 each, 0 with 1/2
    1.5
    """
    _check(success_rate, group_size)
    p, q, n = success_rate, 1 - success_rate, group_size
    counts = [math.comb(n, k) * p**k * q ** (n - k) for k in range(n + 1)]
    mixed = [share for k in range(1, n) for share in (counts[k] * k / n, counts[k] * (n - k) / n)]
    return entropy([*mixed, counts[0] + counts[n]])


def group_bits(success_rate: float, group_size: int) -> float:
    """Entropy of a group's advantages *together*: group_size · H(p), less what equal rewards hide.

    The advantages give back every reward unless all are equal: then nobody sees whether all were right or all wrong.
    Dividing by the group's standard deviation changes nothing.

    Args:
        success_rate, group_size: as in `advantage_bits`.

    Returns:
        bits a group; divided by `group_size` at most H(p) an episode, 1 bit.

    >>> group_bits(0.5, 2)  # three outcomes: 1/4, 1/4, and 1/2 for two equal rewards
    1.5
    >>> group_bits(0.5, 8) / 8 <= 1
    True
    """
    _check(success_rate, group_size)
    none, every = (1 - success_rate) ** group_size, success_rate**group_size
    rewards = group_size * entropy([success_rate, 1 - success_rate])
    return rewards - entropy([none, every]) + entropy([none + every])


def spread_bits(zero_spread: float, group_size: int) -> float:
    """The most that a group's advantages can tell of right-or-wrong rewards, where a share of groups has no spread.

    H(A) ≤ H(flat or not) + (1 − zero_spread) · log2(2^group_size − 2): a group without spread has one outcome, another
    has at most the patterns that are neither all right nor all wrong. Where prompts differ in difficulty this is lower
    than group_size · H(p) at the mean success rate. Trainers log the share (TRL: `frac_reward_zero_std`).

    Args:
        zero_spread: share of groups with equal rewards, 0 to 1.
        group_size: completions of one prompt, 2 or more.

    Returns:
        bits a group; an upper bound.

    >>> spread_bits(0.5, 2)  # two completions at even odds: as `group_bits`
    1.5
    >>> spread_bits(1.0, 8)
    0.0
    """
    _check(zero_spread, group_size)
    return entropy([zero_spread, 1 - zero_spread]) + (1 - zero_spread) * math.log2(2**group_size - 2)


def search_bits(success_rate: float) -> float:
    """Bits that a binary reward tells until the first success, on average: H(p) / p, for 1 / p episodes.

    Where all of N answers are equally likely, p = 1/N, that is log2 N + log2 e for large N: what there is to find, and
    1.44 bits. So a blind search tells what the secret holds, at about (log2 N) / N bits an episode.

    Args:
        success_rate: of every episode until then, above 0 and up to 1.

    >>> search_bits(0.5)  # two episodes of one bit
    2.0
    >>> round(search_bits(1 / 1024), 2)  # 10 bits to find, and log2 e
    11.44
    """
    if not 0 < success_rate <= 1:
        raise RewardError(f"success_rate={success_rate!r}; allowed: above 0, up to 1 (at 0 the search never ends)")
    return entropy([success_rate, 1 - success_rate]) / success_rate
