"""Latency on a new device from a handful of measurements, beside the tables of devices that are known already.

Several options to learn (``predictors.options``) are each fitted to the measurements: by one view of the networks or
another, from a single cost, and from known devices. Leaving out one measurement at a time shows how well each predicts;
the mean is that of all options, each counting by its leave-one-out error. So known devices help where they resemble the
new one, and do no harm where they do not. The bound lies above the mean by what left-out measurements need.

Sources: Lee et al., "HELP" (NeurIPS 2021), for the problem; Yao, Vehtari, Simpson, Gelman, "Using stacking to average
Bayesian predictive distributions" (Bayesian Analysis 2018), for weights by leaving one out; Barber, Candès, Ramdas,
Tibshirani, "Predictive inference with the jackknife+" (Annals of Statistics 2021), for the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.errors import InvalidInput
from nas.core.ports import SearchSpace
from nas.core.predictor_card import OptionFigure
from predictors.adaptation import Adapted, adapt, with_one
from predictors.base import BoundedPredictor
from predictors.domain import ApplicabilityDomain
from predictors.layer_times import LayerTimes
from predictors.options import beside, design_prior, without_relatives
from predictors.relatives import FEWEST, Relatives, Table, check_rows
from predictors.validation import check_weights
from predictors.views import FeatureLayout, network_features

__all__ = ["FEWEST", "Relatives", "Table", "Transfer", "choose", "learn"]

_LEVEL = 0.95  # of the bound
_FAR = 4.0  # times the median residual, beyond which no residual counts for more
_MOST = 48  # measurements from which weights of options are taken; more would take long and tell little
_DOUBTFUL = 0.02  # weight of an option below which it is not fitted to more than so many
_EXACT = 1e-9  # of the variance of predictions, up to which the space's own features give the same
_WIDENED = 3.0  # measurements by whose share the margin is widened
_STEPS = (1e2, 1e1, 1.0, 0.1, 0.01, 1e-3)  # in ms, to which latencies of a table may be rounded
_DESIGN_NOISE = float(np.sqrt(1e-6 * 0.1))  # variance of relative latency
_COARSE = 100  # steps between the fastest and the slowest network, above which rounding does not matter


@dataclass(frozen=True)
class Transfer(BoundedPredictor):
    """``mean = weights . (columns - centre, 1)`` in ms, never below half of the fastest network that was measured, and
    ``upper`` a margin in ms above it, rounded up to a multiple of ``step_ms`` (0: not rounded), in which latencies were
    measured. The columns are those of ``network_features`` if ``views``, else the features of the space. Its domain
    holds the networks measured here and on known devices."""

    family: ClassVar[str] = "transfer"
    scalars: ClassVar[tuple[str, ...]] = ("margin_ms", "floor_ms", "step_ms")
    nested: ClassVar[tuple[str, ...]] = ("domain", "views", "layers")
    centre_F: Floats
    weights_P: Floats
    margin_ms: float
    floor_ms: float
    step_ms: float = 0.0
    views: bool = False
    layers: LayerTimes | None = None

    @classmethod
    def fit(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        relatives: Relatives | None = None,
        weight_N: Floats | None = None,
        layout: FeatureLayout | None = None,
    ) -> Transfer:
        """The predictor of ``learn``."""
        return learn(features_NF, latency_ms_N, relatives, weight_N, layout).predictor

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.centre_F)

    def mean_ms(self, features_NF: Floats) -> Floats:
        """Mean latency in ms, shape (N,)."""
        line_ms_N = (features_NF - self.centre_F) @ self.weights_P[:-1] + self.weights_P[-1]
        return np.asarray(np.maximum(line_ms_N, self.floor_ms))

    def bound_ms(self, mean_ms_N: Floats) -> Floats:
        """The means with the margin, shape (N,)."""
        upper_ms_N = mean_ms_N + self.margin_ms
        return upper_ms_N if self.step_ms == 0 else np.ceil(upper_ms_N / self.step_ms - 1e-9) * self.step_ms

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """All views of the networks, or the features of the space alone."""
        return network_features(space, genes_NG, self.layers) if self.views else space.features(genes_NG)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays."""
        layers = {} if self.layers is None else self.layers.to_arrays()
        return {**super().to_arrays(), "views": np.array(self.views), **layers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of ``to_arrays``. Earlier versions rounded nothing and read the features of the space."""
        scalars = arrays["scalars"]
        full = {**arrays, "scalars": np.append(scalars, 0.0) if len(scalars) == 2 else scalars}
        views = "views" in arrays and bool(arrays["views"])
        return cls(**cls.stored_fields(full), views=views, layers=LayerTimes.from_arrays(arrays))


@dataclass(frozen=True)
class Learned:
    """A predictor, how the options did that its mean is made of, the most trusted first, and what fits to all others
    predict of each network. ``of_columns`` is the same predictor by the columns that it was fitted to."""

    predictor: Transfer
    of_columns: Transfer
    options: tuple[OptionFigure, ...]
    left_out: Latency


def learn(
    features_NF: Floats,
    latency_ms_N: Floats,
    relatives: Relatives | None = None,
    weight_N: Floats | None = None,
    layout: FeatureLayout | None = None,
) -> Learned:
    """Learns a device on which N networks were measured, from 3, beside ``relatives``, if there are any. ``layout``
    says what the columns are, None: features of a space. Raises InvalidInput for fewer networks, other features, or
    unusable numbers."""
    n_columns = features_NF.shape[-1] if relatives is None else len(relatives.centre_F)
    check_rows(features_NF, latency_ms_N, n_columns, FEWEST)
    layout = layout or FeatureLayout.single(_all_rows(features_NF, relatives))
    if relatives is not None:
        layout = replace(layout, centre_F=relatives.centre_F)
    adapted = _adapt_all(features_NF, latency_ms_N, relatives, check_weights(weight_N, len(latency_ms_N)), layout)
    weight_K, left_out_N = _trust(adapted), _blended_residuals(adapted)
    margin_ms, step_ms = margin(left_out_N), rounding_step(latency_ms_N)
    predictor = Transfer(
        layout.centre_F,
        weight_K @ np.array([option.weights_P for option in adapted]),
        margin_ms,
        0.5 * float(latency_ms_N.min()),
        step_ms,
        not layout.is_single,
        layout.layers,
        domain=ApplicabilityDomain.of(_all_rows(features_NF, relatives)),
    )
    figures = _figures(adapted, weight_K, float(latency_ms_N.mean()))
    mean_ms_N = np.maximum(latency_ms_N - left_out_N, predictor.floor_ms)
    margins_N = np.array([margin(np.delete(left_out_N, i)) for i in range(len(left_out_N))])
    upper_ms_N = np.array(
        [replace(predictor, margin_ms=m).bound_ms(mean) for m, mean in zip(margins_N, mean_ms_N, strict=True)]
    )
    reduced = _of_features(predictor, layout, features_NF, relatives)
    return Learned(reduced, predictor, figures, Latency(mean_ms_N, upper_ms_N))


def _adapt_all(
    features_NF: Floats, y_N: Floats, relatives: Relatives | None, weight_N: Floats, layout: FeatureLayout
) -> list[Adapted]:
    """Every option, fitted; of many measurements, those that a part of them does not tell to be hopeless."""
    priors = list(without_relatives(layout))
    if relatives is not None:
        priors += beside(relatives, layout, features_NF, y_N)
    x_NP = with_one(features_NF - layout.centre_F)
    if len(y_N) > _MOST:
        rows = np.random.default_rng(0).permutation(len(y_N))[:_MOST]
        tried = [adapt(prior, x_NP[rows], y_N[rows], weight_N[rows]) for prior in priors]
        weight_K = _trust(tried)
        priors = [prior for prior, weight in zip(priors, weight_K, strict=True) if weight >= _DOUBTFUL * weight_K.max()]
    return [adapt(prior, x_NP, y_N, weight_N) for prior in priors]


def _trust(options: Sequence[Adapted]) -> Floats:
    """Weights of K options: the product of their evidence and their leave-one-out likelihood, each to half a power,
    since both are of the same measurements. Shape (K,)."""
    residual_KN = np.array([option.residual_ms_N for option in options])
    return _weights(np.array([option.log_evidence for option in options]), residual_KN)


def _weights(log_evidence_K: Floats, residual_ms_KN: Floats) -> Floats:
    """Large residuals count as ``_FAR`` times the median: one disturbed measurement says nothing of an option."""
    size_KN = np.abs(residual_ms_KN)
    size_KN = np.minimum(size_KN, _FAR * np.median(size_KN, axis=1, keepdims=True))
    log_likelihood_K = -0.5 * size_KN.shape[1] * np.log(np.maximum((size_KN**2).mean(1), 1e-300))
    log_K = 0.5 * (log_evidence_K + log_likelihood_K)
    weight_K = np.exp(log_K - log_K.max())
    return np.asarray(weight_K / weight_K.sum())


def _blended_residuals(options: Sequence[Adapted]) -> Floats:
    """Leave-one-out residuals of the weighted mean of the options, shape (N,): no network has a say in the weights by
    which it is predicted."""
    residual_KN = np.array([option.residual_ms_N for option in options])
    evidence_KN = np.array([option.log_evidence_without_N for option in options])
    rows = range(residual_KN.shape[1])
    return np.array([_weights(evidence_KN[:, i], np.delete(residual_KN, i, axis=1)) @ residual_KN[:, i] for i in rows])


def margin(residual_ms_N: Floats) -> float:
    """By how many ms a bound lies above the mean: the order statistic of the residuals that conformal prediction takes,
    the largest of a few; but at least what Student's t distribution of the same spread takes, since a few residuals
    seldom hold a large one. Both are widened, the more the fewer they are: ``_trust`` has seen them."""
    from scipy.special import stdtrit  # takes 30 MB, and the server fits nothing

    n = len(residual_ms_N)
    rank = min(n, int(np.ceil(_LEVEL * (n + 1))))
    spread_ms = float(np.sqrt((residual_ms_N**2).mean() * (1.0 + 1.0 / n)))
    widest_ms = max(0.0, float(np.sort(residual_ms_N)[rank - 1]), float(stdtrit(n - 1, _LEVEL)) * spread_ms)
    return (1.0 + _WIDENED / n) * widest_ms


def rounding_step(latency_ms_N: Floats) -> float:
    """The step in ms to which all latencies are rounded, if it is coarse; 0 otherwise."""
    for step_ms in _STEPS:
        steps_N = latency_ms_N / step_ms
        if (np.abs(steps_N - np.round(steps_N)) < 1e-6).all():
            return step_ms if np.ptp(steps_N) < _COARSE else 0.0
    return 0.0


def choose(relatives: Relatives, features_NF: Floats, n: int) -> NDArray[np.int64]:
    """Which ``n`` of N candidate networks to measure on a new device, as indices in the order of their worth: greedily,
    the one whose measurement lowers the variance of relative latency most, summed over all candidates.

    Needs memory for N x N numbers. Raises InvalidInput when there are fewer than ``n`` candidates.
    """
    if not 0 < n <= len(features_NF):
        raise InvalidInput(f"expected to choose between 1 and {len(features_NF)} networks, got {n}")
    left_NN, noise = design_prior(relatives).covariance(with_one(features_NF - relatives.centre_F)), _DESIGN_NOISE
    selected: list[int] = []
    for _ in range(n):
        gain_N = (left_NN**2).sum(0) / (np.diag(left_NN) + noise)
        gain_N[selected] = -np.inf
        best = int(gain_N.argmax())
        selected.append(best)
        left_NN -= np.outer(left_NN[best], left_NN[best]) / (left_NN[best, best] + noise)
    return np.array(selected, dtype=np.int64)


def _figures(adapted: list[Adapted], weight_K: Floats, mean_ms: float) -> tuple[OptionFigure, ...]:
    error_K = [float(np.sqrt((option.residual_ms_N**2).mean())) / mean_ms for option in adapted]
    figures = [
        OptionFigure(option.name, error, float(weight))
        for option, error, weight in zip(adapted, error_K, weight_K, strict=True)
    ]
    return tuple(sorted(figures, key=lambda figure: -figure.weight))


def _of_features(
    predictor: Transfer, layout: FeatureLayout, features_NF: Floats, relatives: Relatives | None
) -> Transfer:
    """The same predictor by the features of the space alone, where these give the same."""
    columns_C, pool = layout.features_C, layout.pool_MF
    if layout.is_single or 2 * len(columns_C) > len(pool):
        return predictor
    line_ms_M = (pool - predictor.centre_F) @ predictor.weights_P[:-1]
    centre_C = predictor.centre_F[columns_C]
    design_MP = with_one(pool[:, columns_C] - centre_C)
    weights_P: Floats = np.asarray(np.linalg.lstsq(design_MP, line_ms_M, rcond=None)[0], dtype=np.float64)
    if float(np.square(design_MP @ weights_P - line_ms_M).mean()) > _EXACT * float(line_ms_M.var()):
        return predictor
    weights_P[-1] += predictor.weights_P[-1]
    domain = ApplicabilityDomain.of(_all_rows(features_NF, relatives)[:, columns_C])
    return replace(predictor, centre_F=centre_C, weights_P=weights_P, views=False, layers=None, domain=domain)


def _all_rows(features_NF: Floats, relatives: Relatives | None) -> Floats:
    """The networks measured here and on known devices."""
    return features_NF if relatives is None else np.concatenate([relatives.networks_MF, features_NF])
