"""Bayesian linear regression of latency on layer features.

Latency is nearly additive over layers, so a linear model with a Gaussian prior needs few measurements. Rows are
weighted by 1/latency, which makes squared error relative; noise and prior scale are chosen by the marginal likelihood.
Source: Bishop, Pattern Recognition and Machine Learning, sections 3.3 and 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nas.core.arch import Floats
from predictors.base import FeaturePredictor
from predictors.validation import FEWEST as FEWEST
from predictors.validation import check_weights

_OFFSET = 30.0  # how much wider the prior of the offset is than that of a standardised feature


@dataclass(frozen=True)
class BayesianLinear(FeaturePredictor):
    """``mean = offset + weights . features`` in ms, never below half of the fastest network that was measured."""

    family: ClassVar[str] = "bayesian_linear"
    scalars: ClassVar[tuple[str, ...]] = ("offset_ms", "factor", "floor_ms")
    folds: ClassVar[int] = 10
    weights_F: Floats
    offset_ms: float
    floor_ms: float

    @classmethod
    def fit_mean(
        cls, features_NF: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None
    ) -> BayesianLinear:
        """The mean alone, with no bound above it. The seed plays no part."""
        weights_F, offset_ms = _posterior(features_NF, latency_ms_N, check_weights(weight_N, len(latency_ms_N)))
        return cls(weights_F, offset_ms, 0.5 * float(latency_ms_N.min()))

    @property
    def columns(self) -> int:
        """Number of features."""
        return len(self.weights_F)

    def mean_ms(self, features_NF: Floats) -> Floats:
        """Mean latency in ms, shape (N,)."""
        return np.maximum(features_NF @ self.weights_F + self.offset_ms, self.floor_ms)


def _posterior(features_NF: Floats, y_N: Floats, weight_N: Floats) -> tuple[Floats, float]:
    """The posterior mean of weights and offset, in the features' own units.

    Features are standardised, so that the prior is a standard Gaussian; an offset column of wide prior takes what they
    leave. Scale of the prior by maximising the marginal likelihood over a grid, the noise being integrated out in
    closed form.
    """
    centre_F, scale_F = features_NF.mean(0), features_NF.std(0)
    root_F = 1.0 / np.where(scale_F > 0, scale_F, 1.0)
    root_N = np.sqrt(weight_N) / y_N  # squared error is relative, and counts by the measurement's weight
    x_NF = (features_NF - centre_F) * root_F
    design = np.concatenate([x_NF, np.full((len(x_NF), 1), _OFFSET)], axis=1) * root_N[:, None]
    target = y_N * root_N
    left_vectors, values, right_vectors = np.linalg.svd(design, full_matrices=False)
    squares, projected = values**2, left_vectors.T @ target
    beyond = max(float(target @ target - projected @ projected), 0.0)  # of the target, what no weights reach
    n, rank = left_vectors.shape
    ridges = np.geomspace(1e-9, 1e3, 49) * max(float(squares.max()), 1e-12)
    spread = squares + ridges[:, None]
    noise = np.maximum(((projected**2 / spread).sum(1) + beyond / ridges) / n, 1e-300)
    evidence = -0.5 * (n * np.log(noise) + np.log(spread).sum(1) + (n - rank) * np.log(ridges))
    ridge = ridges[np.argmax(evidence)]
    solution = right_vectors.T @ (projected * values / (squares + ridge))
    weights_F = root_F * solution[:-1]
    return weights_F, float(_OFFSET * solution[-1] - weights_F @ centre_F)
