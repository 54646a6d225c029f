"""The predictor card: how good a latency predictor is, on networks that took no part in making it."""

from __future__ import annotations

from typing import Any

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Latency
from nas.core.metrics import coverage, kendall, mape, spearman
from nas.core.ports import LatencyPredictor, SearchSpace


def make_card(
    predictor: LatencyPredictor,
    profile: DeviceProfile,
    space: SearchSpace,
    n: int,
    measured_ms: Floats,
    predicted: Latency,
    error_H: Floats | None = None,
    refused: int = 0,
) -> dict[str, Any]:
    """The fields of ``nas.schemas.predictors.PredictorCardSchema`` that do not name a database row.

    ``n``: networks fitted to; every figure is over ``measured_ms`` (H,) of networks that a fit without them
    ``predicted``, with ``error_H`` their relative standard errors; ``refused`` networks could not be measured."""
    return {
        "profile": profile.id,
        "space": space.id,
        "space_name": space.name,
        "family": predictor.family,
        "protocol": {"id": profile.protocol.id, **vars(profile.protocol)},
        "n": n,
        "calibration": n,
        "held_out": len(measured_ms),
        "mape": mape(measured_ms, predicted.mean_ms),
        "spearman": spearman(measured_ms, predicted.mean_ms),
        "kendall": kendall(measured_ms, predicted.mean_ms),
        "coverage": coverage(measured_ms, predicted.upper_ms),
        "range_ms": [float(measured_ms.min()), float(measured_ms.max())],
        "measured_ms": measured_ms.tolist(),
        "predicted_ms": predicted.mean_ms.tolist(),
        "upper_ms": predicted.upper_ms.tolist(),
        "measured_error": [] if error_H is None else error_H.tolist(),
        "noise": None
        if profile.noise is None
        else {
            "floor": profile.noise.floor,
            "levels": list(profile.noise.levels),
            "undisturbed": profile.noise.undisturbed,
            "refused": refused,
        },
    }
