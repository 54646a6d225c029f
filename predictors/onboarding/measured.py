"""Adding a device: profile the machine, measure a stratified sample of subnets, learn and check a predictor."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Arch, Genes, as_archs
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import InvalidInput, MeasurementRefused
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, StageStarted, Warned
from nas.core.layers import Layer
from nas.core.ports import BlobStore, LatencyPredictor, Measurer, SearchSpace
from nas.core.predictor_card import PredictorCard
from nas.core.spec import DeviceSpec
from nas.core.unsupported import ExcludedChoice
from nas.spaces.restricted import restricted
from predictors.families.bayesian_linear import FEWEST as FEWEST_ALONE
from predictors.families.layer_lut import LayerLut, LayerLutModel, every_layer, layer_key, table_of, to_measure
from predictors.families.transfer import FEWEST as FEWEST_DEVICE
from predictors.layer_times import MeasuredWork
from predictors.measurement.judging import AGAIN, FLOOR_WEIGHT, student_quantile
from predictors.onboarding.card import make_card
from predictors.onboarding.fitting import HELD_OUT, fit_family, fit_transfer
from predictors.onboarding.knowledge import Knowledge, informative, knowledge
from predictors.onboarding.results import EnergyFit, FitResult, MeasureResult, ProfileResult
from predictors.onboarding.selection import POOL, stratified, stratified_and_informative
from predictors.onboarding.time_limit import out_of_time, unmeasured
from predictors.onboarding.trial import OperatorTrial, is_worth_trying, try_operators
from predictors.storage import DeviceMeasurements, dump_predictor, load_measurements

GROUP = 16
_ENOUGH = round(FEWEST_ALONE / (1 - HELD_OUT)) + 1


def onboard(
    spec: DeviceSpec,
    space: SearchSpace,
    export_onnx: Callable[[Arch], bytes],
    measure: Measurer,
    profile_machine: Callable[[DeviceSpec], DeviceProfile],
    blobs: BlobStore,
    state: SearchState,
    clock: Callable[[], float],
    relatives: Sequence[str] = (),
    export_layer: Callable[[Layer | None], bytes] | None = None,
    is_out_of_time: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Yields the stages profile, measure and fit; goes on from ``state``. Networks once measured are kept in a
    checkpoint and never measured again.

    ``relatives`` are blobs of measurements (``predictors.storage.DeviceMeasurements``), of other devices and of this
    one in other spaces, where the device is learned from them: a handful of networks will do then, and they are chosen
    to be informative. ``export_layer`` gives the model of a single layer, or of none, for a predictor that composes
    them: all layers of the space are then measured before the networks. From when it ``is_out_of_time`` on, nothing
    more is measured on this machine, and the predictor is fitted to what was.

    Raises UnknownName for the family, MeasurementRefused if fewer networks could be measured than it needs, and
    NotMeasuredYet as ``measure`` does.
    """
    kin = None
    profiled = ProfileResult.read(state.finished)
    if profiled is not None and profiled.networks is None:
        profiled = None  # an earlier version did not store which networks it chose
    if profiled is not None and profiled.relatives is not None:
        relatives = profiled.relatives  # those by which networks were chosen
    if spec.beside_relatives:
        kin = knowledge(space, [load_measurements(blobs.get(blob)) for blob in relatives], spec.samples)
        if not kin:
            raise InvalidInput(
                f"expected known devices with more than {spec.samples} networks, or this one in another space"
            )
    else:
        registry.load_family(spec.predictor)  # raises for an unknown one before anything is measured
    layers = every_layer(space) if spec.predictor == LayerLutModel.family else {}
    single = to_measure(layers) if layers else []
    if profiled is None:
        trying = partial(try_operators, space, export_onnx=export_onnx, measure=measure, seed=spec.seed)
        profiled = yield from _profile(spec, space, kin, profile_machine, trying, relatives, blobs, clock)
    assert profiled.networks is not None
    genes, held_out = _load_networks(blobs.get(profiled.networks))
    profile, excluded = profiled.profile, profiled.excluded
    space = restricted(space, excluded)

    measurements: list[Measurement] = []
    last = state.checkpoints.get("measure")
    if last is not None:
        measurements = [Measurement.from_json(m) for m in json.loads(blobs.get(last.blob))]
    started_s = clock()
    fewest = FEWEST_DEVICE if kin is not None else _ENOUGH
    earlier = MeasureResult.read(state.finished)
    if earlier is None or earlier.measured < fewest:
        yield StageStarted("measure", 1, 3)
        models: list[tuple[str, Callable[[], bytes]]] = [
            *_layer_models(layers, export_layer),
            *((a.id, partial(export_onnx, a)) for a in as_archs(space.id, genes)),
        ]
        attempt = 1 if earlier is None else earlier.attempts + 1
        unit = "models" if layers else "networks"
        limited = (out_of_time(spec), is_out_of_time)
        yield from _measure(models, unit, measurements, measure, profile, blobs, limited, attempt)
        refused = [m.refused for m in measurements[len(single) :] if m.refused is not None]
        yield from _left_out(refused, len(genes), out_of_time(spec))
        counts = MeasureResult(len(genes) - len(refused), len(refused), len(single) if layers else None, attempt)
        yield StageFinished("measure", clock() - started_s, counts.to_json())

    started_s = clock()
    yield StageStarted("fit", 2, 3)
    family = _layer_lut(spec.name, layers, measurements[: len(single)]) if layers else spec.predictor
    of_networks = measurements[len(single) :]
    _require_enough(spec.name, of_networks, fewest)
    work = _single_work(single, measurements)
    usable, refused_count = _usable_measurements(spec.name, space, genes, held_out, of_networks, work)
    if kin is not None:
        fitted = fit_transfer(kin.tables, space, usable.genes_NG, usable.latency_ms_N, usable.error_N, kin.layers)
    else:
        fitted = fit_family(family, space, usable.genes_NG, usable.latency_ms_N, usable.held_out_N, usable.error_N)
    checked = (fitted.n, fitted.truth_ms_H, fitted.guess, fitted.error_H)
    card = make_card(fitted.predictor, profile, space, *checked, refused_count, excluded=excluded, choice=fitted.choice)
    if fitted.choice is not None and fitted.choice.advice:
        yield Warned("fit", fitted.choice.advice)
    yield StageFinished("fit", clock() - started_s, fit_result(fitted.predictor, card, usable, blobs).to_json())


