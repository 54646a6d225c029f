"""Pareto fronts of any number of objectives, and exact hypervolume of two to four.

Loss matrices ``losses_NM`` hold N points of M objectives, all to be minimised.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import InvalidInput

Mask = NDArray[np.bool_]
_CHUNK = 64  # rows compared at once: bounds memory
_MANY = 1024  # points of a sample whose front weeds out most of many more points
_PIVOTS = 48  # members of that front at most
_WORTH = 1 / 128  # share of the sample that each of them must dominate beyond the others


def non_dominated(losses_NM: Floats) -> Mask:
    """True for points that no other point dominates; equal points do not dominate each other. Shape (N,).

    Of many points, most are dominated by a few members of the front of a sample; that is checked first, because it
    takes one pass. Raises InvalidInput for losses that are not a number.
    """
    if np.isnan(losses_NM).any():
        raise InvalidInput("losses: expected numbers, got NaN")
    if len(losses_NM) <= 4 * _MANY:
        return _is_non_dominated(losses_NM)
    mask: Mask = np.zeros(len(losses_NM), dtype=bool)
    sample = losses_NM[:: len(losses_NM) // _MANY]
    rows = _weeded(losses_NM, _pivots(sample[_is_non_dominated(sample)], sample))
    mask[rows] = _is_non_dominated(losses_NM[rows])
    return mask


def _is_non_dominated(losses_NM: Floats) -> Mask:
    return np.asarray(moocore.is_nondominated(losses_NM, keep_weakly=True), dtype=bool)


def _pivots(candidates_KM: Floats, sample_SM: Floats) -> Floats:
    """Those candidates that between them dominate most of a sample: in each turn the one that dominates most of what is
    left of it, as long as that is worth a pass over all points."""
    covers = np.array([_dominated(sample_SM, candidate[None]) for candidate in candidates_KM])
    pivots: list[int] = []
    while len(pivots) < _PIVOTS:
        counts = covers.sum(axis=1)
        best = int(counts.argmax())
        if counts[best] < _WORTH * len(sample_SM):
            break
        pivots.append(best)
        covers[:, covers[best]] = False
    return candidates_KM[pivots]


def _weeded(losses_NM: Floats, pivots_PM: Floats) -> NDArray[np.intp]:
    """The rows that no pivot dominates."""
    remaining, columns_MN = np.arange(len(losses_NM)), np.ascontiguousarray(losses_NM.T)
    for pivot in pivots_PM:
        better = np.zeros(len(remaining), dtype=bool)
        equal = np.ones(len(remaining), dtype=bool)
        for column, value in zip(columns_MN, pivot, strict=True):
            better |= column < value
            equal &= column == value
        stays = better | equal
        remaining, columns_MN = remaining[stays], columns_MN[:, stays]
    return remaining


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
        undecided = np.arange(len(rows))
        if len(rows) > _MANY and len(kept_KM):
            undecided = _weeded(rows, _pivots(kept_KM[non_dominated(kept_KM)], rows[:: len(rows) // _MANY]))
        for chunk in range(0, len(undecided), _CHUNK):
            chunk_rows = undecided[chunk : chunk + _CHUNK]
            lost = _weakly_dominated(rows[chunk_rows], kept_KM)
            kept_KM = np.concatenate([kept_KM, rows[chunk_rows[~lost]]])
            out[start + chunk_rows] = lost
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

    Points that are not better than the reference in every objective contribute nothing. Raises InvalidInput for other
    numbers of objectives.
    """
    m = losses_NM.shape[1]
    if not 2 <= m <= 4 or reference_M.shape != (m,):
        raise InvalidInput(
            f"hypervolume: expected 2 to 4 objectives and a reference for each, got {m} and {reference_M.shape}"
        )
    inside = losses_NM[(losses_NM < reference_M).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference_M)) if len(inside) else 0.0
