"""Bayesian linear regression of latency on layer features.

Latency is nearly additive over layers, so a linear model with a Gaussian prior needs few measurements. Rows are
weighted by 1/latency, which makes squared error relative; noise and prior scale are chosen by the marginal likelihood.
A prior over the weights may come from devices that are known already. Source: Bishop, Pattern Recognition and Machine
Learning, sections 3.3 and 3.5.
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

FEWEST = 20  # networks to fit and calibrate on
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

    @classmethod
    def fit(
        cls, features_NF: Floats, latency_ms_N: Floats, prior: Prior | None = None, folds: int = 10, seed: int = 0
    ) -> BayesianLinear:
        """Fits on all networks; calibrates the bound on predictions for networks held out of ``folds`` refits.

        Raises InvalidInput for fewer than 20 networks, latencies that are not positive, or numbers that are not finite.
        """
        n = len(latency_ms_N)
        if n < FEWEST or features_NF.shape[0] != n or not (latency_ms_N > 0).all():
            raise InvalidInput(
                f"expected at least {FEWEST} networks with positive latencies, got {n} for {features_NF.shape[0]} rows"
            )
        if not (np.isfinite(features_NF).all() and np.isfinite(latency_ms_N).all()):
            raise InvalidInput("expected finite features and latencies, got infinite ones or NaN")
        order = np.random.default_rng(seed).permutation(n)
        held_out = np.empty(n)
        for fold in np.array_split(order, min(folds, n)):
            rest = np.setdiff1d(order, fold)
            held_out[fold] = _posterior(features_NF[rest], latency_ms_N[rest], prior).mean_ms(features_NF[fold])
        line = _posterior(features_NF, latency_ms_N, prior)
        return cls(line.weights_F, line.offset_ms, upper_factor(latency_ms_N, held_out), line.floor_ms)

    def predict(self, features_NF: Floats) -> Latency:
        """Latency in ms of N networks; never below half of the fastest network that was measured."""
        mean_ms = _Line(self.weights_F, self.offset_ms, self.floor_ms).mean_ms(features_NF)
        return Latency(mean_ms, mean_ms * self.factor)

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


@dataclass(frozen=True)
class _Line:
    weights_F: Floats
    offset_ms: float
    floor_ms: float

    def mean_ms(self, features_NF: Floats) -> Floats:
        return np.maximum(features_NF @ self.weights_F + self.offset_ms, self.floor_ms)


def _posterior(features_NF: Floats, y_N: Floats, prior: Prior | None) -> _Line:
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
    design = np.concatenate([x_NF @ root_FF, np.full((len(x_NF), 1), _OFFSET)], axis=1) / y_N[:, None]
    target = 1.0 - x_NF @ prior_F / y_N  # what the prior leaves of y, times its weight 1 / y
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
    return _Line(weights_F, float(_OFFSET * solution[-1] - weights_F @ centre), 0.5 * float(y_N.min()))
