"""Latency on a new device from a handful of measurements and the tables of devices that are known already.

Every known device gives a linear model of relative latency on the features. A new device is drawn around their mean:
its weights deviate from it along the known devices' own deviations, and a little in every direction, each weight in
proportion to how large it is among the known devices. How far, and how noisy the device is, is not decided but
integrated over, by the marginal likelihood of the few measurements. Their noise has heavy tails, so one disturbed
measurement does not bend the model. The bound is calibrated by playing the new device's part with every known device.

Sources: Lee et al., "HELP" (NeurIPS 2021), for the problem; Bishop, Pattern Recognition and Machine Learning, section
3.5, for the evidence; Lange, Little, Taylor, "Robust statistical modeling using the t distribution" (JASA 1989), for
the weights; Dunn, Wasserman, Ramdas, "Distribution-free prediction sets for two-layer hierarchical models" (JASA
2023), for calibrating on groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from predictors.base import BoundedPredictor
from predictors.domain import ApplicabilityDomain
from predictors.validation import check_measured, check_weights

FEWEST = 3  # networks measured on the new device
FEWEST_DEVICES = 3

# Guided by leaving out one known device at a time; see benchmarks/latency_transfer.py for what that is worth.
_FREEDOM = 4.0  # degrees of freedom of the noise
_SPREADS = np.geomspace(0.1, 30.0, 6)  # variance of the new device's deviation, over that among the known devices
_SHARES = np.array([0.1, 0.3])  # of it, in directions in which no known device deviates
_NOISES = np.geomspace(1e-6, 0.1, 9)  # variance of relative latency
_LEVEL = 0.1  # prior variance of the offset, and of the scale, beyond the plain fit of scale
_ROUNDS = 4  # of reweighting


@dataclass(frozen=True)
class Table:
    """Networks that were measured on one known device: ``features_NF`` and their latency in ms."""

    features_NF: Floats
    latency_ms_N: Floats


@dataclass(frozen=True)
class Relatives:
    """What D measured devices say about another: weights of latency relative to that of a network with features
    ``centre_F``, one row per device, and the tables they were learnt from."""

    centre_F: Floats
    weights_DF: Floats
    tables: tuple[Table, ...]

    @classmethod
    def learn(cls, tables: Sequence[Table]) -> Relatives:
        """Raises InvalidInput for fewer than 3 devices, tables that differ in their features, or unusable numbers."""
        if len(tables) < FEWEST_DEVICES:
            raise InvalidInput(f"expected the tables of at least {FEWEST_DEVICES} known devices, got {len(tables)}")
        for table in tables:
            _check(table.features_NF, table.latency_ms_N, tables[0].features_NF.shape[1], FEWEST)
        centre_F = np.mean([t.features_NF.mean(0) for t in tables], axis=0)
        spread_F = np.mean([t.features_NF.std(0) for t in tables], axis=0)
        scale_F = 1.0 / np.where(spread_F > 0, spread_F, np.inf)
        # Features that mattered little to all devices are held back on each, the next time.
        for _ in range(6):
            weights_DF = np.array([_own_weights(t.features_NF - centre_F, t.latency_ms_N, scale_F) for t in tables])
            scale_F = np.sqrt((weights_DF**2).mean(0))
        return cls(centre_F, weights_DF, tuple(tables))

    def without(self, device: int) -> Relatives:
        """All but one of the devices."""
        remaining = [d for d in range(len(self.tables)) if d != device]
        return replace(self, weights_DF=self.weights_DF[remaining], tables=tuple(self.tables[d] for d in remaining))


@dataclass(frozen=True)
class Transfer(BoundedPredictor):
    """``mean = weights . (features - centre, 1)`` in ms, never below half of the fastest network that was measured,
    and ``upper`` a margin in ms above it. Its domain holds the networks measured here and on known devices."""

    family: ClassVar[str] = "transfer"
    scalars: ClassVar[tuple[str, ...]] = ("margin_ms", "floor_ms")
    centre_F: Floats
    weights_P: Floats
    margin_ms: float
    floor_ms: float

    @classmethod
    def fit(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        relatives: Relatives,
        multiple: float | None = None,
        weight_N: Floats | None = None,
    ) -> Transfer:
        """Adapts to a device on which N networks were measured, from 3.

        The margin is ``multiple`` times the root mean square of the leave-one-out errors on them: that of ``calibrate``
        for N networks, unless given. Raises InvalidInput for fewer networks, other features, or unusable numbers.
        """
        _check(features_NF, latency_ms_N, len(relatives.centre_F), FEWEST)
        if multiple is None:
            multiple = calibrate(relatives, len(latency_ms_N))
        weights_P, error_ms = _adapt(_prior(relatives), features_NF, latency_ms_N, weight_N)
        domain = ApplicabilityDomain.of(np.concatenate([*(t.features_NF for t in relatives.tables), features_NF]))
        floor_ms = 0.5 * float(latency_ms_N.min())
        return cls(relatives.centre_F, weights_P, multiple * error_ms, floor_ms, domain=domain)

    @property
    def columns(self) -> int:
        """Number of features."""
        return len(self.centre_F)

    def mean_ms(self, features_NF: Floats) -> Floats:
        """Mean latency in ms, shape (N,)."""
        line_ms_N = (features_NF - self.centre_F) @ self.weights_P[:-1] + self.weights_P[-1]
        return np.asarray(np.maximum(line_ms_N, self.floor_ms))

    def bound_ms(self, mean_ms_N: Floats) -> Floats:
        """The means with the margin, shape (N,)."""
        return mean_ms_N + self.margin_ms


def calibrate(relatives: Relatives, n: int, level: float = 0.95, draws: int = 6, seed: int = 0) -> float:
    """By how many root mean square errors the bound of a fit to ``n`` networks must lie above the mean, so that it
    holds at ``level`` on average over the known devices: each in turn is new, and ``draws`` times ``n`` of its networks
    are measured; the quantile of the errors on its others, all devices weighing alike.

    Raises InvalidInput where a table has no more than ``n`` networks.
    """
    rng = np.random.default_rng((seed, n))
    fewest = min(len(t.latency_ms_N) for t in relatives.tables)
    if fewest <= n:
        raise InvalidInput(f"expected tables of more networks than the {n} of the new device, got one of {fewest}")
    ratios, shares = [], []
    for device, table in enumerate(relatives.tables):
        prior = _prior(relatives.without(device))
        x_NP = _with_one(table.features_NF - prior.centre_F)
        for _ in range(draws):
            few, unmeasured = np.split(rng.permutation(len(x_NP)), [n])
            weights_P, error_ms = _adapt(prior, table.features_NF[few], table.latency_ms_N[few])
            ratios.append((table.latency_ms_N[unmeasured] - x_NP[unmeasured] @ weights_P) / max(error_ms, 1e-12))
            shares.append(np.full(len(unmeasured), 1.0 / len(unmeasured)))
    ratio_M, share_M = np.concatenate(ratios), np.concatenate(shares)
    order = ratio_M.argsort()
    reached_M = share_M[order].cumsum() / share_M.sum()
    return max(0.0, float(ratio_M[order][min(int(np.searchsorted(reached_M, level)), len(order) - 1)]))


def choose(relatives: Relatives, features_NF: Floats, n: int) -> NDArray[np.int64]:
    """Which ``n`` of N candidate networks to measure on a new device, as indices in the order of their worth: greedily,
    the one whose measurement lowers the variance of relative latency most, summed over all candidates.

    Needs memory for N x N numbers. Raises InvalidInput when there are fewer than ``n`` candidates.
    """
    if not 0 < n <= len(features_NF):
        raise InvalidInput(f"expected to choose between 1 and {len(features_NF)} networks, got {n}")
    prior = _prior(relatives)
    x_NP = _with_one(features_NF - prior.centre_F)
    left_NN = x_NP @ prior.covariance(1.0, float(_SHARES.mean())) @ x_NP.T
    noise = float(np.sqrt(_NOISES[0] * _NOISES[-1]))
    selected: list[int] = []
    for _ in range(n):
        gain_N = (left_NN**2).sum(0) / (np.diag(left_NN) + noise)
        gain_N[selected] = -np.inf
        best = int(gain_N.argmax())
        selected.append(best)
        left_NN -= np.outer(left_NN[best], left_NN[best]) / (left_NN[best, best] + noise)
    return np.array(selected, dtype=np.int64)


@dataclass(frozen=True)
class _Prior:
    """Weights of relative latency, the constant last: ``mean_P``, the K deviations of the known devices ``known_KP``,
    whose Gram matrix is their covariance, and variances ``other_P`` of the same trace over the networks at hand."""

    centre_F: Floats
    mean_P: Floats
    known_KP: Floats
    other_P: Floats

    def covariance(self, spread: float, share: float) -> Floats:
        """Covariance of the weights; scale and offset are nearly free."""
        known_PP, other_PP, free_PP = self._parts(np.eye(len(self.mean_P)))
        return spread * (known_PP + share * other_PP) + free_PP

    def crossed(self, x_PN: Floats) -> Floats:
        """The covariance of every spread and share, times N networks, shape (H, P, N)."""
        known_PN, other_PN, free_PN = self._parts(x_PN)
        of_share_SPN = known_PN + _SHARES[:, None, None] * other_PN
        every_SAPN = _SPREADS[:, None, None] * of_share_SPN[:, None] + free_PN
        return every_SAPN.reshape(-1, *x_PN.shape)

    def _parts(self, x_PN: Floats) -> tuple[Floats, Floats, Floats]:
        free_PN = _LEVEL * np.outer(self.mean_P, self.mean_P @ x_PN)
        free_PN[-1] += _LEVEL * x_PN[-1]
        return self.known_KP.T @ (self.known_KP @ x_PN), self.other_P[:, None] * x_PN, free_PN


def _prior(relatives: Relatives) -> _Prior:
    weights_DF = relatives.weights_DF
    mean_F = weights_DF.mean(0)
    known_DF = (weights_DF - mean_F) / np.sqrt(len(weights_DF) - 1)
    other_F = (weights_DF**2).mean(0)
    x_NF = np.concatenate([t.features_NF for t in relatives.tables]) - relatives.centre_F
    total = float((other_F * (x_NF**2).sum(0)).sum())
    other_F = other_F * (float(((x_NF @ known_DF.T) ** 2).sum()) / total if total > 0 else 0.0)
    constant = np.zeros((len(known_DF), 1))
    return _Prior(relatives.centre_F, np.append(mean_F, 1.0), np.hstack([known_DF, constant]), np.append(other_F, 0.0))


def _adapt(prior: _Prior, features_NF: Floats, y_N: Floats, weight_N: Floats | None = None) -> tuple[Floats, float]:
    """Posterior mean of the weights in ms, averaged over spread, share and noise by their evidence; and the root mean
    square in ms of the errors on the N networks, each predicted from the others."""
    x_NP = _with_one(features_NF - prior.centre_F)
    expected_N = x_NP @ prior.mean_P
    unit_ms = float(y_N @ expected_N / (expected_N @ expected_N))
    rest_N = y_N / unit_ms - expected_N
    cross_HPN = prior.crossed(x_NP.T)
    inverse_HQNN, log_evidence_HQ = _heavy_tailed(x_NP @ cross_HPN, rest_N, check_weights(weight_N, len(y_N)))
    p_HQ = np.exp(log_evidence_HQ - log_evidence_HQ.max())
    p_HQ /= p_HQ.sum()
    solved_HQN = inverse_HQNN @ rest_N
    step_P = (cross_HPN @ (p_HQ[:, None] @ solved_HQN).swapaxes(1, 2)).sum((0, 2))
    error_N = p_HQ.ravel() @ (solved_HQN / np.einsum("hqnn->hqn", inverse_HQNN)).reshape(p_HQ.size, -1)
    return (prior.mean_P + step_P) * unit_ms, float(np.sqrt((error_N**2).mean())) * unit_ms


def _heavy_tailed(grams_HNN: Floats, rest_N: Floats, weight_N: Floats) -> tuple[Floats, Floats]:
    """For each prior and each noise, which is lower for a measurement of more weight: the inverse covariance of the
    measurements and the log evidence (its variational bound), where every measurement's precision is a Gamma
    variable, which makes the noise Student's t."""
    n, half = len(rest_N), _FREEDOM / 2
    noise_Q1 = _NOISES[:, None]
    noise_QN = noise_Q1 / weight_N
    # At first all measurements are as precise, so one decomposition of each prior's matrix serves all noises.
    values_HN, turn_HNN = np.linalg.eigh(grams_HNN)
    shrunk_HQN = 1.0 / (np.maximum(values_HN, 0.0)[:, None] + noise_Q1)
    solved_HQN = (shrunk_HQN * (rest_N @ turn_HNN)[:, None]) @ turn_HNN.swapaxes(1, 2)
    precision_HQN = _precision(noise_Q1, noise_Q1, solved_HQN, shrunk_HQN @ (turn_HNN**2).swapaxes(1, 2))
    for rounds_to_go in reversed(range(_ROUNDS - 1)):
        variance_HQN = noise_QN / precision_HQN
        covariance_HQNN = grams_HNN[:, None] + variance_HQN[..., None] * np.eye(n)
        inverse_HQNN = np.linalg.inv(covariance_HQNN)
        solved_HQN = inverse_HQNN @ rest_N
        if rounds_to_go:
            precision_HQN = _precision(noise_QN, variance_HQN, solved_HQN, np.einsum("hqnn->hqn", inverse_HQNN))
    shape, rate_HQN = half + 0.5, (half + 0.5) / precision_HQN
    log_precision_HQN = digamma(shape) - np.log(rate_HQN)
    divergence_HQN = (
        shape * np.log(rate_HQN)
        - half * np.log(half)
        - gammaln(shape)
        + gammaln(half)
        + 0.5 * log_precision_HQN
        - precision_HQN * (rate_HQN - half)
    )
    bound_HQ = (0.5 * (log_precision_HQN - np.log(precision_HQN)) - divergence_HQN).sum(-1)
    log_det_HQ = np.linalg.slogdet(covariance_HQNN)[1]
    return np.asarray(inverse_HQNN, dtype=np.float64), bound_HQ - 0.5 * (solved_HQN @ rest_N) - 0.5 * log_det_HQ


