"""Second implementations of non-dominated filtering and hypervolume, to check ``nas.core.pareto`` against."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from nas.core.arch import Floats
from nas.core.pareto import Mask

_CHUNK = 64  # rows compared at once: bounds memory


def non_dominated(losses_NM: Floats) -> Mask:
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

    Two objectives by a sweep, three by a sweep that keeps the staircase of the first two, four by slicing along the one
    with the fewest values. Points that are not better than the reference in every objective contribute nothing.
    """
    m = losses_NM.shape[1]
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
        x_from, ceiling = x, ys[first - 1]
        if ceiling <= y:
            continue  # nothing of it sticks out
        while ys[last] >= y:  # steps that the point covers
            area += (xs[last] - x_from) * (ceiling - y)
            x_from, ceiling = xs[last], ys[last]
            last += 1
        area += (xs[last] - x_from) * (ceiling - y)
        xs[first:last], ys[first:last] = [x], [y]
    return volume + area * (reference[2] - level)
