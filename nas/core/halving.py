"""Successive halving of networks on their non-dominated rank: what is hardly going to reach the front is given up
(after Schmucker et al., Multi-objective asynchronous successive halving, 2021)."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.pareto import non_dominated


def non_dominated_ranks(losses_NM: Floats) -> NDArray[np.int64]:
    """0 for the front of N networks, 1 for that of the others, and so on, shape (N,)."""
    ranks_N = np.full(len(losses_NM), -1, dtype=np.int64)
    while (ranks_N < 0).any():
        rows = np.flatnonzero(ranks_N < 0)
        ranks_N[rows[non_dominated(losses_NM[rows])]] = ranks_N.max() + 1
    return ranks_N


def survivors(losses_NM: Floats) -> NDArray[np.bool_]:
    """Which of N networks stay: the better half by rank, and all of the ranks that this half reaches into; at least the
    front. Shape (N,)."""
    if len(losses_NM) == 0:
        return np.zeros(0, dtype=bool)
    ranks_N = non_dominated_ranks(losses_NM)
    last = np.sort(ranks_N)[ceil(len(ranks_N) / 2) - 1]
    return np.asarray(ranks_N <= last)
