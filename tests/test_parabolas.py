"""Best learning rates read off parabolas: where they lie, and how often their intervals hold the truth."""

import numpy as np
import pytest
from scipy.stats import t

from lorakit.analysis.parabolas import common_minima

SEEDS, SWEEPS = 5, 300


def steep_to_the_right(x):
    """A loss over log10 of the rate with its minimum at 0, as sweeps of learning rates look."""
    return 4 * (1 - np.exp(0.5 * x)) ** 2


def swept(curve, noise, reach, step=0.25):
    """Of many sweeps: the minimum found, and whether its t interval over seeds holds 0."""
    rng = np.random.default_rng(0)
    found, held = [], []
    for _ in range(SWEEPS):
        x = (np.arange(7) - 3 + rng.uniform(-0.5, 0.5)) * step
        minima = common_minima(x, curve(x) + rng.normal(0, noise, (SEEDS, 7)), reach)
        half = t.ppf(0.975, SEEDS - 1) * np.std(minima, ddof=1) / SEEDS**0.5
        found.append(np.mean(minima))
        held.append(abs(found[-1]) < half)
    return float(np.mean(found)), float(np.mean(held))


def test_three_rates_hold_the_minimum_and_five_are_pulled_off_it():
    near, held = swept(steep_to_the_right, 0.03, reach=1)
    assert abs(near) < 0.02
    assert held > 0.9
    far, seldom = swept(steep_to_the_right, 0.03, reach=2)
    assert far < -0.04
    assert seldom < 0.3


def test_a_bend_taken_as_known_would_claim_too_much():
    _, held = swept(np.square, 0.03, reach=1)
    assert 0.9 < held < 0.98


def test_the_mean_is_the_vertex_of_the_mean_losses_and_the_spread_the_jackknifes():
    x, table = np.arange(5.0), np.array([[9, 2, 1, 3, 9], [9, 3, 1, 2, 9], [9, 2.5, 1, 4, 9.0]])
    minima = common_minima(x, table, reach=1)
    bend, slope, _ = np.polyfit(x[1:4] - 2, table.mean(axis=0)[1:4], 2)
    assert np.mean(minima) == pytest.approx(2 - slope / (2 * bend))
    without = [np.mean(common_minima(x, np.delete(table, i, axis=0), reach=1)) for i in range(3)]
    assert np.var(minima, ddof=1) / 3 == pytest.approx(2 / 3 * np.sum((without - np.mean(without)) ** 2))