def _precision(noise_QN: Floats, variance_HQN: Floats, solved_HQN: Floats, diagonal_HQN: Floats) -> Floats:
    """What is to be thought of each measurement's precision, by its error and what the model leaves open of it."""
    error_HQN = variance_HQN * solved_HQN
    doubt_HQN = variance_HQN - variance_HQN**2 * diagonal_HQN
    return np.asarray((_FREEDOM + 1) / (_FREEDOM + (error_HQN**2 + doubt_HQN) / noise_QN))


def _own_weights(x_NF: Floats, y_N: Floats, scale_F: Floats) -> Floats:
    """Weights of latency relative to that at the centre (features 0): ridge regression in units of ``scale_F``, its
    penalty chosen by the evidence, measurements far off (by their median) weighing less, as under Student's t."""
    design_NF = x_NF * scale_F
    weight_N = np.ones(len(y_N))
    for _ in range(6):
        share_N = weight_N / weight_N.sum()
        centre_F, level = share_N @ design_NF, float(share_N @ y_N)
        root_N = np.sqrt(weight_N)
        weights_F = _ridge((design_NF - centre_F) * root_N[:, None], (y_N - level) * root_N)
        offset = level - centre_F @ weights_F
        error_N = y_N - offset - design_NF @ weights_F
        usual = max(float(np.median(np.abs(error_N))), 1e-9 * abs(level))
        weight_N = 1.0 / (1.0 + (error_N / (3.7 * usual)) ** 2)
    return np.asarray(weights_F * scale_F / offset)


