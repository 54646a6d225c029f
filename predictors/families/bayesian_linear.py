"""Bayesian linear regression of latency on layer features.

Latency is nearly additive over layers, so a linear model with a Gaussian prior needs few measurements. Rows are
weighted by 1/latency, which makes squared error relative; noise and prior scale are chosen by the marginal likelihood.
A prior over the weights may come from devices that are known already. Source: Bishop, Pattern Recognition and Machine
Learning, sections 3.3 and 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.device import Latency
from predictors.calibration import upper_factor
from predictors.validation import FEWEST as FEWEST
from predictors.validation import (
    ApplicabilityDomain,
    check_features,
    check_measured,
    check_weights,
    held_out_ms,
    no_extrapolation_N,
)

_OFFSET = 30.0  # how much wider the prior of the offset is than that of a standardised feature


@dataclass(frozen=True)
class Prior:
    """What is known of the weights beforehand: their mean in ms per unit of a feature, and their covariance up to a
    factor, which is learned."""

    mean_F: Floats
    covariance_FF: Floats


@dataclass(frozen=True)
class BayesianLinear:
    """``mean = offset + weights . features`` in ms; ``upper = mean * factor``, calibrated out of sample."""

    family: ClassVar[str] = "bayesian_linear"
    weights_F: Floats
    offset_ms: float
    factor: float
    floor_ms: float
    domain: ApplicabilityDomain | None = None

    @classmethod
    def fit(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        prior: Prior | None = None,
        folds: int = 10,
        seed: int = 0,
        weight_N: Floats | None = None,
    ) -> BayesianLinear:
        """Fits on all networks; calibrates the bound on predictions for networks held out of ``folds`` refits.

        Raises InvalidInput for fewer than 20 networks, latencies that are not positive, or numbers that are not finite.
        """
        check_measured(features_NF, latency_ms_N)

        def fit_mean(x_NF: Floats, y_N: Floats, seed: int, weights: Floats | None) -> BayesianLinear:
            return cls.fit_mean(x_NF, y_N, seed, weights, prior)

        held_out_N = held_out_ms(fit_mean, features_NF, latency_ms_N, folds, seed, weight_N)
        return fit_mean(features_NF, latency_ms_N, seed, weight_N).bounded(features_NF, latency_ms_N, held_out_N)

    @classmethod
    def fit_mean(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        seed: int,
        weight_N: Floats | None = None,
        prior: Prior | None = None,
    ) -> BayesianLinear:
        """The mean alone, with no bound above it. The seed plays no part."""
        weights_F, offset_ms = _posterior(features_NF, latency_ms_N, check_weights(weight_N, len(latency_ms_N)), prior)
        return cls(weights_F, offset_ms, 1.0, 0.5 * float(latency_ms_N.min()))

    def bounded(self, features_NF: Floats, latency_ms_N: Floats, held_out_N: Floats) -> BayesianLinear:
        """The same mean with its bound, from what refits said of networks that they did not know."""
        return replace(self, factor=upper_factor(latency_ms_N, held_out_N), domain=ApplicabilityDomain.of(features_NF))

    def predict(self, features_NF: Floats) -> Latency:
        """Latency in ms of N networks; never below half of the fastest network that was measured.

        Raises InvalidInput for features of another space.
        """
        check_features(features_NF, len(self.weights_F))
        mean_ms = np.maximum(features_NF @ self.weights_F + self.offset_ms, self.floor_ms)
        return Latency(mean_ms, mean_ms * self.factor)

    def gradient(self, features_NF: Floats) -> Floats:
        """Of the mean in ms by each feature, shape (N, F); 0 where the mean is at its floor."""
        return np.asarray(self.weights_F * (self.predict(features_NF).mean_ms > self.floor_ms)[:, None])

    def is_extrapolation(self, features_NF: Floats) -> NDArray[np.bool_]:
        """Which of N networks are unlike all that were measured, shape (N,)."""
        check_features(features_NF, len(self.weights_F))
        return self.domain.is_extrapolation(features_NF) if self.domain is not None else no_extrapolation_N(features_NF)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays."""
        return {
            "weights_F": self.weights_F,
            "scalars": np.array([self.offset_ms, self.factor, self.floor_ms]),
            **(self.domain.to_arrays() if self.domain is not None else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> BayesianLinear:
        """Inverse of ``to_arrays``."""
        offset, factor, floor = (float(v) for v in arrays["scalars"])
        return cls(
            np.asarray(arrays["weights_F"], dtype=np.float64),
            offset,
            factor,
            floor,
            ApplicabilityDomain.from_arrays(arrays),
        )


def _posterior(features_NF: Floats, y_N: Floats, weight_N: Floats, prior: Prior | None) -> tuple[Floats, float]:
    """The posterior mean of weights and offset, in the features' own units.

    Features are centred, and turned so that the prior is a standard Gaussian; an offset column of wide prior takes what
    they leave. Scale of the prior by maximising the marginal likelihood over a grid, the noise being integrated out in
    closed form.
    """
    centre = features_NF.mean(0)
    if prior is None:
        scale = features_NF.std(0)
        prior_F, root_FF = np.zeros(len(scale)), np.diag(1.0 / np.where(scale > 0, scale, 1.0))
    else:
        values, vectors = np.linalg.eigh(prior.covariance_FF)
        prior_F, root_FF = prior.mean_F, vectors * np.sqrt(np.maximum(values, 0.0))
    x_NF = features_NF - centre
    root_N = np.sqrt(weight_N) / y_N  # squared error is relative, and counts by the measurement's weight
    design = np.concatenate([x_NF @ root_FF, np.full((len(x_NF), 1), _OFFSET)], axis=1) * root_N[:, None]
    target = (y_N - x_NF @ prior_F) * root_N  # what the prior leaves of y
    left, values, right = np.linalg.svd(design, full_matrices=False)
    squares, projected = values**2, left.T @ target
    beyond = max(float(target @ target - projected @ projected), 0.0)  # of the target, what no weights reach
    n, rank = left.shape
    ridges = np.geomspace(1e-9, 1e3, 49) * max(float(squares.max()), 1e-12)
    spread = squares + ridges[:, None]
    noise = np.maximum(((projected**2 / spread).sum(1) + beyond / ridges) / n, 1e-300)
    evidence = -0.5 * (n * np.log(noise) + np.log(spread).sum(1) + (n - rank) * np.log(ridges))
    ridge = ridges[np.argmax(evidence)]
    solution = right.T @ (projected * values / (squares + ridge))
    weights_F = prior_F + root_FF @ solution[:-1]
    return weights_F, float(_OFFSET * solution[-1] - weights_F @ centre)
