"""Latency over several devices: what a search is steered by where it has a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.ports import LatencyPredictor, SearchSpace, predict_latency
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

    def by_device(self, space: SearchSpace, genes_NG: Genes) -> dict[str, Latency]:
        """The latency of N networks on each device."""
        return {name: predict_latency(predictor, space, genes_NG) for name, predictor in self.predictors.items()}

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks: mean and upper bound on each device in ms, shape (N, 2 D)."""
        latencies = self.by_device(space, genes_NG).values()
        return np.stack([column for latency in latencies for column in (latency.mean_ms, latency.upper_ms)], axis=1)

    def predict(self, latency_ms_NF: Floats) -> Latency:
        """The latency of N networks on the slowest device."""
        return Latency(latency_ms_NF[:, 0::2].max(axis=1), latency_ms_NF[:, 1::2].max(axis=1))

    def extrapolations(self, space: SearchSpace, genes_NG: Genes) -> NDArray[np.bool_] | None:
        """Which of N networks lie outside the domain of any device's predictor, shape (N,); None if none has one."""
        flags = [p.extrapolations(space, genes_NG) for p in self.predictors.values()]
        known = [flags_N for flags_N in flags if flags_N is not None]
        return np.any(known, axis=0) if known else None

    def metrics(self, latency_ms_NF: Floats) -> dict[str, Floats]:
        """Latency metrics of N networks, each shape (N,); shares in % of the bounds, if there are any."""
        slowest = self.predict(latency_ms_NF)
        out = {"predicted_ms": slowest.mean_ms, "upper_ms": slowest.upper_ms}
        if self.bounds_ms:
            bounds_ms_F = np.repeat([self.bounds_ms[name] for name in self.predictors], 2)
            worst = self.predict(100.0 * latency_ms_NF / bounds_ms_F)
            out |= {"predicted_share": worst.mean_ms, "upper_share": worst.upper_ms}
        return out

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It is made anew for every search and has nothing to keep."""
        return {}


def latency_metrics(predictor: LatencyPredictor, space: SearchSpace, genes_NG: Genes) -> dict[str, Floats]:
    """Latency metrics of N networks, each shape (N,): ``predicted_ms`` and ``upper_ms``, and shares over a fleet with
    bounds."""
    if isinstance(predictor, FleetPredictor):
        return predictor.metrics(predictor.inputs(space, genes_NG))
    latency = predict_latency(predictor, space, genes_NG)
    return {"predicted_ms": latency.mean_ms, "upper_ms": latency.upper_ms}
