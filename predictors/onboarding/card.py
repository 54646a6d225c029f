"""Making the card of a predictor (``nas.core.predictor_card``)."""

from __future__ import annotations

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Latency
from nas.core.metrics import coverage, kendall, kendall_interval, mape, spearman
from nas.core.ports import LatencyPredictor, SearchSpace
from nas.core.predictor_card import (
    CardNoise,
    EnergyAccuracy,
    PeakFigures,
    PredictorCard,
    TransferChoice,
    UploadedTable,
    protocol_fields,
)
from nas.core.unsupported import ExcludedChoice


def make_card(
    predictor: LatencyPredictor,
    profile: DeviceProfile,
    space: SearchSpace,
    n: int,
    measured_ms: Floats,
    predicted: Latency,
    error_H: Floats | None = None,
    refused: int = 0,
    table: UploadedTable | None = None,
    energy: EnergyAccuracy | None = None,
    excluded: tuple[ExcludedChoice, ...] = (),
    choice: TransferChoice | None = None,
    as_written: bool = False,
) -> PredictorCard:
    """The card of a predictor fitted to ``n`` networks.

    Every figure is over ``measured_ms`` (H,) of networks that a fit without them ``predicted``, with ``error_H`` their
    relative standard errors; ``refused`` networks could not be measured. ``table``: where the latencies were uploaded;
    ``energy``: of the predictor of its energies; ``excluded``: choices of the space that the device does not run.
    ``choice``: by what it was learned from few networks. ``as_written``: these were measured with their inactive parts.
    """
    noise = profile.noise
    return PredictorCard(
        profile=profile.id,
        space=space.id,
        space_name=space.name,
        family=predictor.family,
        protocol=protocol_fields(profile) if table is None else table,
        n=n,
        calibration=n,
        held_out=len(measured_ms),
        mape=mape(measured_ms, predicted.mean_ms),
        spearman=spearman(measured_ms, predicted.mean_ms),
        kendall=kendall(measured_ms, predicted.mean_ms),
        kendall_interval=kendall_interval(measured_ms, predicted.mean_ms),
        coverage=coverage(measured_ms, predicted.upper_ms),
        range_ms=(float(measured_ms.min()), float(measured_ms.max())),
        measured_ms=tuple(measured_ms.tolist()),
        predicted_ms=tuple(predicted.mean_ms.tolist()),
        upper_ms=tuple(predicted.upper_ms.tolist()),
        measured_error=() if error_H is None else tuple(error_H.tolist()),
        noise=None if noise is None else CardNoise(noise.floor, noise.levels, noise.undisturbed, refused),
        energy=energy,
        excluded=excluded,
        choice=choice,
        as_written=as_written,
    )


def make_estimated_card(
    predictor: LatencyPredictor,
    profile: DeviceProfile,
    space: SearchSpace,
    estimated_ms: Floats,
    source: PeakFigures,
) -> PredictorCard:
    """The card of a predictor fitted to latencies that were computed for N networks, ``estimated_ms`` (N,): it has no
    figures, since nothing was measured."""
    return PredictorCard(
        profile=profile.id,
        space=space.id,
        space_name=space.name,
        family=predictor.family,
        protocol=source,
        n=len(estimated_ms),
        calibration=len(estimated_ms),
        range_ms=(float(estimated_ms.min()), float(estimated_ms.max())),
        kind="estimated",
    )
