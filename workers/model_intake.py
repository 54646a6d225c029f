"""Taking in a user's model on a worker: it is read in a process with limits, and its parts are stored as blobs. Where
the spec names data or a device, the model as it came is judged and measured there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.numpy
import torch
from torch import nn

from nas.core.device import DeviceProfile
from nas.core.errors import ExportMismatch, InvalidSpec, MeasurementRefused
from nas.core.events import Event, InputRefused, SearchState, StageFinished, StageStarted, Warned, fold
from nas.core.jobs import IntakePayload
from nas.core.json_types import JsonObject
from nas.core.metrics import share_interval
from nas.core.model_spec import FileSource, ModelSpec, PackageSource, TimmSource, UploadedFile
from nas.core.ports import BlobStore, Measurer
from nas.core.spec import DataSpec
from nas.core.tasks import load_task
from nas.datasets.storage import load_data
from nas.export import to_onnx_for_timing
from nas.models.execution import build
from nas.models.fitting import require_fit
from nas.models.graph import InvalidModel, ModelGraph, UnfinishedReading
from nas.models.intake import report_intake
from nas.models.reading.child import ReadRequest, read_source
from nas.models.reading.model import ReadModel
from nas.models.stored import (
    EVALUATE_STAGE,
    MEASURE_STAGE,
    READ_STAGE,
    ModelSummary,
    ParentLatency,
    ParentQuality,
    StoredModel,
    intake_stages,
)
from nas.training.criterion import Criterion
from nas.training.pipeline import Pipeline

_NETWORK = "parent"  # what agents call the model
_BATCH = 64  # images at once


@dataclass(frozen=True)
class _StageOutcome:
    """What a stage stores, and what the user should know of it."""

    result: JsonObject
    warnings: tuple[str, ...] = field(default=())


def take_in(
    payload: IntakePayload, blobs: BlobStore, state: SearchState, clock: Callable[[], float], measure: Measurer
) -> Iterator[Event]:
    """Yield the events of an intake after ``state``.

    Raises InvalidModel for a model that is refused. Data that it does not fit and a device that cannot measure it are
    warned of, since the model is stored by then. Raises NotMeasuredYet where the device's agent has not measured it.
    """
    stages = intake_stages(payload.spec)
    torch.set_num_threads(payload.spec.resources.cpus)
    for position, stage in enumerate(stages):
        if stage in state.finished:
            continue
        yield StageStarted(stage, position, len(stages))
        started_at = clock()
        try:
            outcome = _run(stage, payload, blobs, state, measure)
        except UnfinishedReading:
            raise
        except InvalidModel as error:
            if isinstance(payload.spec.source, FileSource):  # a package or timm may give another model next time
                yield InputRefused(str(error))
            raise
        for warning in outcome.warnings:
            yield Warned(stage, warning)
        finished = StageFinished(stage, clock() - started_at, outcome.result)
        state = fold(state, finished)
        yield finished


def _run(stage: str, payload: IntakePayload, blobs: BlobStore, state: SearchState, measure: Measurer) -> _StageOutcome:
    if stage == READ_STAGE:
        model = _read(payload.spec, blobs)
        stored = _store(model, blobs)
        _require_every_channel(payload.spec, stored.summary)
        return _StageOutcome(stored.as_json(), model.warnings)
    stored = StoredModel.parse(state.finished[READ_STAGE])
    try:
        if stage == EVALUATE_STAGE:
            assert payload.spec.data is not None
            return _StageOutcome(_judge(stored, payload.spec, payload.spec.data, blobs).as_json())
        assert stage == MEASURE_STAGE
        assert payload.device is not None
        return _StageOutcome(_time(stored, payload.device, blobs, measure).as_json())
    except (InvalidSpec, ExportMismatch, MeasurementRefused) as error:
        return _StageOutcome({}, (f"{stage}: {error}",))


def _read(spec: ModelSpec, blobs: BlobStore) -> ReadModel:
    with tempfile.TemporaryDirectory(prefix="hwnas-intake-") as folder:
        weights = _write(spec.weights, Path(folder) / "weights", blobs) if spec.weights is not None else None
        match spec.source:
            case FileSource():
                request = ReadRequest(file=_write(spec.source, Path(folder) / "model", blobs), weights=weights)
            case PackageSource(entry_point=name):
                request = ReadRequest(package=name, weights=weights)
            case TimmSource(model=name, pretrained=pretrained):
                request = ReadRequest(timm=name, pretrained=pretrained, weights=weights)
        weights_name = spec.weights.filename if spec.weights is not None else ""
        return read_source(request, spec.source.label, weights_name=weights_name)


def _write(file: UploadedFile, path: Path, blobs: BlobStore) -> Path:
    """Write an uploaded file under its own suffix; its path."""
    written = path.with_suffix(file.suffix)
    written.write_bytes(blobs.get(file.blob))
    return written


def _store(model: ReadModel, blobs: BlobStore) -> StoredModel:
    report = report_intake(model.graph)
    return StoredModel(
        graph=blobs.put(model.graph.to_json()),
        weights=blobs.put(safetensors.numpy.save(dict(model.weights))),
        report=blobs.put(report.to_json()),
        summary=ModelSummary.of(report),
        preprocessing=model.preprocessing,
    )


def _require_every_channel(spec: ModelSpec, summary: ModelSummary) -> None:
    """Raises InvalidModel unless mean and standard deviation have a value for each channel of the model's images."""
    if spec.preprocessing is None or summary.input_shape is None:
        return
    channels, values = summary.input_shape[0], len(spec.preprocessing.mean)
    if values != channels:
        raise InvalidModel(
            f"preprocessing: expected mean and std for {channels} channel{'s' * (channels != 1)}, got {values} of each"
        )


