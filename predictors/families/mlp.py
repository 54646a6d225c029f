"""A small neural network on layer features, as latency-aware gradient search differentiates it.

An ensemble of perceptrons with smooth units learns what a linear model leaves over, so it is never far from linear
where there are few measurements. Source: Xu et al., "Latency-aware differentiable neural architecture search" (2020).
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
from predictors.families.bayesian_linear import BayesianLinear
from predictors.validation import ApplicabilityDomain, check_features, check_measured, held_out_ms, no_extrapolation_N

_MEMBERS, _UNITS, _PENALTY, _STEPS = 3, 24, 1.0, 80


@dataclass(frozen=True)
class MLP:
    """``mean = line + unit_ms * mean over E members of (tanh(z inner + bias) . outer + offset)``, where ``line`` is
    ``weights . features + line_ms`` and z are standardised features; never below ``floor_ms``."""

    family: ClassVar[str] = "mlp"
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
    factor: float = 1.0
    domain: ApplicabilityDomain | None = None

    @classmethod
    def fit(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        folds: int = 5,
        seed: int = 0,
        weight_N: Floats | None = None,
    ) -> MLP:
        """Fits on all networks; calibrates the bound on those held out of ``folds`` refits.

        Raises InvalidInput for fewer than 20 networks, latencies that are not positive, or numbers that are not finite.
        """
        check_measured(features_NF, latency_ms_N)
        held_out_N = held_out_ms(cls.fit_mean, features_NF, latency_ms_N, folds, seed, weight_N)
        return cls.fit_mean(features_NF, latency_ms_N, seed, weight_N).bounded(features_NF, latency_ms_N, held_out_N)

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

    def bounded(self, features_NF: Floats, latency_ms_N: Floats, held_out_N: Floats) -> MLP:
        """The same mean with its bound, from what refits said of networks that they did not know."""
        return replace(self, factor=upper_factor(latency_ms_N, held_out_N), domain=ApplicabilityDomain.of(features_NF))

    def predict(self, features_NF: Floats) -> Latency:
        """Latency in ms of N networks. Raises InvalidInput for features of another space."""
        check_features(features_NF, len(self.weights_F))
        more_EN = np.einsum("enh,eh->en", self._hidden(features_NF), self.outer_EH) + self.offset_E[:, None]
        mean_ms = features_NF @ self.weights_F + self.line_ms + self.unit_ms * more_EN.mean(0)
        mean_ms = np.maximum(mean_ms, self.floor_ms)
        return Latency(mean_ms, mean_ms * self.factor)

    def gradient(self, features_NF: Floats) -> Floats:
        """Of the mean in ms by each feature, shape (N, F); 0 where the mean is at its floor."""
        above_N = self.predict(features_NF).mean_ms > self.floor_ms
        slope_ENH = (1.0 - self._hidden(features_NF) ** 2) * self.outer_EH[:, None]
        bend_NF = np.einsum("enh,efh->nf", slope_ENH, self.inner_EFH) / len(self.outer_EH) * self.inverse_F
        return np.asarray((self.weights_F + self.unit_ms * bend_NF) * above_N[:, None])

    def is_extrapolation(self, features_NF: Floats) -> NDArray[np.bool_]:
        """Which of N networks are unlike all that were measured, shape (N,)."""
        check_features(features_NF, len(self.weights_F))
        return self.domain.is_extrapolation(features_NF) if self.domain is not None else no_extrapolation_N(features_NF)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays."""
        return {
            **{k: getattr(self, k) for k in _ARRAYS},
            "scalars": np.array([self.line_ms, self.unit_ms, self.floor_ms, self.factor]),
            **(self.domain.to_arrays() if self.domain is not None else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> MLP:
        """Inverse of ``to_arrays``."""
        line_ms, unit_ms, floor_ms, factor = (float(v) for v in arrays["scalars"])
        return cls(
            **{k: np.asarray(arrays[k], dtype=np.float64) for k in _ARRAYS},
            line_ms=line_ms,
            unit_ms=unit_ms,
            floor_ms=floor_ms,
            factor=factor,
            domain=ApplicabilityDomain.from_arrays(arrays),
        )

    def _hidden(self, features_NF: Floats) -> Floats:
        z_NF = (features_NF - self.centre_F) * self.inverse_F
        return np.asarray(np.tanh(z_NF @ self.inner_EFH + self.bias_EH[:, None]))


_ARRAYS = ("weights_F", "centre_F", "inverse_F", "inner_EFH", "bias_EH", "outer_EH", "offset_E")
