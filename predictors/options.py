"""The options of learning a new device from few measurements: what is expected of it, and how it may deviate.

Expected is a constant, a single cost of networks, or what known devices take: all alike, the more similar ones before
the others, or the most similar one. Deviations lie in a view of the networks (``predictors.views``), and along those of
the known devices from each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nas.core.arch import Floats
from predictors.adaptation import CovariancePart, Prior
from predictors.relatives import Relatives
from predictors.views import LAYERS, FeatureLayout

_LEVEL = 0.1  # prior variance of scale and offset, beyond the plain fit of scale
_LOOSE_LEVEL = 1.0  # the same for a cost, of which latency may hardly depend
_SPREADS = np.geomspace(0.01, 30.0, 7)  # variance of the new device's deviation, over that among the known devices
_SHARES = np.array([0.1, 0.3])  # of it, in directions in which no known device deviates
_VIEW_SPREADS = np.geomspace(1e-3, 1.0, 4)  # variance of relative latency within a view
_SIMILAR = 1.0  # power of the inverse squared errors by which known devices count


def without_relatives(layout: FeatureLayout) -> Iterator[Prior]:
    """The options without known devices."""
    flat_P = np.append(np.zeros_like(layout.centre_F), 1.0)
    for view in layout.views:
        yield _of_view(view, flat_P, _LEVEL, layout, view)
    for cost, column in layout.costs.items():
        mean_P = np.append(np.zeros_like(layout.centre_F), 1.0)
        mean_P[column] = 1.0 / layout.centre_F[column]
        yield Prior(cost, mean_P, (_free(mean_P, _LOOSE_LEVEL),), np.ones((1, 1)))
        if cost in ("macs", LAYERS) and "counts" in layout.views:
            yield _of_view(f"{cost} + counts", mean_P, _LOOSE_LEVEL, layout, "counts")


def beside(relatives: Relatives, layout: FeatureLayout, features_NF: Floats, latency_ms_N: Floats) -> Iterator[Prior]:
    """The options with known devices, of which those that resemble the N measurements count more."""
    devices = len(relatives.tables)
    even_D = np.full(devices, 1.0 / devices)
    choices = {"all known devices": even_D}
    if devices > 1:
        error_D = relatives.errors(features_NF, latency_ms_N)
        similar_D = (error_D.min() / error_D) ** (2 * _SIMILAR)
        choices["similar known devices"] = similar_D / similar_D.sum()
        choices["most similar device"] = np.eye(devices)[error_D.argmin()]
    for name, share_D in choices.items():
        mean_P, of_relatives = _expected(relatives, share_D)
        parts = (of_relatives, _like_known(relatives, of_relatives), _free(mean_P, _LEVEL))
        scales_HJ = np.array([(s, s * share, 1.0) for s in _SPREADS for share in _SHARES])
        yield Prior(name, mean_P, parts, scales_HJ)
        for view in ("choices", "counts"):
            if view in layout.views:
                viewed = (of_relatives, _view(layout, view), _free(mean_P, _LEVEL))
                viewed_HJ = np.array([(s, v, 1.0) for s in (0.1, 1.0, 10.0) for v in _VIEW_SPREADS[:3]])
                yield Prior(f"{name} + {view}", mean_P, viewed, viewed_HJ)


def design_prior(relatives: Relatives) -> Prior:
    """All known devices alike, with the typical scale of each part: what is known before anything is measured."""
    mean_P, of_relatives = _expected(relatives, np.full(len(relatives.tables), 1.0 / len(relatives.tables)))
    parts = (of_relatives, _like_known(relatives, of_relatives), _free(mean_P, _LEVEL))
    return Prior("all known devices", mean_P, parts, np.array([[1.0, float(_SHARES.mean()), 1.0]]))


def _expected(relatives: Relatives, share_D: Floats) -> tuple[Floats, CovariancePart]:
    """The mean over known devices by their shares, and their covariance around it."""
    mean_F = share_D @ relatives.weights_DF
    rows_DF = (relatives.weights_DF - mean_F) / np.sqrt(max(len(share_D) - 1, 1))
    rows_DP = np.hstack([rows_DF, np.zeros((len(share_D), 1))])
    return np.append(mean_F, 1.0), CovariancePart(rows_DP, np.zeros(rows_DP.shape[1]))


def _like_known(relatives: Relatives, of_relatives: CovariancePart) -> CovariancePart:
    """Every weight deviates in proportion to how large it is on known devices; over their networks, as much in all as
    the known devices do."""
    other_F = (relatives.weights_DF**2).mean(0)
    x_NF = relatives.networks_MF - relatives.centre_F
    total = float((other_F * (x_NF**2).sum(0)).sum())
    spread = float(((x_NF @ of_relatives.rows_KP[:, :-1].T) ** 2).sum())
    if spread == 0.0:  # a single known device: as much as a tenth of what it varies itself
        spread = 0.1 * float(((x_NF @ relatives.weights_DF.T) ** 2).sum())
    return _diagonal(other_F * (spread / total if total > 0 else 0.0))


def _of_view(name: str, mean_P: Floats, level: float, layout: FeatureLayout, view: str) -> Prior:
    scales_HJ = np.array([(spread, 1.0) for spread in _VIEW_SPREADS])
    return Prior(name, mean_P, (_view(layout, view), _free(mean_P, level)), scales_HJ)


def _view(layout: FeatureLayout, view: str) -> CovariancePart:
    """Every column of a view deviates alike, in units of its spread; of the total, the variance is 1."""
    variance_F = np.zeros_like(layout.scale_F)
    columns = layout.views[view]
    columns = columns[layout.scale_F[columns] > 0]
    variance_F[columns] = 1.0 / (max(len(columns), 1) * layout.scale_F[columns] ** 2)
    return _diagonal(variance_F)


def _free(mean_P: Floats, level: float) -> CovariancePart:
    """Scale and offset."""
    constant_P = np.zeros_like(mean_P)
    constant_P[-1] = 1.0
    return CovariancePart(np.sqrt(level) * np.stack([mean_P, constant_P]), np.zeros_like(mean_P))


def _diagonal(variance_F: Floats) -> CovariancePart:
    return CovariancePart(np.zeros((1, len(variance_F) + 1)), np.append(variance_F, 0.0))
