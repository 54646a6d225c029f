"""Taking in a user's model on a worker: its file is read in a process with limits, its parts are stored as blobs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.numpy

from nas.core.events import Event, SearchState, StageFinished, StageStarted
from nas.core.jobs import IntakePayload
from nas.core.model_spec import FileSource
from nas.core.ports import BlobStore
from nas.models.intake import report_intake
from nas.models.reading.child import read_model
from nas.models.reading.model import ReadModel
from nas.models.stored import READ_STAGE, ModelSummary, StoredModel


def take_in(
    payload: IntakePayload, blobs: BlobStore, state: SearchState, clock: Callable[[], float]
) -> Iterator[Event]:
    """Yield the events of an intake after ``state``. Raises InvalidModel for a file that is refused."""
    if READ_STAGE not in state.finished:
        yield StageStarted(READ_STAGE, 0, 1)
        started_at = clock()
        stored = _store(_read_file(payload.spec.source, blobs), blobs)
        yield StageFinished(READ_STAGE, clock() - started_at, stored.as_json())


def _read_file(source: FileSource, blobs: BlobStore) -> ReadModel:
    with tempfile.TemporaryDirectory(prefix="hwnas-intake-") as folder:
        path = Path(folder) / f"model{source.suffix}"
        path.write_bytes(blobs.get(source.blob))
        return read_model(path, name=source.filename)


def _store(model: ReadModel, blobs: BlobStore) -> StoredModel:
    report = report_intake(model.graph)
    return StoredModel(
        graph=blobs.put(model.graph.to_json()),
        weights=blobs.put(safetensors.numpy.save(dict(model.weights))),
        report=blobs.put(report.to_json()),
        summary=ModelSummary.of(report),
    )