def _profile(
    spec: DeviceSpec,
    space: SearchSpace,
    kin: Knowledge | None,
    profile_machine: Callable[[DeviceSpec], DeviceProfile],
    trying: Callable[[DeviceProfile], OperatorTrial],
    relatives: Sequence[str],
    blobs: BlobStore,
    clock: Callable[[], float],
) -> Generator[Event, None, ProfileResult]:
    """The stage that profiles the machine, tries the operators of the space on it, and chooses the networks."""
    started_s = clock()
    yield StageStarted("profile", 0, 3)
    profile = profile_machine(spec)
    excluded: tuple[ExcludedChoice, ...] = ()
    if is_worth_trying(profile):
        yield Progress("profile", 0, 1, "machines", message="trying the operators of the space")
        trial = trying(profile)
        yield from _trial_warnings(spec, trial, space)
        excluded = trial.excluded if spec.unsupported == "exclude" else ()
    space = restricted(space, excluded)
    if kin is not None:
        genes = informative(space, kin, stratified(space, max(spec.samples, POOL), spec.seed)[0], spec.samples)
        held_out = np.zeros(len(genes), dtype=bool)
    else:
        genes, held_out = stratified_and_informative(space, spec.samples, spec.seed)
    networks = blobs.put(json.dumps({"genes": genes.tolist(), "held_out": held_out.tolist()}).encode())
    yield Progress("profile", 1, 1, "machines", message=expectation(profile, len(genes)))
    if (advice := how_to_do_better(profile)) is not None:
        yield Warned("profile", advice)
    result = ProfileResult(profile, tuple(relatives), networks, excluded)
    yield StageFinished("profile", clock() - started_s, result.to_json())
    return result


