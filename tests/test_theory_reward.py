"""Bits of advantages, against a count of every outcome."""

import math
from collections import Counter
from itertools import product

import pytest

from lorakit.theory.reward import RewardError, advantage_bits, group_bits, search_bits, spread_bits


def entropy(chances):
    return -sum(p * math.log2(p) for p in chances if p)


def counted(p, n):
    """Entropy of one advantage and of all n together, over all 2^n outcomes."""
    one, together = Counter(), Counter()
    for rewards in product((0, 1), repeat=n):
        chance = p ** sum(rewards) * (1 - p) ** (n - sum(rewards))
        gains = tuple(round(reward - sum(rewards) / n, 9) for reward in rewards)
        one[gains[0]] += chance
        together[gains] += chance
    return entropy(one.values()), entropy(together.values())


@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_bits_of_a_group_equal_those_of_every_outcome(p, n):
    one, together = counted(p, n)
    assert advantage_bits(p, n) == pytest.approx(one, abs=1e-12)
    assert group_bits(p, n) == pytest.approx(together, abs=1e-12)


def test_one_advantage_tells_more_than_a_bit_and_a_group_never_more_than_its_rewards():
    assert advantage_bits(0.5, 8) > 3
    for p in (0.01, 0.1, 0.5, 0.9):
        assert group_bits(p, 8) <= 8 * entropy([p, 1 - p]) <= 8 * advantage_bits(p, 8) + 8 * counted(p, 8)[0]
        assert group_bits(p, 8) <= 8 * advantage_bits(p, 8)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("n", [2, 8])
def test_groups_without_spread_bound_what_groups_tell(p, n):
    flat = p**n + (1 - p) ** n
    assert group_bits(p, n) <= spread_bits(flat, n) + 1e-12
    assert group_bits(0.5, n) == pytest.approx(spread_bits(2 * 0.5**n, n)), "even odds reach the bound"


def test_prompts_that_are_never_or_always_right_tell_less_than_their_mean_success_rate_would():
    flat = (1 + 1 + 2 * 0.5**8) / 3  # a third each: never right, always right, at even odds
    assert group_bits(0.5, 8) / 3 <= spread_bits(flat, 8) < 8 * entropy([0.5, 0.5]) / 2


def test_a_search_tells_the_secret_and_a_constant():
    for n in (100, 10_000):
        assert search_bits(1 / n) == pytest.approx(math.log2(n) + math.log2(math.e), abs=0.01)
    assert search_bits(1.0) == 0


@pytest.mark.parametrize("call", [lambda: advantage_bits(1.2, 8), lambda: group_bits(0.5, 1), lambda: search_bits(0),
                                  lambda: group_bits(0.5, 2.5), lambda: spread_bits(-0.1, 8)])
def test_bad_input_says_what_is_allowed(call):
    with pytest.raises(RewardError, match="allowed"):
        call()
