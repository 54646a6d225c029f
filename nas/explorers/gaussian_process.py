"""Gaussian processes of losses over networks.

The inputs are a space's structural features (``accuracy_features``, an optional method of a space), or genes and costs,
with a Matérn kernel. Length scale and noise maximise the posterior; what is assumed of them, ``PRIORS``, was chosen by
``benchmarks.explorer_constants``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from nas.core.arch import Floats, Genes, one_hot, sample
from nas.core.ports import SearchSpace
from nas.explorers.distortion_aware import DistortionAwareSpace

Float32s = NDArray[np.float32]

MAX_FITTED = 400  # evaluations that a process is fitted to: the cost of a fit is cubic
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)  # squared length scales, by the median squared distance of two random networks
NOISES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # noise variance by the signal's
_VARIANCE_EVALUATIONS = 2.0  # that the expectation of a standard loss counts for in the estimate of its variance


@dataclass(frozen=True)
class Priors:
    """What a process assumes before any evaluation. ``smoothness``: of the Matérn kernel, 1.5, 2.5 or infinite.
    ``scale`` and ``noise``: where the broad priors of the squared length scale and of the noise variance have their
    modes. ``warped``: whether differences among losses far from the best are compressed."""

    smoothness: float = 2.5
    scale: float = 4.0
    noise: float = 0.03
    warped: bool = True


PRIORS = Priors()


def encode(space: SearchSpace, genes_NG: Genes) -> Float32s:
    """Inputs of a process, shape (N, F): the space's accuracy features if it has any, else one-hot genes and
    logarithmic costs, scaled so that the median squared distance of two random networks is 1; where the distortions of
    networks are known, their logarithm as well."""
    measures = _measures(space)  # type: ignore[arg-type]
    inputs_NF = (_raw(space, genes_NG) - measures.centre_F) / measures.spread_F
    if isinstance(space, DistortionAwareSpace):
        inputs_NF = np.concatenate([inputs_NF, expected_quality(space, genes_NG)[:, None]], axis=1)
    return np.asarray(inputs_NF, dtype=np.float32)


def expected_quality(space: SearchSpace, genes_NG: Genes) -> Floats:
    """What is expected of networks before any is evaluated, from -3 to 3, standard over random networks, shape (N,):
    by parameters and MACs, or by what is known of their distortions."""
    measures = _measures(space)  # type: ignore[arg-type]
    size_NC = (_sizes(space, genes_NG) - measures.size_centre_C) / measures.size_spread_C
    return np.asarray(np.clip(size_NC.mean(axis=1), -3.0, 3.0))


@dataclass(frozen=True)
class WarpedGP:
    """A Gaussian process of one loss, fitted in closed form on the standardised ``log(1 + (loss - low) / width)``: the
    warping compresses differences among losses far from the best. ``noise`` is by the prior ``variance``."""

    priors: Priors

    low: float
    width: float
    shift: float
    spread: float
    train_NF: Float32s
    scale: float
    noise: float
    variance: float
    lower_NN: Float32s
    weights_N: Floats

    @staticmethod
    def fit(inputs_NF: Float32s, losses_N: Floats) -> WarpedGP:
        """The mode over ``SCALES`` and ``NOISES``, under ``PRIORS``."""
        priors = PRIORS
        low = float(losses_N.min())
        width = float(np.median(losses_N)) - low or 1.0
        ratio_N = (losses_N - low) / width
        warped_N = np.log1p(ratio_N) if priors.warped else ratio_N
        shift, spread = float(warped_N.mean()), float(warped_N.std()) or 1.0
        target_N = (warped_N - shift) / spread
        distance_NN = _distances(inputs_NF, inputs_NF).astype(np.float64)
        best: tuple[float, WarpedGP] | None = None
        for scale in SCALES:
            kernel_NN = _matern(distance_NN / scale, priors.smoothness)
            for noise in NOISES:
                lower_NN = np.linalg.cholesky(kernel_NN + noise * np.eye(len(target_N)))
                half_N = solve_triangular(lower_NN, target_N, lower=True)
                square = float(half_N @ half_N)
                variance = (square + _VARIANCE_EVALUATIONS) / (len(target_N) + _VARIANCE_EVALUATIONS)
                evidence = -0.5 * len(target_N) * np.log(square / len(target_N) + 1e-12)
                evidence -= float(np.log(np.diag(lower_NN)).sum())
                evidence -= 0.5 * (np.log(noise / priors.noise) / 1.5) ** 2 + 0.5 * np.log(scale / priors.scale) ** 2
                if best is None or evidence > best[0]:
                    weights_N = solve_triangular(lower_NN, half_N, lower=True, trans="T")
                    fitted = (scale, noise, variance, lower_NN.astype(np.float32), weights_N)
                    best = evidence, WarpedGP(priors, low, width, shift, spread, inputs_NF, *fitted)
        assert best is not None
        return best[1]

    def warp(self, losses_N: Floats) -> Floats:
        """From losses to the warped scale; values below the best evaluated loss are extrapolated, down to -0.99."""
        ratio_N = np.maximum((losses_N - self.low) / self.width, -0.99)
        warped_N = np.log1p(ratio_N) if self.priors.warped else ratio_N
        return np.asarray((warped_N - self.shift) / self.spread)

    def unwarp(self, warped_N: Floats) -> Floats:
        """From the warped scale to losses."""
        values_N = warped_N * self.spread + self.shift
        ratio_N = np.expm1(np.clip(values_N, -5.0, 50.0)) if self.priors.warped else values_N
        return np.asarray(self.low + self.width * ratio_N)

    def covariance(self, inputs_KF: Float32s, others_NF: Float32s) -> Float32s:
        """Prior covariance of two sets of networks by the prior variance, shape (K, N)."""
        distances_KN = _distances(inputs_KF, others_NF) / np.float32(self.scale)
        return np.asarray(_matern(distances_KN, self.priors.smoothness), dtype=np.float32)

    def posterior(self, inputs_KF: Float32s) -> tuple[Floats, Float32s]:
        """Mean (K,) and the whitened covariance with the evaluated networks (N, K), both on the warped scale."""
        cross_KN = self.covariance(inputs_KF, self.train_NF)
        half_NK = solve_triangular(self.lower_NN, cross_KN.T, lower=True, check_finite=False)
        return np.asarray(cross_KN @ self.weights_N, dtype=np.float64), half_NK


def rows_to_fit(n: int) -> NDArray[np.int64]:
    """The evaluations of ``n`` that a process is fitted to: all, or the latest ``MAX_FITTED`` / 2 and an even sample of
    those before."""
    if n <= MAX_FITTED:
        return np.arange(n)
    older = np.linspace(0, n - MAX_FITTED // 2 - 1, MAX_FITTED // 2).round().astype(np.int64)
    return np.concatenate([older, np.arange(n - MAX_FITTED // 2, n)])


def _raw(space: SearchSpace, genes_NG: Genes) -> Floats:
    accuracy_features = space.accuracy_features
    if accuracy_features is not None:
        return np.asarray(accuracy_features(genes_NG), dtype=np.float64)
    costs = space.costs(genes_NG)
    logs = np.log(np.stack([costs["macs"], costs["params"]], axis=1) + 1.0)
    return np.concatenate([one_hot(space.decisions, space.canonical(genes_NG)), logs], axis=1)


def _sizes(space: SearchSpace, genes_NG: Genes) -> Floats:
    if isinstance(space, DistortionAwareSpace):
        return -space.log_distortion(genes_NG)[:, None]
    costs = space.costs(genes_NG)
    return np.asarray(np.log(np.stack([costs["macs"], costs["params"]], axis=1) + 1.0))


@dataclass(frozen=True)
class _Measures:
    """Centre and spread of each feature and of each measure of size, over random networks."""

    centre_F: Floats
    spread_F: Floats
    size_centre_C: Floats
    size_spread_C: Floats


@lru_cache(maxsize=16)  # spaces are immutable
def _measures(space: SearchSpace) -> _Measures:
    """Costs are made standard, and all features divided by the square root of the median squared distance of two random
    networks."""
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 1000))
    raw_NF, size_NC = _raw(space, genes_NG), _sizes(space, genes_NG)
    centre_F, spread_F = np.zeros(raw_NF.shape[1]), np.ones(raw_NF.shape[1])
    if space.accuracy_features is None:
        centre_F[-2:], spread_F[-2:] = raw_NF[:, -2:].mean(axis=0), np.maximum(raw_NF[:, -2:].std(axis=0), 1e-9)
    scaled_NF = (raw_NF - centre_F) / spread_F
    typical = float(np.median(((scaled_NF[:500] - scaled_NF[500:]) ** 2).sum(axis=1)))
    spread_F = spread_F * np.sqrt(max(typical, 1e-9))
    return _Measures(centre_F, spread_F, size_NC.mean(axis=0), np.maximum(size_NC.std(axis=0), 1e-9))


def _distances(a_NF: Float32s, b_KF: Float32s) -> Float32s:
    """Squared distances, shape (N, K)."""
    squares = (a_NF * a_NF).sum(axis=1)[:, None] + (b_KF * b_KF).sum(axis=1) - 2.0 * a_NF @ b_KF.T
    return np.asarray(np.maximum(squares, 0.0))


def _matern(distance: NDArray[np.floating], smoothness: float) -> NDArray[np.floating]:
    """Matérn correlation at a squared distance (Rasmussen and Williams, 2006, section 4.2.1)."""
    if smoothness == np.inf:
        return np.asarray(np.exp(-0.5 * distance))
    r = np.sqrt(2.0 * smoothness * distance)
    polynomial = 1.0 + r if smoothness == 1.5 else 1.0 + r + r * r / 3.0
    return np.asarray(polynomial * np.exp(-r))
