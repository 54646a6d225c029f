"""Pareto fronts of any number of objectives, and exact hypervolume of two to four.

Loss matrices ``losses_NM`` hold N points of M objectives, all to be minimised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from nas.core.metrics import Goal

Mask = NDArray[np.bool_]


def non_dominated(losses_NM: Floats) -> Mask:
    """True for points that no other point dominates; equal points do not dominate each other. Shape (N,)."""
    n, m = losses_NM.shape
    keep = np.zeros(n, dtype=bool)
    if n == 0:
        return keep
    order = np.lexsort(losses_NM.T[::-1])
    ranked = losses_NM[order]
    if m == 2:
        # In order of the first objective, a point survives if its second is below all before it, or equals a survivor.
        second = ranked[:, 1]
        before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
        alive = second < before
        same = np.concatenate([[False], (ranked[1:] == ranked[:-1]).all(axis=1)])
        group = np.cumsum(~same) - 1
        keep[order] = alive[np.flatnonzero(~same)][group]
        return keep
    # In lexicographic order a point can only be dominated by an earlier one, and then also by an earlier survivor.
    survivors = np.empty_like(ranked)
    count = 0
    for i, row in enumerate(ranked):
        kept = survivors[:count]
        if not ((kept <= row).all(axis=1) & (kept < row).any(axis=1)).any():
            survivors[count] = row
            count += 1
            keep[order[i]] = True
    return keep


def hypervolume(losses_NM: Floats, reference_M: Floats) -> float:
    """Exact volume dominated by the points and bounded by the reference, for 2 to 4 objectives.

    Two objectives by a sweep; more by slicing along the last objective. Points that are not better than the reference
    in every objective contribute nothing. Raises InvalidInput for other numbers of objectives.
    """
    m = losses_NM.shape[1]
    if not 2 <= m <= 4 or reference_M.shape != (m,):
        raise InvalidInput(
            f"hypervolume: expected 2 to 4 objectives and a reference for each, got {m} and {reference_M.shape}"
        )
    inside = losses_NM[(losses_NM < reference_M).all(axis=1)]
    return _volume(inside[non_dominated(inside)], reference_M)


def _volume(losses_NM: Floats, reference_M: Floats) -> float:
    if len(losses_NM) == 0:
        return 0.0
    if losses_NM.shape[1] == 2:
        front = losses_NM[np.argsort(losses_NM[:, 0])]
        ceilings = np.concatenate([[reference_M[1]], np.minimum.accumulate(front[:, 1])[:-1]])
        return float(((reference_M[0] - front[:, 0]) * np.maximum(ceilings - front[:, 1], 0.0)).sum())
    levels = np.unique(losses_NM[:, -1])
    tops = np.concatenate([levels[1:], reference_M[-1:]])
    total = 0.0
    for level, top in zip(levels, tops, strict=True):
        below = losses_NM[losses_NM[:, -1] <= level, :-1]
        total += _volume(below[non_dominated(below)], reference_M[:-1]) * float(top - level)
    return total


@dataclass(frozen=True)
class ParetoFront:
    """A front over named points. ``insert`` in any order and any batches gives an equal value.

    ``members`` are sorted by their values and then by id; points of equal values are all kept.
    """

    goals: tuple[Goal, ...]
    members: tuple[str, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()

    def insert(self, points: Iterable[tuple[str, tuple[float, ...]]]) -> ParetoFront:
        """The front with more points. Raises InvalidInput for values that are too few, too many or not finite."""
        pool = dict(zip(self.members, self.values, strict=True))
        for name, values in points:
            if len(values) != len(self.goals) or not np.isfinite(values).all():
                raise InvalidInput(f"point {name}: expected {len(self.goals)} finite values, got {values}")
            if pool.setdefault(name, tuple(values)) != tuple(values):
                raise InvalidInput(f"point {name}: inserted before as {pool[name]}, now as {values}")
        ranked = sorted(pool.items(), key=lambda item: (item[1], item[0]))
        if not ranked:
            return self
        kept = non_dominated(self._losses([values for _, values in ranked]))
        names = tuple(name for (name, _), k in zip(ranked, kept, strict=True) if k)
        return ParetoFront(self.goals, names, tuple(pool[name] for name in names))

    def hypervolume(self, reference: tuple[float, ...]) -> float:
        """Exact hypervolume in the objectives' own units, by the goals' directions."""
        if not self.members:
            return 0.0
        return hypervolume(self._losses(list(self.values)), self._losses([reference])[0])

    def _losses(self, values: list[tuple[float, ...]]) -> Floats:
        signs = np.array([1.0 if goal == "min" else -1.0 for goal in self.goals])
        losses: Floats = np.array(values, dtype=np.float64) * signs
        return losses
