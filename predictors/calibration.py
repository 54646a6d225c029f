"""Upper bounds that hold: conformal prediction on relative errors.

Source: Barber, Candès, Ramdas, Tibshirani, "Predictive inference with the jackknife+" (Annals of Statistics 2021), the
K-fold variant's residuals; every measured network serves both fitting and calibration.
"""

from __future__ import annotations

import math

import numpy as np

from nas.core.arch import Floats
from nas.core.errors import InvalidInput


def upper_factor(measured_N: Floats, predicted_N: Floats, level: float = 0.95) -> float:
    """The factor by which out-of-sample predictions must be multiplied so that a new network stays below with
    probability ``level``: the ceil((n + 1) * level)-th smallest ratio measured / predicted, at least 1.

    With fewer than ``level / (1 - level)`` networks no finite factor is guaranteed. Raises InvalidInput then.
    """
    n = len(measured_N)
    rank = math.ceil((n + 1) * level)
    if rank > n:
        needed = math.ceil(level / (1 - level))
        raise InvalidInput(f"a bound at level {level} needs at least {needed} calibration networks, got {n}")
    ratios = np.sort(measured_N / predicted_N)
    return max(1.0, float(ratios[rank - 1]))
