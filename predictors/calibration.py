"""Upper bounds that hold: conformal prediction on relative errors.

Sources: Barber, Candès, Ramdas, Tibshirani, "Predictive inference with the jackknife+" (Annals of Statistics 2021), the
K-fold variant's residuals, so that every measured network serves both fitting and calibration; Vovk, "Conditional
validity of inductive conformal predictors" (ACML 2012), proposition 2a, for the confidence in the bound at hand.
"""

from __future__ import annotations

import math

import numpy as np

from nas.core.arch import Floats
from nas.core.errors import InvalidInput


def upper_factor(measured_N: Floats, predicted_N: Floats, level: float = 0.95, confidence: float = 0.9) -> float:
    """The factor by which out-of-sample predictions must be multiplied so that a new network stays below with
    probability ``level``: a high order statistic of the ratios measured / predicted, at least 1.

    A bound from few networks that holds on average over devices may fail on the one at hand, so the rank is the least
    one whose coverage, Beta(rank, n + 1 - rank) over the draw of the networks, reaches ``level`` with ``confidence``.
    The largest ratio is taken where even its coverage does not, which is below 45 networks at the default levels.
    Raises InvalidInput with fewer than ``level / (1 - level)`` networks (19): no finite factor is guaranteed then.
    """
    n = len(measured_N)
    needed = math.ceil(round(level / (1 - level), 9))
    if n < needed:
        raise InvalidInput(f"a bound at level {level} needs at least {needed} calibration networks, got {n}")
    ratios = np.sort(measured_N / predicted_N)
    return max(1.0, float(ratios[conformal_rank(n, level, confidence) - 1]))


def conformal_rank(n: int, level: float, confidence: float) -> int:
    """The least k for which the k-th smallest of n ratios covers ``level`` with ``confidence``, at most n.

    P(Beta(k, n + 1 - k) >= level) is P(Binomial(n, level) <= k - 1).
    """
    log_odds = math.log(level) - math.log1p(-level)
    log_term, below = n * math.log1p(-level), 0.0
    for k in range(1, n + 1):
        below += math.exp(log_term)
        if below >= confidence:
            return k
        log_term += math.log(n - k + 1) - math.log(k) + log_odds
    return n
