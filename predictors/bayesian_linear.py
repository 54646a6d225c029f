"""Bayesian linear regression of latency on layer features.

Latency is nearly additive over layers, so a linear model with a Gaussian prior needs few measurements. Rows are
weighted by 1/latency, which makes squared error relative; noise and prior scale are chosen by the marginal likelihood.
Source: Bishop, Pattern Recognition and Machine Learning, sections 3.3 and 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.device import Latency
from nas.core.errors import InvalidInput
from predictors.calibration import upper_factor


@dataclass(frozen=True)
class BayesianLinear:
    """``mean = offset + weights . features`` in ms; ``upper = mean * factor``, calibrated out of sample."""

    family: ClassVar[str] = "bayesian_linear"
    weights_F: Floats
    offset_ms: float
    factor: float
    floor_ms: float

    @classmethod
    def fit(cls, features_NF: Floats, latency_ms_N: Floats, folds: int = 10, seed: int = 0) -> BayesianLinear:
        """Fits on all networks; calibrates the bound on predictions for networks held out of ``folds`` refits.

        Raises InvalidInput for fewer than 20 networks or latencies that are not positive.
        """
        n = len(latency_ms_N)
        if n < 20 or features_NF.shape[0] != n or not (latency_ms_N > 0).all():
            raise InvalidInput(
                f"expected at least 20 networks with positive latencies, got {n} for {features_NF.shape[0]} rows"
            )
        order = np.random.default_rng(seed).permutation(n)
        held_out = np.empty(n)
        for fold in np.array_split(order, min(folds, n)):
            rest = np.setdiff1d(order, fold)
            weights, offset = _posterior_mean(features_NF[rest], latency_ms_N[rest])
            floor = 0.5 * float(latency_ms_N[rest].min())
            held_out[fold] = np.maximum(features_NF[fold] @ weights + offset, floor)
        weights, offset = _posterior_mean(features_NF, latency_ms_N)
        return cls(weights, offset, upper_factor(latency_ms_N, held_out), 0.5 * float(latency_ms_N.min()))

    def predict(self, features_NF: Floats) -> Latency:
        """Latency in ms of N networks; never below half of the fastest network that was measured."""
        mean = np.maximum(features_NF @ self.weights_F + self.offset_ms, self.floor_ms)
        return Latency(mean, mean * self.factor)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays."""
        return {
            "weights_F": self.weights_F,
            "scalars": np.array([self.offset_ms, self.factor, self.floor_ms]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> BayesianLinear:
        """Inverse of ``to_arrays``."""
        offset, factor, floor = (float(v) for v in arrays["scalars"])
        return cls(np.asarray(arrays["weights_F"], dtype=np.float64), offset, factor, floor)


def _posterior_mean(features_NF: Floats, y_N: Floats) -> tuple[Floats, float]:
    """Weights and offset in the features' own units.

    Features are standardised; an offset column of wide prior takes what they leave. Prior scale by maximising the
    marginal likelihood over a grid, the noise being integrated out in closed form.
    """
    mean, scale = features_NF.mean(0), features_NF.std(0)
    scale[scale == 0] = 1.0
    x = (features_NF - mean) / scale
    row_weight = 1.0 / y_N
    design = np.concatenate([x, np.full((len(x), 1), 30.0)], axis=1) * row_weight[:, None]
    target = np.ones(len(y_N))  # y times its weight
    gram, moment = design @ design.T, design.T
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ target
    n = len(target)
    best, ridge = -np.inf, 1.0
    for candidate in np.geomspace(1e-9, 1e3, 49) * max(float(values.max()), 1e-12):
        spread = np.maximum(values, 0.0) + candidate
        noise = float((projected**2 / spread).sum()) / n
        evidence = -0.5 * (n * np.log(noise) + np.log(spread).sum())
        if evidence > best:
            best, ridge = evidence, float(candidate)
    dual = vectors @ (projected / (np.maximum(values, 0.0) + ridge))
    solution = moment @ dual
    weights = solution[:-1] / scale
    return weights, float(30.0 * solution[-1] - weights @ mean)
