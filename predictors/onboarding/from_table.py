"""Adding a device of which only figures are known: an uploaded table of latencies, or the peak figures of its machine.

Nothing can be measured on such a device, so what is learned from it stays a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, as_archs
from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.errors import InvalidData
from nas.core.events import Event, SearchState, StageFinished, StageStarted, Warned
from nas.core.metrics import coverage, mape, spearman
from nas.core.ports import BlobStore, SearchSpace
from nas.core.predictor_card import EnergyAccuracy, PeakFigures, UploadedTable
from nas.core.spec import DeviceSpec, RooflineSpec
from predictors.as_written import measured_space
from predictors.families.bayesian_linear import FEWEST as FEWEST_ALONE
from predictors.families.transfer import FEWEST, FEWEST_DEVICES, Relatives, Table, Transfer
from predictors.onboarding.card import make_card, make_estimated_card
from predictors.onboarding.fitting import HELD_OUT, Fitted, fit_family, fit_transfer
from predictors.onboarding.measured import fit_result, stratified
from predictors.onboarding.results import EnergyFit, FitResult, ProfileResult
from predictors.onboarding.roofline import roofline_ms
from predictors.onboarding.tables import LatencyTable, RawTable, check_table
from predictors.storage import DeviceMeasurements, dump_predictor

STAGES = ("profile", "fit")
_ENOUGH = round(FEWEST_ALONE / (1 - HELD_OUT)) + 1


def onboard_from_table(
    spec: DeviceSpec, space: SearchSpace, blobs: BlobStore, state: SearchState, clock: Callable[[], float]
) -> Iterator[Event]:
    """Yields the stages profile and fit. Raises InvalidData for a table that cannot be used."""
    started_s = clock()
    profile = profile_of(spec)
    if "profile" not in state.finished:
        yield StageStarted("profile", 0, 2)
        yield StageFinished("profile", clock() - started_s, ProfileResult(profile).to_json())
    started_s = clock()
    yield StageStarted("fit", 1, 2)
    if spec.roofline is not None:
        result = _estimated(spec, spec.roofline, profile, space, blobs)
    else:
        assert spec.table is not None
        table = check_table(RawTable.load(blobs.get(spec.table.blob)), space, spec.table.unit)
        energy = _fit_energy(spec, table, space) if "energy_mj" in table.extras else None
        if "energy_mj" in table.extras and energy is None:
            yield Warned(
                "fit",
                f"the energies of the table are left out: expected at least {_ENOUGH} networks of a single device, "
                f"whose energies differ, got {len(table.genes_NG)} of {len(table.devices)}",
            )
        result = _learned(spec, table, UploadedTable(spec.table), energy, profile, space, blobs)
    yield StageFinished("fit", clock() - started_s, result.to_json())


def _estimated(
    spec: DeviceSpec, roofline: RooflineSpec, profile: DeviceProfile, space: SearchSpace, blobs: BlobStore
) -> FitResult:
    """The family learns what the roofline says of a sample of networks, so that its bound covers what it misses."""
    genes_NG, held_out_N = stratified(space, spec.samples, spec.seed)
    latency_ms_N = roofline_ms(space, as_archs(space.id, genes_NG), roofline.flops_per_s, roofline.bytes_per_s)
    _require_spread(spec, latency_ms_N)
    predictor = fit_family(spec.predictor, space, genes_NG, latency_ms_N, held_out_N).predictor
    card = make_estimated_card(predictor, profile, space, latency_ms_N, PeakFigures(roofline))
    return fit_result(predictor, card, None, blobs)


def _learned(
    spec: DeviceSpec,
    table: LatencyTable,
    source: UploadedTable,
    energy: Fitted | None,
    profile: DeviceProfile,
    space: SearchSpace,
    blobs: BlobStore,
) -> FitResult:
    """The family learns what the table says of its networks."""
    fitted, measurements = _fit_table(spec, table, space)
    accuracy = None if energy is None else _energy_accuracy(energy)
    checked = (fitted.n, fitted.truth_ms_H, fitted.guess)
    card = make_card(fitted.predictor, profile, space, *checked, table=source, energy=accuracy)
    stored = None
    if energy is not None:
        stored = EnergyFit(energy.predictor.family, blobs.put(dump_predictor(energy.predictor)))
    return fit_result(fitted.predictor, card, measurements, blobs, stored)


def _require_spread(spec: DeviceSpec, latency_ms_N: Floats) -> None:
    """Raises InvalidData for latencies that are all equal."""
    if float(np.ptp(latency_ms_N)) == 0.0:
        raise InvalidData(f"every network takes {latency_ms_N[0]:g} ms on {spec.name!r}: there is nothing to learn")


def profile_of(spec: DeviceSpec) -> DeviceProfile:
    """The profile of a device that is described by figures alone."""
    if spec.roofline is not None:
        peak, bandwidth = spec.roofline.flops_per_s, spec.roofline.bytes_per_s
        processor, runtime, release = f"{peak:.3g} FLOP/s, {bandwidth:.3g} bytes/s", "roofline", "1"
    else:
        assert spec.table is not None
        processor, runtime, release = "an uploaded table", "table", spec.table.blob[:12]
    unknown = MeasurementProtocol(version=0)  # whoever measured did it by a protocol of their own, or nobody did
    return DeviceProfile(spec.name, "", processor, 1, runtime, release, "", protocol=unknown, source=spec.source)


def require_usable(spec: DeviceSpec, raw: RawTable, space: SearchSpace) -> None:
    """Raises InvalidData for a table from which no predictor of the device can be learned."""
    assert spec.table is not None
    _require_enough(spec, *_split(spec, check_table(raw, space, spec.table.unit)))


def _fit_table(spec: DeviceSpec, table: LatencyTable, space: SearchSpace) -> tuple[Fitted, DeviceMeasurements]:
    own, relatives = _split(spec, table)
    _require_enough(spec, own, relatives)
    space = measured_space(space, table.as_written)
    known_N = np.isfinite(own)
    genes_NG, y_N = table.genes_NG[known_N], own[known_N]
    _require_spread(spec, y_N)
    measurements = DeviceMeasurements(genes_NG, y_N, np.zeros(len(genes_NG), dtype=bool), as_written=table.as_written)
    if len(y_N) >= _ENOUGH and spec.predictor != Transfer.family:
        return fit_family(spec.predictor, space, genes_NG, y_N, _held_out(spec, len(y_N))), measurements
    tables = [Table(space.features(table.genes_NG[np.isfinite(o)]), o[np.isfinite(o)]) for o in relatives]
    return fit_transfer(Relatives.learn(tables), space.features(genes_NG), y_N, spec.seed), measurements


def _fit_energy(spec: DeviceSpec, table: LatencyTable, space: SearchSpace) -> Fitted | None:
    """What predicts energy, checked on networks that are held out; None for too few networks, for energies that are all
    the same, or for several devices, of which nobody says whose the energies are."""
    energy_mj_N = table.extras["energy_mj"]
    enough = len(energy_mj_N) >= _ENOUGH and float(np.ptp(energy_mj_N)) > 0
    if not enough or len(table.devices) > 1 or spec.predictor == Transfer.family:
        return None
    space = measured_space(space, table.as_written)
    return fit_family(spec.predictor, space, table.genes_NG, energy_mj_N, _held_out(spec, len(energy_mj_N)))


def _energy_accuracy(fitted: Fitted) -> EnergyAccuracy:
    truth, guess = fitted.truth_ms_H, fitted.guess
    return EnergyAccuracy(
        n=fitted.n,
        held_out=len(truth),
        mape=mape(truth, guess.mean_ms),
        spearman=spearman(truth, guess.mean_ms),
        coverage=coverage(truth, guess.upper_ms),
    )


def _held_out(spec: DeviceSpec, n: int) -> NDArray[np.bool_]:
    held_out_N = np.zeros(n, dtype=bool)
    held_out_N[np.random.default_rng((spec.seed, 7)).choice(n, round(HELD_OUT * n), replace=False)] = True
    return held_out_N


def _split(spec: DeviceSpec, table: LatencyTable) -> tuple[Floats, list[Floats]]:
    """The device's own column, and those of its relatives: the others with more networks, from which can be told how
    far so few lead."""
    assert spec.table is not None
    device = spec.table.device or (spec.name if spec.name in table.devices else table.devices[-1])
    if device not in table.devices:
        raise InvalidData(f"the table has no device {device!r}: expected one of {', '.join(table.devices)}")
    index = table.devices.index(device)
    own = table.latency_ms_DN[index]
    fewest = max(int(np.isfinite(own).sum()), FEWEST) + 1
    other_columns = np.delete(table.latency_ms_DN, index, axis=0)
    return own, [o for o in other_columns if np.isfinite(o).sum() >= fewest]


def _require_enough(spec: DeviceSpec, own_N: Floats, relatives: list[Floats]) -> None:
    n = int(np.isfinite(own_N).sum())
    if (n >= _ENOUGH and spec.predictor != Transfer.family) or (n > FEWEST and len(relatives) >= FEWEST_DEVICES):
        return
    raise InvalidData(
        f"expected at least {_ENOUGH} networks of the device; or {FEWEST + 1}, and {FEWEST_DEVICES} other devices in "
        f"the table that have more networks than it. Got {n} networks, and {len(relatives)} such devices"
    )
