"""Whether few measurements predict anything, and how many would: by how the error falls with their number.

Source: Cortes, Jackel, Solla, Vapnik, Denker, "Learning curves: asymptotic values and rate of convergence" (NIPS 1993).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats

FEWEST_EXPLAINED = 0.25  # share of the variance between networks, below which nothing is said to be predicted
_WANTED_EXPLAINED = 0.75
_HALVES = 6
_SLOWEST, _FASTEST = 0.1, 1.0  # powers of the number of networks by which an error may fall
_LARGEST = 400  # networks, beyond which no curve of so few leads


def outlook(
    residual_ms_N: Floats, latency_ms_N: Floats, error_ms: Callable[[NDArray[np.int64], NDArray[np.int64]], float]
) -> str:
    """Advice if leave-one-out ``residual_ms_N`` explain too little of how N networks differ; empty if they do not.

    ``error_ms(fitted, unseen)`` is the root mean square error on networks of a fit to unseen, by their rows."""
    n = len(latency_ms_N)
    alone_N = (latency_ms_N - latency_ms_N.mean()) * n / (n - 1)
    spread_ms, missed_ms = _size(alone_N), _size(residual_ms_N)
    explained = 1.0 - (missed_ms / spread_ms) ** 2 if spread_ms > 0 else 0.0
    if explained >= FEWEST_EXPLAINED:
        return ""
    rng = np.random.default_rng(0)
    halves = [np.split(rng.permutation(n), [n // 2]) for _ in range(_HALVES)]
    before_ms = float(np.mean([error_ms(fitted, unseen) for fitted, unseen in halves]))
    fall = float(np.clip(np.log(before_ms / max(missed_ms, 1e-12)) / np.log(2.0), _SLOWEST, _FASTEST))
    wanted_ms = np.sqrt(1.0 - _WANTED_EXPLAINED) * spread_ms
    needed = 4 * int(np.ceil(min(n * (missed_ms / max(wanted_ms, 1e-12)) ** (1.0 / fall), _LARGEST) / 4))
    least = "at least " if needed >= _LARGEST else "about "
    return (
        f"{n} networks tell {max(explained, 0.0):.0%} of how latencies differ, left out one by one: nothing predicts "
        f"this device yet. By the learning curve {least}{max(needed, n + 4)} networks are needed"
    )


def _size(values_N: Floats) -> float:
    return float(np.sqrt((values_N**2).mean()))
