"""Levels: which few codes of a uniform grid serve a tensor best (Lloyd 1957, solved exactly in one dimension)."""

from __future__ import annotations

import numpy as np


def best_levels(weights: np.ndarray, number: int) -> tuple[int, ...]:
    """The `number` positions, ascending, of least Σ weights[i] · (i − nearest position)².

    weights: [n], not negative: how often, and how heavily, each position of the uniform grid occurs. Fewer positions
    come back if fewer have weight. Positions split into runs that share a level; the best split into k runs follows
    from the best ones into k − 1 (dynamic programming, n²·number steps), and a run's level is its mean, rounded.
    """
    weights = np.asarray(weights, np.float64)
    number = min(number, max(int((weights > 0).sum()), 1))
    at = np.arange(weights.size, dtype=np.float64)
    sums = [np.concatenate([[0.0], np.cumsum(weights * at**power)]) for power in range(3)]
    mass, first, second = (total[None, :] - total[:, None] for total in sums)  # over positions [a, b)
    safe = np.where(mass > 0, mass, 1.0)
    cost = np.where(mass > 0, second - first * first / safe, 0.0)
    cost[np.tril_indices(len(cost), -1)] = np.inf  # runs end behind their beginning
    best, begins = cost[0], []
    for _ in range(number - 1):
        extended = best[:, None] + cost
        begins.append(extended.argmin(0))
        best = extended.min(0)
    end, levels = weights.size, set()
    for start in (*(begin for begin in reversed(begins)), None):
        begin = 0 if start is None else int(start[end])
        if mass[begin, end] > 0:
            levels.add(int(np.rint(first[begin, end] / mass[begin, end])))
        end = begin
    return tuple(sorted(levels)) or (0,)
