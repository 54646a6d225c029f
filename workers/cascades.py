"""Making a cascade of the exported models of a search on a worker, where it is measured, too."""

from __future__ import annotations

import time
from collections.abc import Iterator

from nas.cascade_package import Clock, make_cascade, require_comparable
from nas.core.cascade_spec import CASCADE_STAGE, StoredCascade
from nas.core.events import Event, SearchState, StageFinished, StageStarted
from nas.core.jobs import CascadePayload
from nas.core.model_package import ModelPackage
from nas.core.ports import BlobStore
from nas.datasets.storage import load_data


def cascade_events(
    payload: CascadePayload, blobs: BlobStore, state: SearchState, worker: str, clock: Clock = time.perf_counter
) -> Iterator[Event]:
    """Yield the events of a cascade after ``state``. Raises as ``require_comparable`` and ``make_cascade``."""
    if CASCADE_STAGE in state.finished:
        return
    yield StageStarted(CASCADE_STAGE, 0, 1)
    started_s, spec = clock(), payload.spec
    packages = [ModelPackage.unzip(blobs.get(blob), f"model {blob[:12]}") for blob in payload.packages]
    dataset = require_comparable(packages, load_data)
    archive, report = make_cascade(
        packages,
        dataset,
        within=spec.within,
        expected_ms=spec.expected_ms,
        p95_ms=spec.p95_ms,
        most_members=spec.members,
        clock=clock,
    )
    stored = StoredCascade(report, worker, blobs.put(archive), len(archive))
    yield StageFinished(CASCADE_STAGE, clock() - started_s, stored.as_json())
