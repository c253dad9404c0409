"""A pack that would end too late is given up in its first steps; one that ends in time never is."""

from __future__ import annotations

import pytest

from lorakit.result import evaluation_steps
from lorakit.sweep.forecast import Forecast, OverBudgetError


def given_up(seconds_left, steps=300, evaluations=12, step=1.0, evaluation=4.0, warm_up=0.0, known=False):
    """The step at which a run of these costs is given up, or None, and what was predicted."""
    now, points = 0.0, evaluation_steps(steps, evaluations)
    forecast = Forecast(steps, evaluations, seconds_left, clock=lambda: now, warm_up=known)
    now += 1.5 * evaluation  # the base is evaluated on one text more
    try:
        forecast.seen(0)
        for number in range(1, steps + 1):
            now += step + (evaluation if number in points else 0) + warm_up * (number == 1)
            forecast.seen(number)
    except OverBudgetError as error:
        return number, error.seconds
    return None, now


WHOLE = 300 + 4 * (12 + 1.5)  # seconds, and as much again after the last step as before the first


def test_what_fits_is_trained_to_its_end_and_what_does_not_is_given_up_early():
    assert given_up(1.1 * WHOLE)[0] is None
    for share in (0.1, 0.5, 0.9):
        number, seconds = given_up(share * WHOLE)
        assert number <= 0.05 * 300
        assert seconds == pytest.approx(WHOLE, rel=0.1)


def test_a_slow_first_step_gives_nothing_up_that_fits():
    assert given_up(1.2 * WHOLE, warm_up=0.3)[0] is None
    assert given_up(10, steps=2, evaluations=2, step=1, evaluation=0.1)[0] is None


def test_a_first_step_that_compiles_tells_nothing_of_the_others():
    assert given_up(1.3 * WHOLE, warm_up=60)[0] == 1
    assert given_up(1.3 * WHOLE, warm_up=60, known=True)[0] is None
    assert 1 < given_up(0.9 * WHOLE, warm_up=60, known=True)[0] <= 0.05 * 300
