"""Fitting a predictor to what was measured, and checking it on networks that took no part in fitting it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.plugins import NetworkFitter
from nas.core.ports import LatencyPredictor, SearchSpace, predict_latency
from predictors.families.bayesian_linear import BayesianLinear
from predictors.families.transfer import Relatives, Transfer, calibrate
from predictors.validation import held_out_ms, measurement_weights

HELD_OUT = 0.25
WEIGHT_FOLDS = 5
MANY = 200  # networks of which a quarter is not missed
MOST_LEFT_OUT = 40  # networks that are each predicted from the others


@dataclass(frozen=True)
class Fitted:
    """A predictor of ``n`` networks, and what a fit that did not know them predicted for H networks, with their
    measured latency and its relative standard error (None where it is not known)."""

    predictor: LatencyPredictor
    n: int
    truth_ms_H: Floats
    guess: Latency
    error_H: Floats | None = None


def fit_networks(
    family: str | NetworkFitter, space: SearchSpace, genes_NG: Genes, y_N: Floats, error_N: Floats | None = None
) -> LatencyPredictor:
    """A family, by its registered name or as what is fitted, fitted to networks of a space. ``error_N`` are the
    relative standard errors of the measurements; the more certain ones count for more. Raises UnknownName for the
    name, InvalidInput as the family does."""
    fitter = registry.load_family(family) if isinstance(family, str) else family
    weight_N = None if error_N is None else weights_of(space.features(genes_NG), y_N, error_N)
    return fitter.fit_networks(space, genes_NG, y_N, weight_N)


def weights_of(x_NF: Floats, y_N: Floats, error_N: Floats) -> Floats:
    """Weights of N measurements by their relative standard errors, and by how well a linear model predicts them."""
    held_out_N = held_out_ms(BayesianLinear.fit_mean, x_NF, y_N, WEIGHT_FOLDS, 0)
    return measurement_weights(held_out_N, y_N, error_N)


def fit_family(
    family: str | NetworkFitter,
    space: SearchSpace,
    genes_NG: Genes,
    y_N: Floats,
    held_out_N: NDArray[np.bool_],
    error_N: Floats | None = None,
) -> Fitted:
    """A family as ``fit_networks`` takes it, checked on the networks that are held out. They are then fitted to as well
    where there are fewer than ``MANY`` networks: their information is worth more than a second fit costs."""

    def fit(rows_N: NDArray[np.bool_]) -> LatencyPredictor:
        errors = None if error_N is None else error_N[rows_N]
        return fit_networks(family, space, genes_NG[rows_N], y_N[rows_N], errors)

    rows_N = ~held_out_N
    predictor = fit(rows_N)
    guess = predict_latency(predictor, space, genes_NG[held_out_N])
    if len(y_N) < MANY:
        rows_N = np.ones(len(y_N), dtype=bool)
        predictor = fit(rows_N)
    error_H = None if error_N is None else error_N[held_out_N]
    return Fitted(predictor, int(rows_N.sum()), y_N[held_out_N], guess, error_H)


def fit_transfer(relatives: Relatives, x_NF: Floats, y_N: Floats, seed: int, error_N: Floats | None = None) -> Fitted:
    """A handful of networks beside known devices, all of them fitted to; each is checked by a fit to the others."""
    n = len(y_N)
    multiple = calibrate(relatives, n)
    out = np.random.default_rng((seed, 7)).permutation(n)[:MOST_LEFT_OUT]
    weight_N = None if error_N is None else weights_of(x_NF, y_N, error_N)
    mean_ms, upper_ms = np.empty(len(out)), np.empty(len(out))
    for i, row in enumerate(out):
        other_rows = np.delete(np.arange(n), row)
        weights = None if weight_N is None else weight_N[other_rows]
        guess = Transfer.fit(x_NF[other_rows], y_N[other_rows], relatives, multiple, weights).predict(
            x_NF[row : row + 1]
        )
        mean_ms[i], upper_ms[i] = guess.mean_ms[0], guess.upper_ms[0]
    return Fitted(
        Transfer.fit(x_NF, y_N, relatives, multiple, weight_N),
        n,
        y_N[out],
        Latency(mean_ms, upper_ms),
        None if error_N is None else error_N[out],
    )