def _trial_warnings(spec: DeviceSpec, trial: OperatorTrial, space: SearchSpace) -> Iterator[Event]:
    """What the device does not run, and what becomes of it."""
    if trial.nothing_runs is not None:
        yield Warned(
            "profile",
            f"no network of the space runs on {spec.name} alone, so none will be verified: {trial.nothing_runs}",
        )
    outcome = "left out of searches" if spec.unsupported == "exclude" else "measured as the runtime runs it"
    choices = {decision.name: decision.choices for decision in space.decisions}
    for e in trial.excluded:
        yield Warned("profile", f"{e.decision} = {choices[e.decision][e.choice]} is {outcome}: {e.reason}")


def _measure(
    models: Sequence[tuple[str, Callable[[], bytes]]],
    unit: str,
    measurements: list[Measurement],
    measure: Measurer,
    profile: DeviceProfile,
    blobs: BlobStore,
    limited: tuple[str, Callable[[], bool]],
    attempt: int = 1,
) -> Iterator[Event]:
    """Measure the models that follow those of ``measurements``, to which theirs are appended; then once more those that
    were refused, when the machine may be quieter. ``attempt`` counts the runs of the stage: a later one keeps what was
    measured and measures again what was refused. ``limited``: why and when measuring ends before that."""
    reason, is_out_of_time = limited
    group = GROUP if profile.source == "worker" else len(models)  # a device elsewhere is asked for all at once
    for i in range(len(measurements), len(models), group):
        if is_out_of_time():
            measurements += [unmeasured(profile, reason)] * (len(models) - i)
            yield _checkpoint(measurements, blobs)
            return
        exported = []
        for _, export in models[i : i + group]:
            exported.append(export())
            yield Progress("measure", len(measurements), len(models), unit, message="exporting")
        for measurement in measure(exported, profile, [name for name, _ in models[i : i + group]]):
            measurements.append(replace(measurement, layers=()))
            yield Progress("measure", len(measurements), len(models), unit, message="measuring")
        yield _checkpoint(measurements, blobs)
    refused = [i for i, m in enumerate(measurements) if m.refused not in (None, reason)]
    if refused and not is_out_of_time():
        yield Progress("measure", len(measurements), len(models), unit, message="measuring again what was refused")
        exported = [models[i][1]() for i in refused]
        names = [models[i][0] + AGAIN.format("") * attempt for i in refused]
        for i, measurement in zip(refused, measure(exported, profile, names), strict=True):
            measurements[i] = replace(measurement, layers=())
        yield _checkpoint(measurements, blobs)


def _left_out(refused: Sequence[str], networks: int, out_of_time: str) -> Iterator[Event]:
    """What is said of the networks that could not be measured, and of those for which there was no time."""
    others = [reason for reason in refused if reason != out_of_time]
    for reasons in ([out_of_time] * (len(refused) - len(others)), others):
        if reasons:
            yield Warned("measure", f"{len(reasons)} of {networks} networks were left out: {reasons[0]}")


def _checkpoint(measurements: Sequence[Measurement], blobs: BlobStore) -> Checkpoint:
    blob = blobs.put(json.dumps([m.as_json() for m in measurements]).encode())
    return Checkpoint("measure", len(measurements), blob)


def _single_work(single: Sequence[Layer | None], measurements: Sequence[Measurement]) -> MeasuredWork | None:
    """The work of the layers that were measured one by one; None if there were none."""
    rows = [([] if layer is None else [layer], m.median_ms) for layer, m in zip(single, measurements, strict=False)]
    latency_ms = [ms for _, ms in rows if ms is not None]
    if not latency_ms:
        return None
    return MeasuredWork.of_layers([layers for layers, ms in rows if ms is not None], np.array(latency_ms))


def _usable_measurements(
    device: str,
    space: SearchSpace,
    genes_NG: Genes,
    held_out_N: NDArray[np.bool_],
    measurements: Sequence[Measurement],
    layers: MeasuredWork | None,
) -> tuple[DeviceMeasurements, int]:
    """What was measured, and how many networks were refused."""
    usable_N = np.array([m.median_ms is not None for m in measurements])
    latency_ms = [m.median_ms for m in measurements if m.median_ms is not None]
    errors = [m.standard_error for m in measurements if m.standard_error is not None]
    genes_NG, held_out_N = genes_NG[usable_N], held_out_N[usable_N]
    usable = DeviceMeasurements.of(
        device, space, genes_NG, np.array(latency_ms), held_out_N, np.array(errors), layers=layers
    )
    return usable, int((~usable_N).sum())


