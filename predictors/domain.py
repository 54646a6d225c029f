"""Where the predictions of a latency predictor hold: the applicability domain of the networks that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats

_RIDGE = 0.1  # of the variance of a standardised feature, in the measure of distance
_VANISHING = 1e-10  # share of the largest squared spread, up to which networks do not differ along an axis
_MARGIN = 2.0  # beyond the farthest network that was measured, seen from the others


@dataclass(frozen=True)
class ApplicabilityDomain:
    """Where networks were measured: their principal axes in standardised features, which distances are weighed by.

    ``beyond`` is the weight of a squared distance along no axis; ``limit`` the largest distance inside the domain."""

    centre_F: Floats
    scale_F: Floats
    axes_RF: Floats
    inverse_R: Floats
    beyond: float
    limit: float

    @classmethod
    def of(cls, features_NF: Floats) -> ApplicabilityDomain:
        """The domain of N networks. The limit is from the farthest of them, seen from the others."""
        centre_F, scale_F = features_NF.mean(0), features_NF.std(0)
        scale_F = np.where(scale_F > 1e-12 * np.abs(centre_F), scale_F, 0.0)
        z_NF = _standardised(features_NF, centre_F, scale_F)
        if len(z_NF) > z_NF.shape[1]:
            squares_R, axes_FR = np.linalg.eigh(z_NF.T @ z_NF)  # many times faster than a decomposition of the rows
            squares_R, axes_RF = np.maximum(squares_R, 0.0), axes_FR.T
        else:
            squares_R, turn_NR = np.linalg.eigh(z_NF @ z_NF.T)
            spread_R = squares_R > _VANISHING * squares_R.max(initial=0.0)
            squares_R = squares_R[spread_R]
            axes_RF = (turn_NR[:, spread_R] / np.sqrt(squares_R)).T @ z_NF
        ridge = _RIDGE * len(z_NF)
        domain = cls(centre_F, scale_F, axes_RF, 1.0 / (squares_R + ridge), 1.0 / ridge, 0.0)
        far_N = domain.distance(features_NF)
        limit = _MARGIN * float((far_N / np.maximum(1.0 - far_N, 1e-9)).max())
        return cls(centre_F, scale_F, axes_RF, domain.inverse_R, domain.beyond, limit)

    def distance(self, features_NF: Floats) -> Floats:
        """Squared distance of N networks from the centre, in units of how far the measured ones spread."""
        z_NF = _standardised(features_NF, self.centre_F, self.scale_F)
        along_NR = z_NF @ self.axes_RF.T
        beyond_N = np.maximum((z_NF**2).sum(1) - (along_NR**2).sum(1), 0.0)
        return np.asarray((along_NR**2) @ self.inverse_R + beyond_N * self.beyond)

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
            "domain_scalars": np.array([self.beyond, self.limit]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ApplicabilityDomain | None:
        """Inverse of ``to_arrays``; None for a predictor that was stored before there were domains."""
        if "domain_scalars" not in arrays:
            return None
        beyond, limit = (float(v) for v in arrays["domain_scalars"])
        centre_F, scale_F, axes_RF, inverse_R = (
            np.asarray(arrays[f"domain_{k}"], dtype=np.float64) for k in ("centre_F", "scale_F", "axes_RF", "inverse_R")
        )
        return cls(centre_F, scale_F, axes_RF, inverse_R, beyond, limit)


def _standardised(features_NF: Floats, centre_F: Floats, scale_F: Floats) -> Floats:
    return np.asarray((features_NF - centre_F) * np.where(scale_F > 0, 1.0 / np.where(scale_F > 0, scale_F, 1.0), 0.0))
