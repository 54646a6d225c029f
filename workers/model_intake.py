"""Taking in a user's model on a worker: its file is read in a process with limits, its parts are stored as blobs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.numpy

from nas.core.events import Event, SearchState, StageFinished, StageStarted, Warned
from nas.core.jobs import IntakePayload
from nas.core.model_spec import FileSource, ModelSpec, PackageSource, TimmSource, UploadedFile
from nas.core.ports import BlobStore
from nas.models.intake import report_intake
from nas.models.reading.child import ReadRequest, read_source
from nas.models.reading.model import ReadModel
from nas.models.stored import READ_STAGE, ModelSummary, StoredModel


def take_in(
    payload: IntakePayload, blobs: BlobStore, state: SearchState, clock: Callable[[], float]
) -> Iterator[Event]:
    """Yield the events of an intake after ``state``. Raises InvalidModel for a file that is refused."""
    if READ_STAGE not in state.finished:
        yield StageStarted(READ_STAGE, 0, 1)
        started_at = clock()
        model = _read(payload.spec, blobs)
        for warning in model.warnings:
            yield Warned(READ_STAGE, warning)
        stored = _store(model, blobs)
        yield StageFinished(READ_STAGE, clock() - started_at, stored.as_json())


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
        return read_source(request, spec.source.label)


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
