"""Run a claimed job on a worker: load the plug-ins that the spec names, run the engine, yield encoded events.

A worker has no database credentials: its payload comes with the lease, and blobs come from the blob store.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.metadata import version
from typing import assert_never

import numpy as np
import torch

from nas.blobs import open_blobs
from nas.core import registry
from nas.core.arch import Arch
from nas.core.device import DeviceProfile, Measurement, NotMeasuredYet
from nas.core.errors import InvalidSpec
from nas.core.events import (
    EncodedEvent,
    Event,
    MeasurementsWanted,
    Progress,
    SearchState,
    StageFinished,
    StageStarted,
    decode,
    encode,
    fold_all,
)
from nas.core.jobs import (
    AgentResults,
    CascadePayload,
    DevicePayload,
    DryRunPayload,
    IntakePayload,
    JobPayload,
    OnboardingPayload,
    PredictorBlob,
    RefitData,
    SearchPayload,
)
from nas.core.layers import Layer
from nas.core.parent import ParentModel
from nas.core.ports import (
    BlobStore,
    DataParallelRunner,
    Dataset,
    ImageShape,
    LatencyPredictor,
    Measurer,
    ParallelRunner,
    Problem,
    Resources,
    SearchSpace,
    Stage,
    TargetDevice,
    TeacherModel,
)
from nas.core.spec import BudgetSpec, SearchSpec
from nas.core.tuning import Tuner
from nas.core.unsupported import ExcludedChoice
from nas.datasets.prepared.prepare import WriteShards
from nas.datasets.storage import Preparation, loading
from nas.energy import energy_aware
from nas.engine import estimate_search_cost, run_search, stages_of
from nas.export import converted_for_timing, to_onnx_for_timing
from nas.fleet import FleetPredictor
from nas.mixed_precision import in_precision_of, int8_mask
from nas.models.stored import load_parent
from nas.spaces.layer_onnx import empty_to_onnx, layer_to_onnx
from nas.spaces.restricted import networks_of, restricted
from predictors.families.transfer import Transfer
from predictors.measurement.isolated import measure_isolated
from predictors.onboarding.from_table import onboard_from_table
from predictors.onboarding.knowledge import NO_KNOWLEDGE, knowledge
from predictors.onboarding.measured import onboard
from predictors.onboarding.profiling import profile_for
from predictors.onboarding.refit import RefitService, can_learn, merge_measurements
from predictors.onboarding.time_limit import out_of_time
from predictors.storage import load_measurements, load_predictor
from workers.attempt import EventBatch
from workers.cascades import cascade_events
from workers.checkpoints import without_damaged_checkpoints
from workers.model_intake import take_in
from workers.remote import RemoteMeasurer

PREPARE_STAGE = "prepare data"


def run_job(payload: JobPayload, blobs_url: str, events: Sequence[EncodedEvent]) -> Iterator[EventBatch]:
    """Continue a job after ``events`` and yield batches of encoded events. Raises HwnasError if the job cannot be
    run."""
    blobs = open_blobs(blobs_url)
    log = without_damaged_checkpoints([decode(e) for e in events], blobs)
    if log.warnings:
        yield [encode(warning) for warning in log.warnings]
    state = fold_all([*log.events, *log.warnings])
    stage = state.stage or ""
    try:
        for event in _events(payload, blobs, state):
            stage = event.stage if isinstance(event, StageStarted) else stage
            yield [encode(event)]
    except NotMeasuredYet as missing:
        yield [encode(MeasurementsWanted(stage, e.profile, e.networks)) for e in (missing, *missing.further_devices)]


def _events(payload: JobPayload, blobs: BlobStore, state: SearchState) -> Iterator[Event]:
    match payload:
        case SearchPayload():
            return _run(run_search, payload, blobs, state)
        case DryRunPayload(search):
            return _run(estimate_search_cost, search, blobs, state)
        case OnboardingPayload():
            return _onboard(payload, blobs, state)
        case IntakePayload():
            return take_in(payload, blobs, state, time.monotonic, _measurer(payload.measurements, blobs))
        case CascadePayload():
            return cascade_events(payload, blobs, state, platform.node())
        case _:
            assert_never(payload)


_Engine = Callable[[Problem, Sequence[Stage], Resources, SearchState], Iterator[Event]]


def _run(engine: _Engine, payload: SearchPayload, blobs: BlobStore, state: SearchState) -> Iterator[Event]:
    data = yield from _prepared(payload.spec)
    yield from engine(*_load_search(payload, blobs, data), state)


def _prepared(spec: SearchSpec) -> Generator[Event, None, Dataset]:
    """Prepare the data of a search where they are large, with progress; returns the data set."""
    cpus, started_at = spec.resources.cpus, time.monotonic()
    steps = loading(spec.data, Preparation(write=_shard_writer(cpus), threads=cpus))
    has_begun = False
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            dataset: Dataset = end.value
            break
        if not has_begun:
            yield StageStarted(PREPARE_STAGE, 0, 1)
            has_begun = True
        yield Progress(PREPARE_STAGE, step.records, step.total, "images", message="preparing the data")
    if has_begun:
        yield StageFinished(PREPARE_STAGE, time.monotonic() - started_at)
    return dataset


def _shard_writer(cpus: int) -> WriteShards:
    from workers.preparing import shard_writer  # importing Ray takes a second

    return shard_writer(cpus)


def _load_search(payload: SearchPayload, blobs: BlobStore, data: Dataset) -> tuple[Problem, Sequence[Stage], Resources]:
    spec = payload.spec
    torch.set_num_threads(spec.resources.cpus)
    space = registry.build_space(spec.space, data.shape, _parent(payload, blobs))
    space = in_precision_of(space, spec.precision)
    if payload.energy is not None:
        space = energy_aware(space, _load_predictor(payload.energy, blobs))
    excluded = tuple(dict.fromkeys(e for device in payload.devices for e in device.excluded))
    space = restricted(space, excluded)
    members = tuple(_load_device(device, blobs) for device in payload.devices)
    fleet = members if spec.fleet is not None else ()
    first = members[0]
    predictor = FleetPredictor.of(spec, {m.name: m.predictor for m in fleet}) if fleet else first.predictor
    problem = Problem(
        spec=spec,
        space=space,
        data=data,
        profile=first.profile,
        predictor=predictor,
        supernet_blob=payload.supernet_blob,
        supernet_data=payload.supernet_data,
        inherited=networks_of(space, payload.inherited),
        fleet=fleet,
        teacher=_teacher(payload, data.shape, blobs),
        search_id=payload.search_id,
    )
    resources = Resources(
        blobs=blobs,
        measure=_measurer(payload.measurements, blobs),
        clock=time.monotonic,
        torch_device=_torch_device(spec.resources.gpus),
        versions={
            "python": platform.python_version(),
            **{p: version(p) for p in ("hwnas", "torch", "onnx", "onnxruntime", "numpy")},
        },
        worker=platform.node(),
        tuner=_tuner(spec),
        refit=_refits(predictor, space, first.profile, payload.refit, blobs, spec.budget, excluded),
        run_parallel=_parallel_runner(spec),
        run_on_ranks=_data_parallel_runner(spec),
        is_out_of_time=_time_limit(spec.resources.max_hours, payload.busy_seconds),
    )
    return problem, stages_of(problem), resources


def _onboard(payload: OnboardingPayload, blobs: BlobStore, state: SearchState) -> Iterator[Event]:
    spec = payload.spec
    torch.set_num_threads(1)
    shape = registry.load_dataset(spec.data.name).describe(spec.data)
    space = registry.build_space(spec.space, shape, _parent(payload, blobs))
    if spec.source in ("table", "roofline"):
        yield from onboard_from_table(spec, space, blobs, state, time.monotonic)
        return
    precision = spec.precision if payload.profile is None else payload.profile.protocol.precision
    space = in_precision_of(space, precision)
    net = space.supernet(spec.seed).eval()
    is_out_of_time = _time_limit(spec.max_hours, payload.busy_seconds)

    def export(arch: Arch) -> bytes:
        shape = space.input_shape(arch)
        model = to_onnx_for_timing(net.subnet(arch), shape)
        return converted_for_timing(model, precision, shape, int8_mask(space, arch, precision))

    relatives = payload.relative_blobs
    profile = payload.profile
    if profile is None:
        local = (measure_isolated, profile_for, blobs, state, time.monotonic, relatives, _layer_model)
        yield from onboard(spec, space, export, *local, is_out_of_time=is_out_of_time)
        return
    reason = out_of_time(spec) if is_out_of_time() else None
    measure = RemoteMeasurer(payload.measurements, blobs, reason)

    def export_if_missing(arch: Arch) -> bytes:
        return b"" if reason is not None or measure.has_result(arch.id, profile) else export(arch)

    remote = (measure, lambda *_: profile, blobs, state, time.monotonic, relatives, _layer_model)
    yield from onboard(spec, space, export_if_missing, *remote)


def _layer_model(layer: Layer | None) -> bytes:
    return empty_to_onnx() if layer is None else layer_to_onnx(layer)


def _load_device(device: DevicePayload, blobs: BlobStore) -> TargetDevice:
    return TargetDevice(device.name, device.profile, _load_predictor(device.predictor, blobs))


def _load_predictor(predictor: PredictorBlob, blobs: BlobStore) -> LatencyPredictor:
    return load_predictor(predictor.family, blobs.get(predictor.blob))


def _measurer(results: AgentResults, blobs: BlobStore) -> Measurer:
    """Measure by the agent of the device if it has one, else on this machine."""
    remote = RemoteMeasurer(results, blobs)

    def measure(
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str],
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Measurement]:
        return (remote if profile.source == "agent" else measure_isolated)(models, profile, networks, promised_ms)

    return measure


def _parent(payload: SearchPayload | OnboardingPayload, blobs: BlobStore) -> ParentModel | None:
    return load_parent(payload.parent, blobs) if payload.parent is not None else None


def _teacher(payload: SearchPayload, shape: ImageShape, blobs: BlobStore) -> TeacherModel | None:
    teacher = payload.teacher
    if teacher is None:
        return None
    parent = load_parent(teacher.parent, blobs) if teacher.parent is not None else None
    space = in_precision_of(registry.build_space(teacher.space, shape, parent), teacher.precision)
    return TeacherModel(teacher.search, teacher.network, space, teacher.package)


def _refits(
    predictor: LatencyPredictor,
    space: SearchSpace,
    profile: DeviceProfile,
    data: RefitData | None,
    blobs: BlobStore,
    budget: BudgetSpec,
    excluded: tuple[ExcludedChoice, ...] = (),
) -> RefitService | None:
    """Refit the predictor with all comparable measurements of the device; None if there are too few of them."""
    if data is None:
        return None
    measured = load_measurements(blobs.get(data.measurements_blob))
    if data.genes:
        genes_NG, latency_ms_N = np.array(data.genes, dtype=np.int64), np.array(data.latency_ms)
        measured = merge_measurements(measured, space, genes_NG, latency_ms_N)
    n, kin = len(measured.genes_NG), NO_KNOWLEDGE
    if predictor.family == Transfer.family:
        kin = knowledge(space, [load_measurements(blobs.get(blob)) for blob in data.relative_blobs], n)
    maximum = n + 2 * budget.verified * (1 + budget.reexplore)
    if not can_learn(predictor, n, maximum, kin):
        return None
    return RefitService(predictor, measured, space, profile, blobs, kin, excluded)


def _time_limit(max_hours: float | None, busy_seconds: float) -> Callable[[], bool]:
    """Whether a job that has run for ``busy_seconds`` before has used up its hours by now."""
    deadline = math.inf if max_hours is None else time.monotonic() + 3600 * max_hours - busy_seconds
    return lambda: time.monotonic() >= deadline


def _tuner(spec: SearchSpec) -> Tuner | None:
    if spec.retrain is None:
        return None
    from workers.tune import ray_tuner  # importing Ray Tune takes seconds

    return ray_tuner(spec.resources.cpus, spec.resources.gpus)


def _parallel_runner(spec: SearchSpec) -> ParallelRunner:
    def run_parallel(
        stages: Sequence[Stage], problem: Problem, resources: Resources, state: SearchState
    ) -> Iterator[Event]:
        from workers.parallel_stages import ray_parallel_runner  # imports Ray, which most jobs do not use here

        yield from ray_parallel_runner(spec.resources.cpus, spec.resources.gpus)(stages, problem, resources, state)

    return run_parallel


def _data_parallel_runner(spec: SearchSpec) -> DataParallelRunner | None:
    resources = spec.resources
    if resources.training_ranks == 1:
        return None
    from workers.data_parallel import ray_data_parallel  # importing Ray Train takes seconds

    return ray_data_parallel(resources.training_ranks, resources.cpus, resources.gpus)


def _torch_device(gpus: int) -> str:
    if gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise InvalidSpec(f"expected {gpus} CUDA devices on the worker, got none")
    return "cuda:0"
