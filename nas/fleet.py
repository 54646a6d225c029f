"""Latency over several devices: what a search is steered by where it has a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.device import Latency
from nas.core.ports import LatencyPredictor
from nas.core.spec import SearchSpec


@dataclass(frozen=True)
class FleetPredictor:
    """Predicts the latency on the slowest of several devices. ``bounds_ms``: what latency is a share of, by device;
    empty where it is not."""

    predictors: Mapping[str, LatencyPredictor]
    bounds_ms: Mapping[str, float]
    family: str = "fleet"

    @classmethod
    def of(cls, spec: SearchSpec, predictors: Mapping[str, LatencyPredictor]) -> FleetPredictor:
        """That of a search, given the predictors of its devices."""
        return cls(predictors, cls.bounds_of(spec))

    @staticmethod
    def bounds_of(spec: SearchSpec) -> dict[str, float]:
        """What latency is a share of in a search."""
        bounds = {name: spec.bound_on(name) for name in spec.devices} if spec.by_share else {}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    def by_device(self, features_NF: Floats) -> dict[str, Latency]:
        """The latency of N networks on each device."""
        return {name: predictor.predict(features_NF) for name, predictor in self.predictors.items()}

    def predict(self, features_NF: Floats) -> Latency:
        """The latency of N networks on the slowest device."""
        metrics = self.metrics(self.by_device(features_NF))
        return Latency(metrics["predicted_ms"], metrics["upper_ms"])

    def metrics(self, latency: Mapping[str, Latency]) -> dict[str, Floats]:
        """Metrics of N networks over the fleet, each shape (N,); shares in % of the bounds, if there are any."""
        mean_ms_DN = np.stack([latency[name].mean_ms for name in self.predictors])
        upper_ms_DN = np.stack([latency[name].upper_ms for name in self.predictors])
        out = {"predicted_ms": mean_ms_DN.max(axis=0), "upper_ms": upper_ms_DN.max(axis=0)}
        if self.bounds_ms:
            bounds_ms_D1 = np.array([[self.bounds_ms[name]] for name in self.predictors])
            out["predicted_share"] = 100.0 * (mean_ms_DN / bounds_ms_D1).max(axis=0)
            out["upper_share"] = 100.0 * (upper_ms_DN / bounds_ms_D1).max(axis=0)
        return out

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It is made anew for every search and has nothing to keep."""
        return {}


def latency_metrics(predictor: LatencyPredictor, features_NF: Floats) -> dict[str, Floats]:
    """Latency metrics of N networks, each shape (N,): ``predicted_ms`` and ``upper_ms``, and shares over a fleet with
    bounds."""
    if isinstance(predictor, FleetPredictor):
        return predictor.metrics(predictor.by_device(features_NF))
    latency = predictor.predict(features_NF)
    return {"predicted_ms": latency.mean_ms, "upper_ms": latency.upper_ms}