def _layer_models(
    layers: Mapping[str, Layer], export_layer: Callable[[Layer | None], bytes] | None
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What is measured of single layers: a name that stays the same, and how to make the model."""
    if not layers:
        return
    if export_layer is None:
        raise InvalidInput("expected a way to make the models of single layers, which this predictor measures")
    for layer in to_measure(layers):
        key = "empty" if layer is None else layer_key(layer)
        yield f"layer-{hashlib.sha256(key.encode()).hexdigest()[:12]}", partial(export_layer, layer)


def _layer_lut(device: str, layers: Mapping[str, Layer], measured: Sequence[Measurement]) -> LayerLut:
    """Raises MeasurementRefused where a layer could not be measured: it is never taken to cost nothing."""
    refused = [m.refused for m in measured if m.median_ms is None]
    if refused:
        raise MeasurementRefused(
            f"{len(refused)} of {len(measured)} single layers could not be measured on {device} "
            f"(for example: {refused[0]}). Stop other work on the machine, or choose another predictor"
        )
    return table_of(layers, [m.median_ms for m in measured if m.median_ms is not None])


def _load_networks(blob: bytes) -> tuple[Genes, NDArray[np.bool_]]:
    """Genes of the networks to measure, and which are held out."""
    record = json.loads(blob)
    return np.array(record["genes"], dtype=np.int64), np.array(record["held_out"], dtype=bool)


def fit_result(
    predictor: LatencyPredictor,
    card: PredictorCard,
    measurements: DeviceMeasurements | None,
    blobs: BlobStore,
    energy: EnergyFit | None = None,
) -> FitResult:
    """The result of the stage fit. ``measurements``: those of the device, from which others may be learned."""
    return FitResult(
        card=card,
        blob=blobs.put(dump_predictor(predictor)),
        space_id=card.space,
        family=predictor.family,
        profile=card.profile,
        measurements_blob=None if measurements is None else blobs.put(measurements.dump()),
        networks=0 if measurements is None else len(measurements.genes_NG),
        energy=energy,
    )


def _require_enough(name: str, measurements: Sequence[Measurement], fewest: int) -> None:
    """Raises MeasurementRefused if fewer networks were measured than a predictor needs."""
    refused = [m.refused for m in measurements if m.refused is not None]
    measured = len(measurements) - len(refused)
    if refused and measured < fewest:
        raise MeasurementRefused(
            f"expected at least {fewest} measured networks on {name}, got {measured} of {len(measurements)}; "
            f"the others say nothing (for example: {refused[0]})"
        )


def expectation(profile: DeviceProfile, networks: int) -> str:
    """What to expect of measuring so many networks on a machine, in a sentence for people."""
    noise, protocol = profile.noise, profile.protocol
    if noise is None:
        return f"measuring {networks} networks"
    sittings = protocol.sittings
    error = math.hypot(noise.floor / math.sqrt(sittings), protocol.session_error)
    half = 100 * student_quantile(FLOOR_WEIGHT + sittings - 1) * error
    shortest_s = networks * protocol.shortest_ms / 1e3
    load = "" if noise.load is None else f", load {noise.load:.1f}"
    return (
        f"{profile.cores} {'core' if profile.cores == 1 else 'cores'}{load}; undisturbed {noise.undisturbed:.0%} of "
        f"the time; noise floor {100 * noise.floor:.1f} %: expect intervals of about ±{half:.1f} %, "
        f"and at least {shortest_s:.0f} s for {networks} networks"
    )


def how_to_do_better(profile: DeviceProfile) -> str | None:
    """Advice for a machine that is disturbed most of the time or very noisy; None where there is nothing to gain."""
    noise = profile.noise
    if noise is None or (noise.undisturbed >= 0.5 and noise.floor <= 0.02):
        return None
    return (
        f"{profile.name} is undisturbed {noise.undisturbed:.0%} of the time, with a noise floor of "
        f"{100 * noise.floor:.1f} %: measuring takes longer, and intervals are wider. Stop other programs, keep a core "
        "free of them, or use a machine without neighbours for narrower ones"
    )
