"""What every family of predictors shares: checked input, a bound calibrated out of sample, and which networks are
unlike all that were measured.

A family is a frozen value with ``factor`` and ``domain``; its ``fit_mean(features, latency, seed)`` fits the mean
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.device import Latency
from nas.core.errors import InvalidInput

FEWEST = 20  # networks to fit and calibrate on
_RIDGE = 0.1  # of the variance of a standardised feature, in the measure of distance
_MARGIN = 2.0  # beyond the farthest network that was measured, seen from the others


class Regressor(Protocol):
    """Whatever predicts the latency of networks by their features."""

    def predict(self, features_NF: Floats) -> Latency: ...


FitMean = Callable[[Floats, Floats, int, Floats | None], Regressor]


@dataclass(frozen=True)
class ApplicabilityDomain:
    """Where networks were measured: their principal axes in standardised features, which distances are weighed by."""

    centre_F: Floats
    scale_F: Floats
    axes_RF: Floats
    inverse_R: Floats
    rest: float
    limit: float

    @classmethod
    def of(cls, features_NF: Floats) -> ApplicabilityDomain:
        """The domain of N networks. The limit is from the farthest of them, seen from the others."""
        centre_F, scale_F = features_NF.mean(0), features_NF.std(0)
        scale_F = np.where(scale_F > 1e-12 * np.abs(centre_F), scale_F, 0.0)
        z_NF = _standardised(features_NF, centre_F, scale_F)
        if len(z_NF) > z_NF.shape[1]:
            squares_R, axes_FR = np.linalg.eigh(z_NF.T @ z_NF)  # many times faster than the other way
            squares_R, axes_RF = np.maximum(squares_R, 0.0), axes_FR.T
        else:
            _, values_R, axes_RF = np.linalg.svd(z_NF, full_matrices=False)
            squares_R = values_R**2
        ridge = _RIDGE * len(z_NF)
        domain = cls(centre_F, scale_F, axes_RF, 1.0 / (squares_R + ridge), 1.0 / ridge, 0.0)
        far_N = domain.distance(features_NF)
        limit = _MARGIN * float((far_N / np.maximum(1.0 - far_N, 1e-9)).max())
        return cls(centre_F, scale_F, axes_RF, domain.inverse_R, domain.rest, limit)

    def distance(self, features_NF: Floats) -> Floats:
        """Squared distance of N networks from the centre, in units of how far the measured ones spread."""
        z_NF = _standardised(features_NF, self.centre_F, self.scale_F)
        along_NR = z_NF @ self.axes_RF.T
        beyond_N = np.maximum((z_NF**2).sum(1) - (along_NR**2).sum(1), 0.0)
        return np.asarray((along_NR**2) @ self.inverse_R + beyond_N * self.rest)

    def is_extrapolation(self, features_NF: Floats) -> NDArray[np.bool_]:
        """Which of N networks are farther off than any measured one, or have a feature that no measured one had."""
        new_NF = (self.scale_F == 0.0) & (np.abs(features_NF - self.centre_F) > 1e-9 * (1.0 + np.abs(self.centre_F)))
        return np.asarray(new_NF.any(1) | (self.distance(features_NF) > self.limit))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays, whose names begin with ``domain_``."""
        return {
            "domain_centre_F": self.centre_F,
            "domain_scale_F": self.scale_F,
            "domain_axes_RF": self.axes_RF,
            "domain_inverse_R": self.inverse_R,
            "domain_scalars": np.array([self.rest, self.limit]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ApplicabilityDomain | None:
        """Inverse of ``to_arrays``; None for a predictor that was stored before there were domains."""
        if "domain_scalars" not in arrays:
            return None
        rest, limit = (float(v) for v in arrays["domain_scalars"])
        centre_F, scale_F, axes_RF, inverse_R = (
            np.asarray(arrays[f"domain_{k}"], dtype=np.float64) for k in ("centre_F", "scale_F", "axes_RF", "inverse_R")
        )
        return cls(centre_F, scale_F, axes_RF, inverse_R, rest, limit)


def check_measured(features_NF: Floats, latency_ms_N: Floats, fewest: int = FEWEST) -> None:
    """Raises InvalidInput for fewer than ``fewest`` networks, rows and latencies that do not match, latencies that are
    not positive, and numbers that are not finite."""
    n = len(latency_ms_N)
    if features_NF.ndim != 2 or features_NF.shape[0] != n:
        raise InvalidInput(f"expected a row of features for each of {n} latencies, got the shape {features_NF.shape}")
    if not (np.isfinite(features_NF).all() and np.isfinite(latency_ms_N).all()):
        raise InvalidInput("expected finite features and latencies, got infinite ones or NaN")
    if n < fewest or not (latency_ms_N > 0).all():
        raise InvalidInput(
            f"expected at least {fewest} networks with positive latencies, got {n}, "
            f"{int((latency_ms_N <= 0).sum())} of them not positive"
        )


def check_features(features_NF: Floats, features: int) -> None:
    """Raises InvalidInput for features of another space, or that are not finite."""
    if features_NF.ndim != 2 or features_NF.shape[1] != features:
        raise InvalidInput(
            f"expected features of shape (N, {features}), got {features_NF.shape}: is it another search space?"
        )
    if not np.isfinite(features_NF).all():
        raise InvalidInput("expected finite features, got infinite ones or NaN")


def check_weights(weight_N: Floats | None, n: int) -> Floats:
    """Weights of N measurements, all 1 if None. Raises InvalidInput for another number, or weights that are not
    positive and finite."""
    if weight_N is None:
        return np.ones(n)
    if weight_N.shape != (n,) or not (np.isfinite(weight_N).all() and (weight_N > 0).all()):
        raise InvalidInput(f"expected {n} positive weights, one for each measurement, got the shape {weight_N.shape}")
    return weight_N


def measurement_weights(held_out_ms_N: Floats, latency_ms_N: Floats, error_N: Floats) -> Floats:
    """Weights of N measurements whose relative standard errors are ``error_N``: the inverse of their variance, to which
    the model's own error adds, which the errors of held-out predictions ``held_out_ms_N`` tell. The mean is 1."""
    total = float(np.median(((held_out_ms_N / latency_ms_N) - 1.0) ** 2)) / 0.455  # the median of chi squared
    model = max(total - float(np.median(error_N**2)), 0.1 * total, 1e-8)
    weight_N = 1.0 / (model + error_N**2)
    return np.asarray(weight_N / weight_N.mean())


def held_out_ms(
    fit_mean: FitMean,
    features_NF: Floats,
    latency_ms_N: Floats,
    folds: int,
    seed: int,
    weight_N: Floats | None = None,
) -> Floats:
    """Mean latency of each of N networks, predicted by a fit to those of the other folds."""
    n = len(latency_ms_N)
    order = np.random.default_rng(seed).permutation(n)
    out_N = np.empty(n)
    for fold in np.array_split(order, min(folds, n)):
        rest = np.setdiff1d(order, fold)
        weights = None if weight_N is None else weight_N[rest]
        out_N[fold] = fit_mean(features_NF[rest], latency_ms_N[rest], seed, weights).predict(features_NF[fold]).mean_ms
    return out_N


def no_extrapolation_N(features_NF: Floats) -> NDArray[np.bool_]:
    """Nothing is known to be is_extrapolation: the answer of predictors that were stored before there were domains."""
    return np.zeros(len(features_NF), dtype=bool)


def _standardised(features_NF: Floats, centre_F: Floats, scale_F: Floats) -> Floats:
    return np.asarray((features_NF - centre_F) * np.where(scale_F > 0, 1.0 / np.where(scale_F > 0, scale_F, 1.0), 0.0))
