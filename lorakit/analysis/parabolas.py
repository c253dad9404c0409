"""Minima of parabolas through the losses of a sweep, over the logarithm of its rates."""

from __future__ import annotations

import numpy as np


def seed_minimum(logs: np.ndarray, losses: np.ndarray) -> float:
    """log10 of the rate at the parabola's minimum through the best point and its neighbours."""
    best = int(np.argmin(losses))
    near = slice(best - 1, best + 2)
    if best in (0, len(logs) - 1) or not np.isfinite(losses[near]).all():
        return float(logs[best])
    return vertex(logs[near], losses[near])


def vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola fitted to some points has its minimum; the lowest point where it bends the other way.

    >>> round(vertex(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 2.0])), 9)
    2.0
    """
    least = int(np.argmin(y))
    curvature, slope, _ = np.polyfit(x - x[least], y - y[least], 2)
    return float(x[least]) if curvature <= 0 else float(x[least] - slope / (2 * curvature))


def common_minima(x: np.ndarray, table: np.ndarray, reach: int, one_bend: bool = False) -> list[float]:
    """Each seed's minimum of a parabola over one window for all seeds, held inside it.

    Args:
        x: of the points, in rising order.
        table: a row of losses for each seed; points at which one is not finite take no part.
        reach: points of the window on either side of the least mean.
        one_bend: give every seed the bend of the mean losses: the mean of the minima is then that of the mean.

    >>> common_minima(np.array([1.0, 2, 3]), np.array([[2.0, 1, 2], [1.5, 1, 2.5]]), reach=1)
    [2.0, 1.75]
    """
    means = table.mean(axis=0)
    best = int(np.argmin(means))
    window = [i for i in range(max(0, best - reach), min(len(x), best + reach + 1)) if np.isfinite(means[i])]
    if len(window) < 3:
        return [float(x[best])] * len(table)
    near = x[window] - x[best]
    mean_bend = float(np.polyfit(near, means[window], 2)[0])
    minima = []
    for row in table:
        bend = mean_bend if one_bend else float(np.polyfit(near, row[window], 2)[0])
        slope = float(np.polyfit(near, row[window] - bend * near**2, 1)[0])
        minimum = -slope / (2 * bend) if bend > 0 else near[np.argmin(row[window])]
        minima.append(float(x[best] + np.clip(minimum, near[0], near[-1])))
    return minima
