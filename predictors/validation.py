"""Checked inputs of latency predictors, weights of measurements, and predictions out of sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from nas.core.arch import Floats
from nas.core.device import Latency
from nas.core.errors import InvalidInput

FEWEST = 20  # networks to fit and calibrate on


class Regressor(Protocol):
    """Whatever predicts the latency of networks by their features."""

    def predict(self, features_NF: Floats) -> Latency: ...


FitMean = Callable[[Floats, Floats, int, Floats | None], Regressor]


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
        fitted = np.setdiff1d(order, fold)
        weights = None if weight_N is None else weight_N[fitted]
        out_N[fold] = (
            fit_mean(features_NF[fitted], latency_ms_N[fitted], seed, weights).predict(features_NF[fold]).mean_ms
        )
    return out_N
