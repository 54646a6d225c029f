"""Searches, their summaries and their event logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.errors import NotFound
from nas.core.events import HypervolumeAt, SearchState
from nas.core.lifecycle import ENDED, JobStatus
from nas.core.spec import SearchSpec
from nas.core.spoken_names import ids_named
from nas.schemas.jobs import EventPage, EventSchema
from nas.schemas.searches import FleetMemberSchema, SearchPage, SearchSchema
from server.store.cursors import utc
from server.store.database import reading
from server.store.mapping import job_schema
from server.store.models import ALL_DEVICES, OF_SEARCH, EventRow, FrontRow, Job, MarkRow
from server.store.projections import load_exports, load_hypervolumes
from server.store.queue import wait_reasons
from server.store.rank_correlation import rank_correlation_schema
from server.store.readers.base import Reader, newest_first, read_page, require_job
from server.store.replaced_devices import replacement_warnings


@dataclass(frozen=True)
class FrontOverview:
    """The size and the hypervolumes of a front."""

    front_size: int = 0
    verified: int = 0
    hypervolume: float | None = None
    baseline_hypervolume: float | None = None

    @staticmethod
    def of(row: FrontRow) -> FrontOverview:
        """The summary of a stored front."""
        return FrontOverview(row.size, row.verified, row.hypervolume, row.baseline_hypervolume)


class SearchReader(Reader):
    """Reads searches."""

    def search(self, search_id: str) -> SearchSchema:
        """One search. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            schema = _Page(session, [job], self._clock(session)).schema(job)
            return schema.model_copy(
                update={
                    "rank_correlation": rank_correlation_schema(job.state.finished),
                    "data": job.state.data,
                    "warnings": [*schema.warnings, *replacement_warnings(session, job, schema.spec)],
                }
            )

    def owner_of(self, search_id: str) -> str:
        """The owner of a search. Raises NotFound."""
        with reading(self._engine) as session:
            return require_job(session, search_id, "search").owner

    def searches(
        self,
        status: str | None,
        limit: int,
        cursor: str | None,
        owner: str | None = None,
        parent: str | None = None,
        match: str | None = None,
    ) -> SearchPage:
        """A page of searches, newest first, optionally of one owner, with one parent, or those that a text can mean: an
        id or its beginning, its spoken name, or the name that the spec gives.

        Raises InvalidInput for an invalid cursor.
        """
        query = newest_first("search", cursor)
        if status is not None:
            query = query.where(Job.status == status)
        if owner is not None:
            query = query.where(Job.owner == owner)
        if parent is not None:
            query = query.where(Job.parent_id == parent)
        with reading(self._engine) as session:
            if match is not None:
                query = query.where(Job.id.in_(_ids_meant(session, match, owner)))
            page, next_cursor = read_page(session, query, limit)
            schemas = _Page(session, page, self._clock(session))
            return SearchPage(items=[schemas.schema(job) for job in page], next=next_cursor)

    def search_job(self, search_id: str) -> str:
        """The id of a search's job, which equals its own. Raises NotFound."""
        with reading(self._engine) as session:
            return require_job(session, search_id, "search").id

    def state(self, search_id: str) -> tuple[SearchSpec, SearchState]:
        """The spec and the whole folded state of a search. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            table = self._candidate_cache.table(session, job)
            candidates = map(table.candidate, range(len(table)))
            state = replace(
                job.state,
                candidates={candidate.key: candidate for candidate in candidates},
                exports=load_exports(session, job),
                hypervolume=tuple(load_hypervolumes(session, [job.id])[job.id]),
            )
            return SearchSpec.model_validate(job.spec), state

    def events(
        self, job_id: str, after: int, limit: int, kind: str | None = None
    ) -> tuple[EventPage, JobStatus | None]:
        """Events after a number, oldest first, optionally of one kind; and the job's status if it ended with them.

        Raises NotFound.
        """
        where = [EventRow.job_id == job_id, EventRow.seq > after]
        where += [EventRow.body["kind"].as_string() == kind] if kind is not None else []
        with reading(self._engine) as session:
            job = session.get(Job, job_id)
            if job is None:
                raise NotFound(f"no job {job_id!r}")
            rows = session.scalars(select(EventRow).where(*where).order_by(EventRow.seq).limit(limit + 1)).all()
            items = [EventSchema(seq=row.seq, at=utc(row.at), body=row.body) for row in rows[:limit]]
            final_status = job.status if job.status in ENDED and len(rows) <= limit else None
            return EventPage(items=items, last=items[-1].seq if items else after), final_status


_MOST_MEANT = 200


def _ids_meant(session: Session, text: str, owner: str | None) -> list[str]:
    """The ids of the searches that a text can mean, the best kind of match alone."""
    query = select(Job.id, Job.name).where(Job.kind == "search")
    if owner is not None:
        query = query.where(Job.owner == owner)
    names = {row[0]: row[1] for row in session.execute(query)}
    ids = ids_named(text, names) or [i for i, name in names.items() if name.lower() == text.strip().lower()]
    return ids[:_MOST_MEANT]


class _Page:
    """What the schemas of some searches need beside their rows, read at once."""

    def __init__(self, session: Session, jobs: Sequence[Job], now: float) -> None:
        ids, scored = [job.id for job in jobs], [job.id for job in jobs if job.point_count]
        self._fronts: dict[tuple[str, str], FrontOverview] = {}
        self._hypervolumes: dict[str, list[HypervolumeAt]] = {}
        if scored:  # what was only just submitted has no front
            rows = session.scalars(select(FrontRow).where(FrontRow.job_id.in_(scored)))
            self._fronts = {(row.job_id, row.device): FrontOverview.of(row) for row in rows}
            self._hypervolumes = load_hypervolumes(session, scored)
        marks = select(MarkRow).where(MarkRow.job_id.in_(ids), MarkRow.arch_id == OF_SEARCH)
        self._marks = {row.job_id: row for row in session.scalars(marks)}
        self._waiting = wait_reasons(session, jobs, now)
        self._now = now

    def schema(self, job: Job) -> SearchSchema:
        """A search with its summary."""
        spec, state = SearchSpec.model_validate(job.spec), job.state
        view = spec.views[0] or ALL_DEVICES
        mark = self._marks.get(job.id)
        return SearchSchema(
            **vars(job_schema(job, state, self._waiting.get(job.id), self._now)),
            **vars(self._front(job, view)),
            evaluations=job.evaluations,
            extrapolated=job.extrapolated,
            extrapolated_measured=job.extrapolated_measured,
            fleet=[
                FleetMemberSchema(device=name, bound_ms=spec.bound_on(name), **vars(self._front(job, name)))
                for name in (spec.devices if spec.fleet is not None and job.point_count else ())
            ],
            spec=spec,
            starred=mark is not None and mark.starred,
            note=mark.note if mark is not None else "",
            parent=job.parent_id,
            predictor=job.predictor_id,
            hypervolume_history=self._hypervolumes.get(job.id, []),
            conclusions=list(state.conclusions),
        )

    def _front(self, job: Job, device: str) -> FrontOverview:
        return self._fronts.get((job.id, device), FrontOverview())
