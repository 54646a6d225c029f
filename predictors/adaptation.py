"""Adapting one prior of a linear model to a handful of measurements, with errors left out one by one.

A prior is a mean of the weights and a family of covariances. How far the weights deviate and how noisy the device is,
is not decided but integrated over, by the marginal likelihood. The noise has heavy tails, so that one disturbed
measurement does not bend the model. Sources: Bishop, Pattern Recognition and Machine Learning, section 3.5, for the
evidence; Lange, Little, Taylor, "Robust statistical modeling using the t distribution" (JASA 1989), for the weights;
Sundararajan, Keerthi, "Predictive approaches for choosing hyperparameters in Gaussian processes" (Neural Computation
2001), for leaving one out in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.core.arch import Floats

_FREEDOM = 4.0  # degrees of freedom of the noise
_NOISES = np.geomspace(1e-6, 0.1, 9)  # variance of relative latency
_ROUNDS = 4  # of reweighting


@dataclass(frozen=True)
class CovariancePart:
    """One part of the covariance of P weights: ``rows_KP``' Gram matrix plus a diagonal, ``variance_P``."""

    rows_KP: Floats
    variance_P: Floats

    def times(self, x_PN: Floats) -> Floats:
        """Its product with N networks, shape (P, N)."""
        return self.rows_KP.T @ (self.rows_KP @ x_PN) + self.variance_P[:, None] * x_PN


@dataclass(frozen=True)
class Prior:
    """Weights of relative latency, the constant last: their mean, and H covariances, each a sum of J ``parts``
    multiplied by a row of ``scales_HJ``."""

    name: str
    mean_P: Floats
    parts: tuple[CovariancePart, ...]
    scales_HJ: Floats

    def covariance(self, x_NP: Floats) -> Floats:
        """Of N networks' relative latencies by the first of the covariances, shape (N, N)."""
        return np.asarray(
            sum(scale * (x_NP @ part.times(x_NP.T)) for scale, part in zip(self.scales_HJ[0], self.parts, strict=True))
        )


@dataclass(frozen=True)
class Adapted:
    """A prior's posterior mean of the weights in ms; by how many ms each of the N networks takes longer than a fit to
    the others predicts; and the log evidence of all measurements, and of all but each."""

    name: str
    weights_P: Floats
    residual_ms_N: Floats
    log_evidence: float
    log_evidence_without_N: Floats


def adapt(prior: Prior, x_NP: Floats, y_N: Floats, weight_N: Floats) -> Adapted:
    """``x_NP``: features of N networks, less their centre, and a one; ``y_N`` their latency in ms."""
    expected_N = x_NP @ prior.mean_P
    unit_ms = float(y_N @ expected_N / max(float(expected_N @ expected_N), 1e-12))
    unit_ms = unit_ms if unit_ms > 0 else float(y_N.mean())
    rest_N = y_N / unit_ms - expected_N
    crossed_JPN = np.array([part.times(x_NP.T) for part in prior.parts])
    grams_HNN = np.tensordot(prior.scales_HJ, x_NP @ crossed_JPN, axes=1)
    inverse_HQNN, log_evidence_HQ = _heavy_tailed(grams_HNN, rest_N, weight_N)
    solved_HQN = inverse_HQNN @ rest_N
    diagonal_HQN = np.einsum("hqnn->hqn", inverse_HQNN)
    p_HQ = _shares(log_evidence_HQ)
    # What is left out has no say in how far and how noisy either.
    without_HQN = log_evidence_HQ[..., None] - 0.5 * (np.log(diagonal_HQN) - solved_HQN**2 / diagonal_HQN)
    residual_N = (_shares(without_HQN) * solved_HQN / diagonal_HQN).sum((0, 1))
    solved_HN = (p_HQ[..., None] * solved_HQN).sum(1)
    step_P = np.einsum("jpn,jn->p", crossed_JPN, prior.scales_HJ.T @ solved_HN)
    n, log_unit = len(y_N), float(np.log(unit_ms))
    return Adapted(
        prior.name,
        (prior.mean_P + step_P) * unit_ms,
        residual_N * unit_ms,
        float(_log_mean(log_evidence_HQ)) - n * log_unit,
        _log_mean(without_HQN) - (n - 1) * log_unit,
    )


def with_one(x_NF: Floats) -> Floats:
    """Features with the constant last, shape (N, F + 1)."""
    return np.hstack([x_NF, np.ones((len(x_NF), 1))])


def _log_mean(log_HQ: Floats) -> Floats:
    """The logarithm of the mean over the first two axes."""
    top = log_HQ.max(axis=(0, 1))
    return np.asarray(top + np.log(np.exp(log_HQ - top).mean(axis=(0, 1))))


def _shares(log_HQ: Floats) -> Floats:
    """Probabilities over the first two axes."""
    p_HQ = np.exp(log_HQ - log_HQ.max(axis=(0, 1)))
    return np.asarray(p_HQ / p_HQ.sum(axis=(0, 1)))


def _heavy_tailed(grams_HNN: Floats, rest_N: Floats, weight_N: Floats) -> tuple[Floats, Floats]:
    """For each prior and each noise, which is lower for a measurement of more weight: the inverse covariance of the
    measurements and the log evidence (its variational bound), where every measurement's precision is a Gamma
    variable, which makes the noise Student's t."""
    from scipy.special import digamma, gammaln  # takes 30 MB, and the server fits nothing

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