def _module(stored: StoredModel, blobs: BlobStore) -> nn.Module:
    graph = ModelGraph.from_json(blobs.get(stored.graph))
    return build(graph, safetensors.numpy.load(blobs.get(stored.weights))).eval()


def _judge(stored: StoredModel, spec: ModelSpec, data: DataSpec, blobs: BlobStore) -> ParentQuality:
    """The quality of the model on the test images of a data set. Raises InvalidSpec if they do not fit."""
    dataset = load_data(data)
    task, shape = load_task(dataset.task), stored.summary.input_shape
    if task.parent_labels:
        raise InvalidSpec(f"the task {task.name!r} compares smaller models with this one: it agrees with itself")
    require_fit(spec.name, stored.summary, dataset.shape, task)
    assert shape is not None
    preprocessing = spec.preprocessing.value if spec.preprocessing is not None else stored.preprocessing
    pipeline = Pipeline(dataset, "cpu", preprocessing, pretrained=True)
    batches = pipeline.plain(dataset.test, shape[1], batch=_BATCH)
    value = Criterion(dataset, "cpu").score(_module(stored, blobs), batches).quality
    images = len(dataset.test)
    interval = share_interval(value, images) if task.objective == "accuracy" else None
    return ParentQuality(task.tested, value, images, interval)


def _time(stored: StoredModel, device: DeviceProfile, blobs: BlobStore, measure: Measurer) -> ParentLatency:
    """The latency of the model on a device. Raises MeasurementRefused if it says nothing."""
    shape = stored.summary.input_shape
    if shape is None or len(shape) != 3:
        raise InvalidSpec("expected a model with one input of shape (images, channels, height, width)")
    onnx = to_onnx_for_timing(_module(stored, blobs), (shape[0], shape[1], shape[2]))
    [measured] = measure([onnx], device, [_NETWORK])
    if measured.median_ms is None or measured.low_ms is None or measured.high_ms is None:
        raise MeasurementRefused(measured.refused or "the measurement says nothing")
    return ParentLatency(device.name, device.id, measured.median_ms, measured.low_ms, measured.high_ms)
