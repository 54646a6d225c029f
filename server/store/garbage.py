"""Blobs that nobody points at: checkpoints that a later one replaced, and what deleted searches left.

A blob may be written before the row that points at it, so young ones stay; a ``put`` of a blob that is there makes it
young again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from nas.core.ports import BlobStore
from server.store.database import reading
from server.store.measurements import OPEN
from server.store.models import ArtifactRow, Job, MeasurementRow, PredictorRow

GRACE_S = 24 * 3600.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CollectableBlobs(BlobStore, Protocol):
    """A blob store that can say what it has and forget it."""

    def list(self) -> Iterator[tuple[str, int, float]]: ...
    def delete(self, sha256: str) -> None: ...


@dataclass(frozen=True)
class Collected:
    """What a collection found: blobs kept and removed, and the bytes of the latter."""

    kept: int
    removed: int
    removed_bytes: int


def collect(
    engine: Engine, blobs: CollectableBlobs, now: float, grace_s: float = GRACE_S, *, dry_run: bool = False
) -> Collected:
    """Removes every blob that no row points at and that is older than ``grace_s``. Raises StorageError."""
    old = [(sha256, size) for sha256, size, at in blobs.list() if at < now - grace_s]
    with reading(engine) as session:  # after the list: a blob that is listed and in use is found in use
        used = referenced(session)
    surplus = [(sha256, size) for sha256, size in old if sha256 not in used]
    if not dry_run:
        for sha256, _ in surplus:
            blobs.delete(sha256)
    return Collected(len(used), len(surplus), sum(size for _, size in surplus))


def referenced(session: Session) -> set[str]:
    """Every blob that a row points at: artifacts, predictors, and whatever a job's state names."""
    used = {*session.scalars(select(ArtifactRow.blob)), *session.scalars(select(PredictorRow.blob))}
    used.update(sha256 for sha256 in session.scalars(select(PredictorRow.known)) if sha256 is not None)
    used.update(session.scalars(select(MeasurementRow.blob).where(MeasurementRow.status.in_(OPEN))))
    for table in session.scalars(select(Job.spec["table"]).where(Job.kind == "device")):
        used.update(_hashes(table))
    for state in session.scalars(select(Job.state)):
        used.update(_hashes(state))
    return used


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
