"""Fitting a predictor to what was measured, and checking it on networks that took no part in fitting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.plugins import NetworkFitter
from nas.core.ports import LatencyPredictor, SearchSpace, predict_latency
from nas.core.predictor_card import TransferChoice
from predictors.families.bayesian_linear import BayesianLinear
from predictors.families.transfer import FEWEST, Relatives, Table, learn
from predictors.layer_times import LayerTimes
from predictors.learning_curve import outlook
from predictors.validation import held_out_ms, measurement_weights
from predictors.views import FeatureLayout, network_features

HELD_OUT = 0.25
WEIGHT_FOLDS = 5
MANY = 200  # networks of which a quarter is not missed


@dataclass(frozen=True)
class Fitted:
    """A predictor of ``n`` networks, and what a fit that did not know them predicted for H networks, with their
    measured latency and its relative standard error (None where it is not known). ``choice``: what it was learned by,
    where that was chosen."""

    predictor: LatencyPredictor
    n: int
    truth_ms_H: Floats
    guess: Latency
    error_H: Floats | None = None
    choice: TransferChoice | None = None


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


def fit_transfer(
    tables: Sequence[Table],
    space: SearchSpace,
    genes_NG: Genes,
    y_N: Floats,
    error_N: Floats | None = None,
    layers: LayerTimes | None = None,
) -> Fitted:
    """A handful of networks, beside known devices if there are ``tables`` of them, and by what the device takes for
    ``layers`` in other spaces, if that is known. All networks are fitted to; each is checked by fits to the others."""
    layout, x_NF = FeatureLayout.of(space, layers), network_features(space, genes_NG, layers)
    relatives = Relatives.learn(tables, layout.additive_C) if tables else None
    weight_N = None if error_N is None else weights_of(space.features(genes_NG), y_N, error_N)
    learned = learn(x_NF, y_N, relatives, weight_N, layout)

    def error_ms(fitted: NDArray[np.int64], held_out: NDArray[np.int64]) -> float:
        weights = None if weight_N is None else weight_N[fitted]
        guess = learn(x_NF[fitted], y_N[fitted], relatives, weights, layout).of_columns.predict(x_NF[held_out])
        return float(np.sqrt(((guess.mean_ms - y_N[held_out]) ** 2).mean()))

    advice = outlook(y_N - learned.left_out.mean_ms, y_N, error_ms) if len(y_N) >= 2 * FEWEST else ""
    choice = TransferChoice(learned.options, tuple(table.name for table in tables), advice)
    return Fitted(learned.predictor, len(y_N), y_N, learned.left_out, error_N, choice)
