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
_MANY = 1024  # points of a sample whose front weeds out most of many more points
_PIVOTS = 48  # members of that front at most
_WORTH = 1 / 128  # share of the sample that each of them must dominate beyond the others


def non_dominated(losses_NM: Floats) -> Mask:
    """True for points that no other point dominates; equal points do not dominate each other. Shape (N,).

    Of many points, most go at once: those that a member of the front of a sample dominates.
    Raises InvalidInput for losses that are not a number.
    """
    if np.isnan(losses_NM).any():
        raise InvalidInput("losses: expected numbers, got NaN")
    keep: Mask = np.zeros(len(losses_NM), dtype=bool)
    if len(losses_NM) <= 4 * _MANY:
        left = np.arange(len(losses_NM))
    else:
        sample = losses_NM[:: len(losses_NM) // _MANY]
        left = _weeded(losses_NM, _pivots(sample[_survivors(sample)], sample))
    keep[left] = _survivors(losses_NM[left])
    return keep


def _pivots(candidates_KM: Floats, sample_SM: Floats) -> Floats:
    """Those candidates that between them dominate most of a sample: in each turn the one that dominates most of what is
    left of it, as long as that is worth a pass over all points."""
    covers = np.array([_dominated(sample_SM, candidate[None]) for candidate in candidates_KM])
    chosen: list[int] = []
    while len(chosen) < _PIVOTS:
        counts = covers.sum(axis=1)
        best = int(counts.argmax())
        if counts[best] < _WORTH * len(sample_SM):
            break
        chosen.append(best)
        covers[:, covers[best]] = False
    return candidates_KM[chosen]


def _weeded(losses_NM: Floats, pivots_PM: Floats) -> NDArray[np.intp]:
    """The rows that no pivot dominates."""
    left, columns_MN = np.arange(len(losses_NM)), np.ascontiguousarray(losses_NM.T)
    for pivot in pivots_PM:
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


def weakly_dominated(losses_NM: Floats, kept_KM: Floats) -> Mask:
    """Which points an earlier point weakly dominates (equals or betters in every objective), shape (N,). ``kept_KM``
    come before all of them.

    The remaining points may include some that later ones dominate. But the front of any subset of these objectives,
    under any bounds on them, is the same without the weakly dominated points (the first of equal points stays), and
    points can be added without looking at the old ones again.
    """
    out: Mask = np.ones(len(losses_NM), dtype=bool)
    start, size = 0, _MANY
    while start < len(losses_NM):
        rows = losses_NM[start : start + size]
        left = np.arange(len(rows))
        if len(rows) > _MANY and len(kept_KM):
            left = _weeded(rows, _pivots(kept_KM[non_dominated(kept_KM)], rows[:: len(rows) // _MANY]))
        for chunk in range(0, len(left), _CHUNK):
            some = left[chunk : chunk + _CHUNK]
            lost = _weakly_dominated(rows[some], kept_KM)
            kept_KM = np.concatenate([kept_KM, rows[some[~lost]]])
            out[start + some] = lost
        start, size = start + size, 2 * size
    return out


def _weakly_dominated(rows_BM: Floats, kept_KM: Floats) -> Mask:
    others_M = np.concatenate([kept_KM, rows_BM]).T
    reached = np.ones((len(rows_BM), others_M.shape[1]), dtype=bool)
    for row, other in zip(rows_BM.T[:, :, None], others_M[:, None], strict=True):
        reached &= other <= row
    earlier = np.tri(*reached.shape, k=len(kept_KM) - 1, dtype=bool)
    return np.asarray((reached & earlier).any(axis=1))


def hypervolume(losses_NM: Floats, reference_M: Floats) -> float:
    """Exact volume dominated by the points and bounded by the reference, for 2 to 4 objectives.

    Two objectives by a sweep, three by a sweep that keeps the staircase of the first two, four by slicing along the one
    with the fewest values. Points that are not better than the reference in every objective contribute nothing. Raises
    InvalidInput for other numbers of objectives.
    """
    m = losses_NM.shape[1]
    if not 2 <= m <= 4 or reference_M.shape != (m,):
        raise InvalidInput(
            f"hypervolume: expected 2 to 4 objectives and a reference for each, got {m} and {reference_M.shape}"
        )
    inside = losses_NM[(losses_NM < reference_M).all(axis=1)]
    front = inside[non_dominated(inside)]
    if len(front) == 0:
        return 0.0
    if m == 4:
        distinct = [len(np.unique(column)) for column in front.T]
        axes = np.argsort(distinct, kind="stable")[::-1]
        front, reference_M = front[:, axes], reference_M[axes]
    front = front[np.argsort(front[:, -1], kind="stable")]
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