def _ridge(x_NF: Floats, y_N: Floats) -> Floats:
    values_F, turn_FF = np.linalg.eigh(x_NF.T @ x_NF)
    values_F = np.maximum(values_F, 0.0)
    projected_F = turn_FF.T @ (x_NF.T @ y_N)
    n, total = len(y_N), max(float(y_N @ y_N), 1e-300)
    penalties = np.geomspace(1e-9, 1e2, 34)[:, None] * max(float(values_F.max()), 1e-300)
    squares = total - (projected_F**2 / (values_F + penalties)).sum(1)
    evidence = -0.5 * n * np.log(np.maximum(squares, 1e-12 * total)) - 0.5 * np.log1p(values_F / penalties).sum(1)
    return np.asarray(turn_FF @ (projected_F / (values_F + penalties[evidence.argmax()])))


def _with_one(x_NF: Floats) -> Floats:
    return np.hstack([x_NF, np.ones((len(x_NF), 1))])


def _check(features_NF: Floats, latency_ms_N: Floats, features: int, fewest: int) -> None:
    if features_NF.ndim != 2 or features_NF.shape != (len(latency_ms_N), features):
        raise InvalidInput(
            f"expected features of shape ({len(latency_ms_N)}, {features}), one row per latency, "
            f"got {features_NF.shape}"
        )
    check_measured(features_NF, latency_ms_N, fewest)
