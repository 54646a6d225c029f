"""Which networks to measure next, on a device without measurements: those that are most informative about all others.

Sources: Krause, Singh, Guestrin, "Near-optimal sensor placements in Gaussian processes" (JMLR 2008), for being greedy;
Chaloner, Verdinelli, "Bayesian experimental design: a review" (Statistical Science 1995), for D-optimality.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import InvalidInput

_NOISE = 0.1  # variance of a measurement, over that which the features explain


def d_optimal(features_NF: Floats, n: int, measured: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Which ``n`` of N candidates to measure, as indices in order: greedily, the one of which a Bayesian linear model
    that knows the rows ``measured`` and those chosen before is least sure, which gains most information.

    Needs time and memory for N x F numbers and ``n`` steps. Raises InvalidInput when fewer than ``n`` remain.
    """
    measured_rows = np.array([], dtype=np.int64) if measured is None else measured
    remaining = len(features_NF) - len(np.unique(measured_rows))
    if not 0 < n <= remaining:
        raise InvalidInput(f"expected to choose between 1 and {remaining} networks, got {n}")
    spread_F = features_NF.std(0)
    x_NF = (features_NF - features_NF.mean(0)) / np.where(spread_F > 0, spread_F, np.inf)
    x_NP = np.hstack([x_NF / np.sqrt(max(1, int((spread_F > 0).sum()))), np.ones((len(x_NF), 1))])
    variance_N = (x_NP**2).sum(1)
    steps_KN = np.empty((len(measured_rows) + n, len(x_NP)))  # rows of the Cholesky factor of what is known already
    selected: list[int] = []
    for k in range(len(steps_KN)):
        if k < len(measured_rows):
            best = int(measured_rows[k])
        else:
            open_N = variance_N.copy()
            open_N[[*measured_rows, *selected]] = -np.inf
            best = int(open_N.argmax())
            selected.append(best)
        along_N = x_NP @ x_NP[best] - steps_KN[:k, best] @ steps_KN[:k]
        steps_KN[k] = along_N / np.sqrt(variance_N[best] + _NOISE)
        variance_N = np.maximum(variance_N - steps_KN[k] ** 2, 0.0)
    return np.array(selected, dtype=np.int64)
