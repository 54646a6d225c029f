"""Pareto fronts of any number of objectives, and exact hypervolume of two to four.

Loss matrices ``losses_NM`` hold N points of M objectives, all to be minimised.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from nas.core.metrics import Goal

Mask = NDArray[np.bool_]
_CHUNK = 64  # rows compared at once: bounds memory
_MANY = 1024  # points beyond which a sample's front first weeds out most of them
_PIVOTS = 16  # members of that front that are used


def non_dominated(losses_NM: Floats) -> Mask:
    """True for points that no other point dominates; equal points do not dominate each other. Shape (N,).

    Of many points, most go at once: those that a member of the front of a sample dominates.
    Raises InvalidInput for losses that are not a number.
    """
    if np.isnan(losses_NM).any():
        raise InvalidInput("losses: expected numbers, got NaN")
    keep: Mask = np.zeros(len(losses_NM), dtype=bool)
    if len(losses_NM) <= _MANY:
        left = np.arange(len(losses_NM))
    else:
        sample = losses_NM[:: len(losses_NM) // _MANY]
        left = _weeded(losses_NM, sample[_survivors(sample)])
    keep[left] = _survivors(losses_NM[left])
    return keep


def _weeded(losses_NM: Floats, pivots_PM: Floats) -> NDArray[np.intp]:
    """The rows that none of the pivots with the least (normalised) sum of losses dominates."""
    finite = np.where(np.isfinite(pivots_PM), pivots_PM, 0.0)
    scale = np.ptp(finite, axis=0)
    order = (finite / np.where(scale > 0, scale, 1.0)).sum(axis=1).argsort(kind="stable")
    left, columns_MN = np.arange(len(losses_NM)), np.ascontiguousarray(losses_NM.T)
    for pivot in pivots_PM[order[:_PIVOTS]]:
        better = np.zeros(len(left), dtype=bool)
        equal = np.ones(len(left), dtype=bool)
        for column, value in zip(columns_MN, pivot, strict=True):
            better |= column < value
            equal &= column == value
        stays = better | equal
        left, columns_MN = left[stays], columns_MN[:, stays]
    return left


def _survivors(losses_NM: Floats) -> Mask:
    """Which points no other dominates.

    In lexicographic order a point can only be dominated by an earlier one. Two objectives then take one pass (Kung,
    Luccio, Preparata, 1975); more are compared with the survivors so far, a chunk of rows at a time.
    """
    n, m = losses_NM.shape
    keep: Mask = np.zeros(n, dtype=bool)
    if n == 0:
        return keep
    order = np.lexsort(losses_NM.T[::-1])
    ranked = losses_NM[order]
    if m == 2:
        # A point survives if its second loss is below all before it, or if it equals a survivor.
        second = ranked[:, 1]
        alive = np.concatenate([[True], second[1:] < np.minimum.accumulate(second)[:-1]])
        new = np.concatenate([[True], (ranked[1:] != ranked[:-1]).any(axis=1)])
        keep[order] = alive[new][np.cumsum(new) - 1]
        return keep
    survivors = ranked[:0]
    for start in range(0, n, _CHUNK):
        rows = ranked[start : start + _CHUNK]
        survive = ~_dominated(rows, np.concatenate([survivors, rows]))
        survivors = np.concatenate([survivors, rows[survive]])
        keep[order[start : start + _CHUNK]] = survive
    return keep


def _dominated(rows_BM: Floats, others_KM: Floats) -> Mask:
    """Which rows some other point dominates, shape (B,)."""
    below = np.ones((len(rows_BM), len(others_KM)), dtype=bool)
    better = np.zeros_like(below)
    for row, other in zip(rows_BM.T[:, :, None], others_KM.T[:, None], strict=True):
        below &= other <= row
        better |= other < row
    return np.asarray((below & better).any(axis=1))


def hypervolume(losses_NM: Floats, reference_M: Floats) -> float:
    """Exact volume dominated by the points and bounded by the reference, for 2 to 4 objectives.

    Two objectives by a sweep, three by a sweep that keeps the staircase of the first two, four by slicing along the
    last. Points that are not better than the reference in every objective contribute nothing. Raises InvalidInput for
    other numbers of objectives.
    """
    m = losses_NM.shape[1]
    if not 2 <= m <= 4 or reference_M.shape != (m,):
        raise InvalidInput(
            f"hypervolume: expected 2 to 4 objectives and a reference for each, got {m} and {reference_M.shape}"
        )
    inside = losses_NM[(losses_NM < reference_M).all(axis=1)]
    front = inside[non_dominated(inside)]
    front = front[np.argsort(front[:, -1], kind="stable")]
    if len(front) == 0:
        return 0.0
    if m == 2:
        tops = np.concatenate([front[1:, 1], reference_M[1:]])
        return float(((reference_M[0] - front[:, 0]) * (tops - front[:, 1])).sum())
    if m == 3:
        return _sweep(front.tolist(), reference_M.tolist())
    tops = np.concatenate([front[1:, -1], reference_M[-1:]])
    by_third = np.argsort(front[:, 2], kind="stable")  # position of every point in a sweep
    total = 0.0
    for i in np.flatnonzero(tops > front[:, -1]):
        slab = front[by_third[by_third <= i], :-1]
        total += _sweep(slab.tolist(), reference_M[:-1].tolist()) * float(tops[i] - front[i, -1])
    return total


def _sweep(points: list[list[float]], reference: list[float]) -> float:
    """Volume under three objectives of points sorted by the third (Beume et al., 2009).

    ``xs`` rise and ``ys`` fall: the staircase of the points so far, between two sentinels.
    """
    xs, ys = [-np.inf, reference[0]], [reference[1], -np.inf]
    area = volume = 0.0
    level = reference[2]
    for x, y, z in points:
        volume += area * (z - level)
        level = z
        first = last = bisect_right(xs, x)
        left, ceiling = x, ys[first - 1]
        if ceiling <= y:
            continue  # nothing of it sticks out
        while ys[last] >= y:  # steps that the point covers
            area += (xs[last] - left) * (ceiling - y)
            left, ceiling = xs[last], ys[last]
            last += 1
        area += (xs[last] - left) * (ceiling - y)
        xs[first:last], ys[first:last] = [x], [y]
    return volume + area * (reference[2] - level)


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
        """Exact hypervolume in the objectives' own units, by the goals' directions. Raises InvalidInput."""
        if len(reference) != len(self.goals) or not np.isfinite(reference).all():
            raise InvalidInput(f"reference: expected {len(self.goals)} finite values, got {reference}")
        return hypervolume(self._losses(list(self.values)), self._losses([reference])[0])

    def _losses(self, values: list[tuple[float, ...]]) -> Floats:
        signs = np.array([1.0 if goal == "min" else -1.0 for goal in self.goals])
        losses: Floats = np.array(values, dtype=np.float64).reshape(-1, len(signs)) * signs
        return losses
