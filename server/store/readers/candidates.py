"""Candidates of searches, and the files exported for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.candidates import ORIGINS, STATUSES, CandidateTable, Rows
from nas.core.errors import NotFound, UnknownName
from nas.core.fronts import Front, FrontContext
from nas.core.metrics import METRICS
from nas.core.spec import SearchSpec
from nas.schemas.candidates import ArtifactSchema, CandidatePage, CandidateSchema
from nas.stages.fronts import front_context
from server.store.cursors import read_cursor, write_cursor
from server.store.database import reading
from server.store.fronts import context_of_metrics, member_keys, tested_candidates
from server.store.mapping import artifact_schema, candidate_schema, reference_names
from server.store.models import ALL_DEVICES, ArtifactRow, FrontRow, Job, PointRow
from server.store.projections import point_of
from server.store.readers.base import Reader, require_job, roofline_devices


class CandidateReader(Reader):
    """Reads the candidates of searches."""

    def evaluated(self, search_id: str) -> tuple[SearchSpec, CandidateTable, FrontContext]:
        """The spec of a search, its candidates and the context of its fronts. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            return SearchSpec.model_validate(job.spec), *self._table_and_context(session, job)

    def deciding(
        self, search_id: str, objectives: Sequence[str] | None, device: str | None
    ) -> tuple[SearchSpec, CandidateTable, FrontContext]:
        """As ``evaluated``, with the candidates alone that can be on a front over ``objectives`` (None: those of the
        search) on a ``device`` of the search: once members are judged on test images, the few that were tested. Raises
        NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            spec = SearchSpec.model_validate(job.spec)
            view = _stored_view(spec, device)
            row = session.get(FrontRow, (job.id, view))
            names = objectives or [o.name for o in spec.objectives]
            if row is None or not row.final or spec.task.objective not in names:
                return spec, *self._table_and_context(session, job)
            placed = sorted(tested_candidates(session, job.id, spec.task.tested), key=lambda tested: tested.position)
            context = front_context(job.state.finished)
            own_context = context_of_metrics(context, view, final=row.final, measured=row.measured)
            return spec, CandidateTable.of([tested.candidate for tested in placed]), own_context

    def front(self, search_id: str, device: str | None = None) -> tuple[SearchSpec, Front]:
        """The spec of a search and its front, or that of one ``device`` of its fleet, from the stored members. Raises
        NotFound, or UnknownName for another device."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            spec = SearchSpec.model_validate(job.spec)
            if device is not None and device not in spec.devices:
                raise UnknownName("device of the search", device, spec.devices)
            return spec, self._front_cache.front(session, job, spec, _stored_view(spec, device))

    def candidates(
        self,
        search_id: str,
        origin: str | None,
        status: str | None,
        order: str | None,
        limit: int,
        cursor: str | None,
        device: str | None = None,
    ) -> CandidatePage:
        """A page of candidates in the order of a metric or of ``position``, the order of first evaluation; None: the
        best estimates of the task's quality first.

        ``-`` in front of ``order`` means descending; candidates without the metric come last. ``device``: with the
        latencies of this device of the fleet. Raises NotFound, UnknownName or InvalidInput.
        """
        spec, table, _ = self.evaluated(search_id)
        order = order or f"{'-' if spec.task.maximised else ''}{spec.task.estimated}"
        name, descending = order.removeprefix("-"), order.startswith("-")
        if name != "position" and name not in METRICS:
            raise UnknownName("order", name, ["position", *METRICS])
        if device is not None and device not in spec.devices:
            raise UnknownName("device of the search", device, spec.devices)
        views = spec.views if device is None or spec.fleet is None else (device,)
        if spec.fleet is not None and device is not None and len(table):
            table = table.on(device)
        selected_N = np.ones(len(table), dtype=bool)
        if origin is not None:
            selected_N &= table.origin_N == ORIGINS.index(origin)
        if status is not None:
            selected_N &= table.status_N == STATUSES.index(status)
        rows = np.flatnonzero(selected_N)
        value = rows + 1.0 if name == "position" else table.metric(name)[rows]
        value = -value if descending else value
        order_of_rows = value.argsort(kind="stable")  # those without a value last, ties by position
        rows, value = rows[order_of_rows], value[order_of_rows]
        start = 0
        if cursor is not None:
            last, position = read_cursor(cursor, float | int | None, int)
            start = _count_up_to(rows, value, None if last is None else -last if descending else last, position)
        page = rows[start : start + limit].tolist()
        next_cursor = None
        if start + limit < len(rows):
            final = float(value[start + limit - 1])
            next_cursor = write_cursor(None if math.isnan(final) else -final if descending else final, page[-1] + 1)
        with reading(self._engine) as session:
            virtual = roofline_devices(session, spec.devices)
            on_front = member_keys(session, search_id, views)
            names = reference_names(require_job(session, search_id, "search").state.finished)
        candidates = [table.candidate(row) for row in page]
        items = [candidate_schema(c, c.key in on_front, virtual, device, names) for c in candidates]
        return CandidatePage(items=items, total=len(rows), next=next_cursor)

    def candidate(self, search_id: str, arch: str, origin: str) -> CandidateSchema:
        """One candidate. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            row = session.get(PointRow, (search_id, origin, arch))
            if row is None:
                raise NotFound(f"search {search_id} has no network {arch!r} of origin {origin!r}")
            candidate, spec = point_of(row), SearchSpec.model_validate(job.spec)
            on_front = member_keys(session, search_id, spec.views)
            virtual, names = roofline_devices(session, spec.devices), reference_names(job.state.finished)
            return candidate_schema(candidate, candidate.key in on_front, virtual, names=names, with_layers=True)

    def references(self, search_id: str, device: str | None = None) -> list[CandidateSchema]:
        """The networks that the front of a search is compared with, as one ``device`` of its fleet has them. Raises
        NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            spec, names = SearchSpec.model_validate(job.spec), reference_names(job.state.finished)
            virtual = roofline_devices(session, spec.devices)
            of_search = (PointRow.job_id == search_id, PointRow.origin == "reference")
            few = session.scalars(select(PointRow).where(*of_search)).all()  # in order, SQLite would look at every row
            candidates = [point_of(row) for row in sorted(few, key=lambda row: row.position)]
        if spec.fleet is not None and device in spec.devices:
            candidates = [c.on(device) for c in candidates]
        return [candidate_schema(c, False, virtual, device, names) for c in candidates]

    def class_recall(self, search_id: str, arch: str) -> dict[str, float | None]:
        """The share of each class's test images that a network recognises, in %; empty before it was tested. Raises
        NotFound."""
        with reading(self._engine) as session:
            state = require_job(session, search_id, "search").state
        recall = state.class_recall.get(arch, ())
        names = state.data.class_names if state.data is not None else ()
        return dict(zip(names or map(str, range(len(recall))), recall, strict=False))

    def artifacts(self, search_id: str, arch: str | None = None) -> list[ArtifactSchema]:
        """The files of a search, or of one of its candidates, in the order of their export. Raises NotFound."""
        query = select(ArtifactRow).where(ArtifactRow.job_id == search_id).order_by(ArtifactRow.seq)
        if arch is not None:
            query = query.where(ArtifactRow.arch_id == arch)
        with reading(self._engine) as session:
            require_job(session, search_id, "search")
            return [artifact_schema(row) for row in session.scalars(query)]

    def artifact(self, search_id: str, arch: str, name: str) -> ArtifactSchema:
        """One file of a candidate. Raises NotFound, with the names of its files."""
        artifacts = self.artifacts(search_id, arch)
        for artifact in artifacts:
            if artifact.name == name:
                return artifact
        names = ", ".join(sorted(artifact.name for artifact in artifacts)) or "none"
        raise NotFound(f"network {arch!r} of search {search_id} has no file {name!r}; its files: {names}")

    def _table_and_context(self, session: Session, job: Job) -> tuple[CandidateTable, FrontContext]:
        return self._candidate_cache.table(session, job), front_context(job.state.finished)


def _stored_view(spec: SearchSpec, device: str | None) -> str:
    """The device under which the front of a search, or of one device of its fleet, is stored."""
    return (device or spec.views[0] or ALL_DEVICES) if spec.fleet is not None else ALL_DEVICES


def _count_up_to(rows: Rows, value: NDArray[np.floating[Any]], last: float | None, position: int) -> int:
    """The number of ordered rows before or at (``last``, ``position``); None is last in the order."""
    missing = np.isnan(value)
    smaller = ~missing if last is None else value < last
    tied = missing if last is None else value == last
    before = smaller | (tied & (rows < position))
    return int(np.count_nonzero(before))
