"""Adding a device of which only figures are known: an uploaded table of latencies, or the peak figures of its machine.

Nothing can be measured on such a device, so what is learned from it stays a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

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
from predictors.families.transfer import FEWEST, Table, Transfer
from predictors.onboarding.card import make_card, make_estimated_card
from predictors.onboarding.fitting import HELD_OUT, Fitted, fit_family, fit_transfer
from predictors.onboarding.latency_table import LatencyTable
from predictors.onboarding.measured import fit_result
from predictors.onboarding.results import EnergyFit, FitResult, ProfileResult
from predictors.onboarding.roofline import roofline_ms
from predictors.onboarding.selection import draw_held_out, stratified
from predictors.onboarding.tables import RawTable, check_table
from predictors.storage import DeviceMeasurements, dump_predictor
from predictors.views import network_features

STAGES = ("profile", "fit")

_ENOUGH = round(FEWEST_ALONE / (1 - HELD_OUT)) + 1
_FEW = 10  # networks of a device beside no relatives, of which options are chosen by leaving one out


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
        table = check_table(RawTable.load(blobs.get(spec.table.blob)), space, spec.table.unit, spec.table.networks)
        energy = _fit_energy(spec, table, space)
        if energy is None and ("energy_mj" in table.extras or table.energies_mj):
            yield Warned(
                "fit",
                f"the energies of the table are left out: expected those of this device, of at least {_FEW} networks, "
                "and that they differ",
            )
        result = _learned(spec, table, UploadedTable(spec.table), energy, profile, space, blobs)
        if result.card.choice is not None and result.card.choice.advice:
            yield Warned("fit", result.card.choice.advice)
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
    card = make_card(
        fitted.predictor,
        profile,
        space,
        fitted.n,
        fitted.truth_ms_H,
        fitted.guess,
        table=source,
        energy=None if energy is None else _energy_accuracy(energy),
        choice=fitted.choice,
        as_written=table.as_written,
    )
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
    table = check_table(raw, space, spec.table.unit, spec.table.networks)
    _require_enough(spec, table.latency_ms_DN, _column(spec, table))


def _fit_table(spec: DeviceSpec, table: LatencyTable, space: SearchSpace) -> tuple[Fitted, DeviceMeasurements]:
    index = _column(spec, table)
    own_N = table.latency_ms_DN[index]
    _require_enough(spec, table.latency_ms_DN, index)
    known_N = np.isfinite(own_N)
    genes_NG, y_N = table.genes_NG[known_N], own_N[known_N]
    _require_spread(spec, y_N)
    held_out_N = np.zeros(len(genes_NG), dtype=bool)
    measurements = DeviceMeasurements.of(spec.name, space, genes_NG, y_N, held_out_N, as_written=table.as_written)
    latencies_by_device = {
        name: o for d, (name, o) in enumerate(zip(table.devices, table.latency_ms_DN, strict=True)) if d != index
    }
    return _fit_column(spec, table, space, own_N, latencies_by_device), measurements


def _fit_column(
    spec: DeviceSpec, table: LatencyTable, space: SearchSpace, own_N: Floats, latencies_by_device: Mapping[str, Floats]
) -> Fitted:
    """One column of a table, learned alone where it has enough networks, and otherwise beside those with more."""
    space = measured_space(space, table.as_written)
    known_N = np.isfinite(own_N)
    genes_NG, y_N = table.genes_NG[known_N], own_N[known_N]
    if len(y_N) >= _ENOUGH and spec.predictor != Transfer.family:
        return fit_family(spec.predictor, space, genes_NG, y_N, draw_held_out(spec.seed, len(y_N)))
    tables = [
        Table(network_features(space, table.genes_NG[np.isfinite(o)]), o[np.isfinite(o)], name)
        for name, o in latencies_by_device.items()
        if np.isfinite(o).sum() > len(y_N)
    ]
    return fit_transfer(tables, space, genes_NG, y_N)


def _fit_energy(spec: DeviceSpec, table: LatencyTable, space: SearchSpace) -> Fitted | None:
    """What predicts energy, beside the energies and latencies of all other columns; None where the device has no
    energies, too few of them, or all are the same."""
    own_N = table.energy_of(table.devices[_column(spec, table)])
    if own_N is None or np.isfinite(own_N).sum() < _FEW or np.nanmax(own_N) == np.nanmin(own_N):
        return None
    energies = {f"energy of {name}": mj_N for name, mj_N in table.energies_mj.items() if mj_N is not own_N}
    latencies = dict(zip(table.devices, table.latency_ms_DN, strict=True))
    return _fit_column(spec, table, space, own_N, {**energies, **latencies})


def _energy_accuracy(fitted: Fitted) -> EnergyAccuracy:
    truth, guess = fitted.truth_ms_H, fitted.guess
    return EnergyAccuracy(
        n=fitted.n,
        held_out=len(truth),
        mape=mape(truth, guess.mean_ms),
        spearman=spearman(truth, guess.mean_ms),
        coverage=coverage(truth, guess.upper_ms),
    )


def _column(spec: DeviceSpec, table: LatencyTable) -> int:
    """Which column is the device's own."""
    assert spec.table is not None
    device = spec.table.device or (spec.name if spec.name in table.devices else table.devices[-1])
    if device not in table.devices:
        raise InvalidData(f"the table has no device {device!r}: expected one of {', '.join(table.devices)}")
    return table.devices.index(device)


def _require_enough(spec: DeviceSpec, latency_ms_DN: Floats, index: int) -> None:
    """Raises InvalidData for a column of too few networks."""
    measured_D = np.isfinite(latency_ms_DN).sum(axis=1)
    n, larger = int(measured_D[index]), int((measured_D > max(int(measured_D[index]), FEWEST)).sum())
    if n >= _FEW or (n > FEWEST and larger):
        return
    raise InvalidData(
        f"expected at least {_FEW} networks of the device; or {FEWEST + 1}, and another device in the table that has "
        f"more networks than it. Got {n} networks, and {larger} such devices"
    )
