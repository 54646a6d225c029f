"""This machine as a device, added as the product adds one, and how well its predictor knows other networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from nas.core.arch import Arch
from nas.core.device import DeviceProfile, Measurement
from nas.core.events import SearchState, fold
from nas.core.ports import BlobStore, LatencyPredictor, Measurer, SearchSpace, predict_latency
from nas.core.spec import DeviceSpec
from nas.export import to_onnx_for_timing
from predictors.measurement.isolated import measure_isolated
from predictors.onboarding.measured import onboard
from predictors.onboarding.profiling import profile_for
from predictors.onboarding.results import FitResult, ProfileResult
from predictors.storage import load_predictor

Export = Callable[[Arch], bytes]


@dataclass(frozen=True)
class AddedDevice:
    """A device for one space, and the seconds that adding it took."""

    profile: DeviceProfile
    predictor: LatencyPredictor
    fitted: FitResult
    seconds: float


def timing_export(space: SearchSpace) -> Export:
    """Networks of a space in float32, with random weights, on which latency does not depend."""
    net = space.supernet(0).eval()
    return lambda arch: to_onnx_for_timing(net.subnet(arch), space.input_shape(arch))


def add_device(
    spec: DeviceSpec,
    space: SearchSpace,
    blobs: BlobStore,
    export: Export,
    measure: Measurer = measure_isolated,
    profile: Callable[[DeviceSpec], DeviceProfile] = profile_for,
) -> AddedDevice:
    """Measure the networks that a spec asks for and fit its predictor. Raises HwnasError where this machine cannot be
    such a device."""
    state, started_at = SearchState(), time.monotonic()
    for event in onboard(spec, space, export, measure, profile, blobs, state, time.monotonic):
        state = fold(state, event)
    fitted = FitResult.require(state.finished)
    predictor = load_predictor(fitted.family, blobs.get(fitted.blob))
    added_s = time.monotonic() - started_at
    return AddedDevice(ProfileResult.require(state.finished).profile, predictor, fitted, added_s)


def predictor_figures(
    predictor: LatencyPredictor, space: SearchSpace, archs: Sequence[Arch], measured: Sequence[Measurement]
) -> dict[str, Any]:
    """Errors on networks that were measured beside those it was fitted to; refused ones do not count. ``mape`` and
    ``coverage`` of the upper bound are shares."""
    usable = np.array([m.median_ms is not None for m in measured])
    true_ms = np.array([m.median_ms for m in measured if m.median_ms is not None])
    predicted = predict_latency(predictor, space, np.array([a.genes for a in archs])[usable])
    return {
        "measured": int(usable.sum()),
        "mape": float((np.abs(predicted.mean_ms - true_ms) / true_ms).mean()),
        "spearman": float(spearmanr(predicted.mean_ms, true_ms).statistic),
        "coverage": float((true_ms <= predicted.upper_ms).mean()),
    }
