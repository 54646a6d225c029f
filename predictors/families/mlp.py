"""A small neural network on layer features.

An ensemble of perceptrons with smooth units learns what a linear model leaves over, so it is never far from linear
where there are few measurements. Source: Xu et al., "Latency-aware differentiable neural architecture search" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nas.core.arch import Floats
from predictors.base import FeaturePredictor
from predictors.families.bayesian_linear import BayesianLinear

_MEMBERS, _UNITS, _PENALTY, _STEPS = 3, 24, 1.0, 80


@dataclass(frozen=True)
class MLP(FeaturePredictor):
    """``mean = line + unit_ms * mean over E members of (tanh(z inner + bias) . outer + offset)``, where ``line`` is
    ``weights . features + line_ms`` and z are standardised features; never below ``floor_ms``."""

    family: ClassVar[str] = "mlp"
    scalars: ClassVar[tuple[str, ...]] = ("line_ms", "unit_ms", "floor_ms", "factor")
    weights_F: Floats
    centre_F: Floats
    inverse_F: Floats
    inner_EFH: Floats
    bias_EH: Floats
    outer_EH: Floats
    offset_E: Floats
    line_ms: float
    unit_ms: float
    floor_ms: float

    @classmethod
    def fit_mean(cls, features_NF: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None) -> MLP:
        """The mean alone, with no bound above it."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor  # takes a second to import

        line = BayesianLinear.fit_mean(features_NF, latency_ms_N, seed, weight_N)
        left_N = latency_ms_N - (features_NF @ line.weights_F + line.offset_ms)
        unit_ms = max(float(left_N.std()), 1e-9 * float(latency_ms_N.mean()))
        centre_F, spread_F = features_NF.mean(0), features_NF.std(0)
        inverse_F = np.where(spread_F > 0, 1.0 / np.where(spread_F > 0, spread_F, 1.0), 0.0)
        z_NF = (features_NF - centre_F) * inverse_F / np.sqrt(features_NF.shape[1])
        inverse_F = inverse_F / np.sqrt(features_NF.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is a part of the method
            members = [
                MLPRegressor(
                    hidden_layer_sizes=(_UNITS,),
                    activation="tanh",
                    solver="lbfgs",
                    alpha=_PENALTY,
                    max_iter=_STEPS,
                    random_state=seed + e,
                ).fit(z_NF, left_N / unit_ms, sample_weight=weight_N)
                for e in range(_MEMBERS)
            ]
        return cls(
            line.weights_F,
            centre_F,
            inverse_F,
            np.array([m.coefs_[0] for m in members]),
            np.array([m.intercepts_[0] for m in members]),
            np.array([m.coefs_[1][:, 0] for m in members]),
            np.array([m.intercepts_[1][0] for m in members]),
            line.offset_ms,
            unit_ms,
            0.5 * float(latency_ms_N.min()),
        )

    @property
    def columns(self) -> int:
        """Number of features."""
        return len(self.weights_F)

    def mean_ms(self, features_NF: Floats) -> Floats:
        """Mean latency in ms, shape (N,)."""
        z_NF = (features_NF - self.centre_F) * self.inverse_F
        hidden_ENH = np.tanh(z_NF @ self.inner_EFH + self.bias_EH[:, None])
        more_EN = np.einsum("enh,eh->en", hidden_ENH, self.outer_EH) + self.offset_E[:, None]
        mean_ms = features_NF @ self.weights_F + self.line_ms + self.unit_ms * more_EN.mean(0)
        return np.asarray(np.maximum(mean_ms, self.floor_ms))
