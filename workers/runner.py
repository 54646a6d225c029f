"""What a worker does with a claimed job: resolve what the spec names, run it, hand out its events in batches.

A worker holds no database credentials: everything it needs came with the lease, and blobs come from the blob store.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch

from nas.blobs import open_blobs
from nas.core import registry
from nas.core.arch import Arch
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import InvalidSpec, NotMeasuredYet, UnknownName
from nas.core.events import (
    Event,
    MeasurementsWanted,
    SearchState,
    StageStarted,
    candidate_from_json,
    decode,
    encode,
    fold_all,
)
from nas.core.layers import Layer
from nas.core.ports import (
    BlobStore,
    Dataset,
    JobKind,
    LatencyPredictor,
    Measurer,
    ParallelRunner,
    Problem,
    Resources,
    SearchSpace,
    Stage,
    TargetDevice,
)
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, SearchSpec, SpaceSpec, parse_spec
from nas.core.tuning import Tuner
from nas.energy import energy_aware
from nas.engine import estimate_search_cost, run_search, stages_of
from nas.export import to_onnx_for_timing
from nas.fleet import FleetPredictor
from nas.spaces.layer_onnx import empty_to_onnx, layer_to_onnx
from predictors.families.transfer import Table, Transfer
from predictors.measurement.onnx_runtime import measure_isolated, profile_machine
from predictors.onboarding.from_table import onboard_from_table
from predictors.onboarding.measured import onboard
from predictors.onboarding.refit import RefitService, can_learn, merge_measurements
from predictors.storage import load_known, load_measured, load_predictor
from workers.remote import RemoteMeasurer

Batch = list[dict[str, Any]]


def run_job(
    kind: JobKind, job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[Batch]:
    """Goes on from ``events`` and yields batches of encoded events; ``job`` is ``Lease.spec``.

    Raises the error of what cannot be run as HwnasError.
    """
    blobs = open_blobs(blobs_url)
    state = fold_all(decode(e) for e in events)
    if kind == "search":
        stream = _search(job, blobs, state)
    elif kind == "dry_run":
        stream = _dry_run(job, blobs, state)
    elif kind == "device":
        stream = _device(job, blobs, state)
    else:
        raise UnknownName("kind of job", kind, get_args(JobKind))
    stage = state.stage or ""
    try:
        for event in stream:
            stage = event.stage if isinstance(event, StageStarted) else stage
            yield [encode(event)]
    except NotMeasuredYet as elsewhere:
        yield [encode(MeasurementsWanted(stage, e.profile, e.networks)) for e in (elsewhere, *elsewhere.others)]


def _search(job: Mapping[str, Any], blobs: BlobStore, state: SearchState) -> Iterator[Event]:
    problem, stages, resources = _resolved(job, blobs)
    yield from run_search(problem, stages, resources, state)


def _dry_run(job: Mapping[str, Any], blobs: BlobStore, state: SearchState) -> Iterator[Event]:
    problem, stages, resources = _resolved(job, blobs)
    yield from estimate_search_cost(problem, stages, resources, state)


def _resolved(job: Mapping[str, Any], blobs: BlobStore) -> tuple[Problem, Sequence[Stage], Resources]:
    spec = parse_spec(SearchSpec, job["spec"])
    resolved = job["resolved"]
    torch.set_num_threads(spec.resources.cpus)
    data, space = _load(spec.space, spec.data)
    if (energy := resolved.get("energy")) is not None:
        space = energy_aware(space, load_predictor(energy["family"], blobs.get(energy["blob"])))
    fleet = tuple(_member(record, blobs) for record in resolved["fleet"])
    first = fleet[0] if fleet else _member({"name": spec.device, **resolved}, blobs)
    predictor = FleetPredictor.of(spec, {m.name: m.predictor for m in fleet}) if fleet else first.predictor
    problem = Problem(
        spec=spec,
        space=space,
        data=data,
        profile=first.profile,
        predictor=predictor,
        supernet_blob=resolved["supernet"],
        inherited=tuple(candidate_from_json(p) for p in resolved["inherited"]),
        fleet=fleet,
    )
    resources = Resources(
        blobs=blobs,
        measure=_measurer(resolved, blobs),
        clock=time.monotonic,
        torch_device=_torch_device(spec.resources.gpus),
        versions={
            "python": platform.python_version(),
            **{p: version(p) for p in ("hwnas", "torch", "onnx", "onnxruntime", "numpy")},
        },
        worker=platform.node(),
        tuner=_tuner(spec),
        refit=_refits(predictor, space, first.profile, resolved.get("learning"), blobs, spec.budget),
        run_parallel=_together(spec),
    )
    return problem, stages_of(problem), resources


def _device(job: Mapping[str, Any], blobs: BlobStore, state: SearchState) -> Iterator[Event]:
    spec = parse_spec(DeviceSpec, job["spec"])
    torch.set_num_threads(1)
    shape = registry.load("nas.datasets", spec.data.name).describe(spec.data)
    space: SearchSpace = registry.load("nas.search_spaces", spec.space.name)(spec.space.params, shape)
    if spec.source in ("table", "roofline"):
        yield from onboard_from_table(spec, space, blobs, state, time.monotonic)
        return
    net = space.supernet(spec.seed).eval()

    def export(arch: Arch) -> bytes:
        return to_onnx_for_timing(net.subnet(arch), space.input_shape(arch))

    kin = job["resolved"].get("relatives", ())
    if spec.source == "worker":
        here = (measure_isolated, profile_machine, blobs, state, time.monotonic, kin, _layer_model)
        yield from onboard(spec, space, export, *here)
        return
    profile = DeviceProfile.from_json(job["resolved"]["profile"])
    measure = RemoteMeasurer(job["resolved"]["measurements"], blobs)

    def export_unless_known(arch: Arch) -> bytes:
        return b"" if measure.knows(arch.id, profile) else export(arch)

    there = (measure, lambda *_: profile, blobs, state, time.monotonic, kin, _layer_model)
    yield from onboard(spec, space, export_unless_known, *there)


def _layer_model(layer: Layer | None) -> bytes:
    return empty_to_onnx() if layer is None else layer_to_onnx(layer)


def _member(record: Mapping[str, Any], blobs: BlobStore) -> TargetDevice:
    predictor = record["predictor"]
    loaded = load_predictor(predictor["family"], blobs.get(predictor["blob"]))
    return TargetDevice(record["name"], DeviceProfile.from_json(record["profile"]), loaded)


def _measurer(resolved: Mapping[str, Any], blobs: BlobStore) -> Measurer:
    """By the agent of the device, where it has one, or here."""
    remote = RemoteMeasurer(resolved["measurements"], blobs)

    def measure(
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str],
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Measurement]:
        return (remote if profile.source == "agent" else measure_isolated)(models, profile, networks, promised_ms)

    return measure


def _load(space: SpaceSpec, data: DataSpec) -> tuple[Dataset, SearchSpace]:
    loaded: Dataset = registry.load("nas.datasets", data.name)(data, data.seed)
    return loaded, registry.load("nas.search_spaces", space.name)(space.params, loaded.shape)


def _refits(
    predictor: LatencyPredictor,
    space: SearchSpace,
    profile: DeviceProfile,
    learning: Mapping[str, Any] | None,
    blobs: BlobStore,
    budget: BudgetSpec,
) -> RefitService | None:
    """How the predictor learns, from all that was ever measured alike on the device; None where too little is known."""
    if learning is None:
        return None
    known = load_known(blobs.get(learning["known"]))
    if learning["genes"]:
        genes_MG, latency_ms_M = np.array(learning["genes"], dtype=np.int64), np.array(learning["latency_ms"])
        known = merge_measurements(known, space, genes_MG, latency_ms_M)
    kin = []
    if predictor.family == Transfer.family:
        tables = (load_measured(blobs.get(blob)) for blob in learning["relatives"])
        kin = [Table(space.features(genes), ms) for genes, ms in tables]
    n = len(known.genes_NG)
    most = n + 2 * budget.verified * (1 + budget.reexplore)
    return RefitService(predictor, known, space, profile, blobs, kin) if can_learn(predictor, n, most, kin) else None


def _tuner(spec: SearchSpec) -> Tuner | None:
    if spec.retrain is None:
        return None
    from workers.tune import ray_tuner  # imports Ray Tune, which takes seconds

    return ray_tuner(spec.resources.cpus, spec.resources.gpus)


def _together(spec: SearchSpec) -> ParallelRunner:
    def together(
        stages: Sequence[Stage], problem: Problem, resources: Resources, state: SearchState
    ) -> Iterator[Event]:
        from workers.parts import ray_together  # imports Ray, which most jobs have no use for here

        yield from ray_together(spec.resources.cpus, spec.resources.gpus)(stages, problem, resources, state)

    return together


def _torch_device(gpus: int) -> str:
    if gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise InvalidSpec(f"expected {gpus} CUDA devices on the worker, got none")
    return "cuda:0"
