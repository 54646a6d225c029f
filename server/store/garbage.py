"""Garbage collection of unreferenced blobs: replaced checkpoints and the files of deleted searches.

A blob may be written before the row that references it, so blobs younger than a grace period stay; storing an existing
blob again restarts that period.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from nas.blobs import BlobInfo
from nas.core.events import Checkpoint, decode
from nas.core.lifecycle import ENDED
from nas.core.ports import BlobStore
from server.store.database import reading
from server.store.json_columns import state_to_json
from server.store.measurements import OPEN
from server.store.models import ArtifactRow, EventRow, Job, MeasurementRow, NamedDataRow, PredictorRow, UserModelRow

GRACE_S = 24 * 3600.0
SPARE_CHECKPOINTS = 3  # of each stage of an unfinished job
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CollectableBlobs(BlobStore, Protocol):
    """A blob store with listing and deletion."""

    def list(self) -> Iterator[BlobInfo]: ...
    def delete(self, sha256: str) -> None: ...


@dataclass(frozen=True)
class CollectionResult:
    """Numbers of referenced and of removed blobs, and the size of the latter."""

    referenced: int
    removed: int
    removed_bytes: int


def collect(
    engine: Engine, blobs: CollectableBlobs, now: float, grace_s: float = GRACE_S, *, dry_run: bool = False
) -> CollectionResult:
    """Remove every blob that no row references and that is older than ``grace_s``. Raises StorageError."""
    old = [blob for blob in blobs.list() if blob.stored_at < now - grace_s]
    with reading(engine) as session:  # after the listing, so that a listed blob that is in use is seen as in use
        used = referenced_blobs(session) | _spare_checkpoints(session)
    unreferenced = [blob for blob in old if blob.sha256 not in used]
    if not dry_run:
        for blob in unreferenced:
            blobs.delete(blob.sha256)
    return CollectionResult(len(used), len(unreferenced), sum(blob.size_bytes for blob in unreferenced))


def referenced_blobs(session: Session) -> set[str]:
    """Return the sha256 of every blob that an artifact, a predictor, a model, a data set, a task or a job names."""
    used = {*session.scalars(select(ArtifactRow.blob)), *session.scalars(select(PredictorRow.blob))}
    used.update(sha256 for sha256 in session.scalars(select(PredictorRow.measurements_blob)) if sha256 is not None)
    used.update(session.scalars(select(MeasurementRow.blob).where(MeasurementRow.status.in_(OPEN))))
    for table in session.scalars(select(Job.spec["table"]).where(Job.kind == "device")):
        used.update(_hashes(table))
    for blobs in session.execute(select(UserModelRow.graph, UserModelRow.weights, UserModelRow.report)):
        used.update(sha256 for sha256 in blobs if sha256 is not None)
    used.update(sha256 for sha256 in session.scalars(select(NamedDataRow.samples)) if sha256 is not None)
    for spec in session.scalars(select(Job.spec).where(Job.kind == "model", Job.status != "succeeded")):
        used.update(_hashes(spec))  # what was uploaded, for another attempt
    for state in session.scalars(select(Job.state)):
        used.update(_hashes(state_to_json(state)))
    return used


def _spare_checkpoints(session: Session) -> set[str]:
    """The blobs of the last checkpoints of unfinished jobs: a stage goes on from an older one if the newest is
    damaged."""
    checkpoints = (EventRow.body["kind"].as_string() == Checkpoint.kind, Job.status.not_in(ENDED))
    query = select(EventRow.job_id, EventRow.body).join(Job, Job.id == EventRow.job_id).where(*checkpoints)
    blobs: dict[tuple[str, str], list[str]] = {}
    for job_id, body in session.execute(query.order_by(EventRow.job_id, EventRow.seq)):
        checkpoint = decode(body)
        assert isinstance(checkpoint, Checkpoint)
        blobs.setdefault((job_id, checkpoint.stage), []).append(checkpoint.blob)
    return {blob for of_stage in blobs.values() for blob in of_stage[-SPARE_CHECKPOINTS:]}


def _hashes(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _SHA256.fullmatch(value):
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _hashes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _hashes(part)
