"""Searches, their summaries and their event logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Engine, and_, or_, select
from sqlalchemy.orm import Session

from nas.core.errors import NotFound
from nas.core.events import SearchState
from nas.core.fronts import Front, compute_front
from nas.core.lifecycle import ENDED, JobStatus
from nas.core.spec import SearchSpec
from nas.schemas.jobs import EventPage, EventSchema
from nas.schemas.searches import FleetMemberSchema, SearchPage, SearchSchema
from nas.stages.fronts import front_context
from server.store.cursors import read_cursor, utc, write_cursor
from server.store.database import reading
from server.store.mapping import job_schema
from server.store.models import EventRow, Job
from server.store.projections import load_exports, state_from_json
from server.store.queue import wait_reasons
from server.store.rank_correlation import rank_correlation_schema
from server.store.readers.base import Reader, require_job
from server.store.replaced_devices import replacement_warnings

_MAX_SUMMARIES = 20_000  # a few megabytes


@dataclass(frozen=True)
class FrontSummary:
    """The size and the hypervolumes of a front."""

    front_size: int
    verified: int
    hypervolume: float | None
    baseline_hypervolume: float | None

    @staticmethod
    def of(front: Front) -> FrontSummary:
        """The summary of a front."""
        return FrontSummary(
            front_size=len(front.members),
            verified=sum(candidate.status == "verified" for candidate in front.members),
            hypervolume=front.hypervolume,
            baseline_hypervolume=front.baseline_hypervolume,
        )


@dataclass(frozen=True)
class SearchSummary:
    """The figures of a search in a list of searches."""

    front: FrontSummary
    evaluations: int
    extrapolated: int = 0
    extrapolated_measured: int = 0
    fleet: tuple[FleetMemberSchema, ...] = ()


_EMPTY_SUMMARY = SearchSummary(FrontSummary(0, 0, None, None), 0)


class SearchReader(Reader):
    """Reads searches."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock)
        self._summaries: dict[tuple[str, int], SearchSummary] = {}

    def search(self, search_id: str) -> SearchSchema:
        """One search. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, search_id, "search")
            schema = self._search_schema(session, job, wait_reasons(session, [job], self._clock()))
            state = state_from_json(job.state)
            return schema.model_copy(
                update={
                    "rank_correlation": rank_correlation_schema(state.finished),
                    "data": state.data,
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
    ) -> SearchPage:
        """A page of searches, newest first, optionally of one owner or with one parent.

        Raises InvalidInput for an invalid cursor.
        """
        query = select(Job).where(Job.kind == "search").order_by(Job.created_at.desc(), Job.id.desc())
        if status is not None:
            query = query.where(Job.status == status)
        if owner is not None:
            query = query.where(Job.owner == owner)
        if parent is not None:
            query = query.where(Job.parent_id == parent)
        if cursor is not None:
            at, last = read_cursor(cursor, float, str)
            query = query.where(or_(Job.created_at < at, and_(Job.created_at == at, Job.id < last)))
        with reading(self._engine) as session:
            jobs = session.scalars(query.limit(limit + 1)).all()
            page = jobs[:limit]
            next_cursor = write_cursor(page[-1].created_at, page[-1].id) if len(jobs) > limit else None
            waiting = wait_reasons(session, page, self._clock())
            return SearchPage(items=[self._search_schema(session, job, waiting) for job in page], next=next_cursor)

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
            state = state_from_json(job.state)
            exports = load_exports(session, job)
            return SearchSpec.model_validate(job.spec), replace(
                state, candidates={c.key: c for c in candidates}, exports=exports
            )

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

    def _summary(self, session: Session, job: Job) -> SearchSummary:
        """The summary of a search, which stays the same until the next event."""
        if job.point_count == 0:
            return _EMPTY_SUMMARY
        key = (job.id, job.last_seq)
        summary = self._summaries.get(key)
        if summary is None:
            summary = self._summarise(session, job)
            if len(self._summaries) >= _MAX_SUMMARIES:
                self._summaries.clear()
            self._summaries[key] = summary
        return summary

    def _summarise(self, session: Session, job: Job) -> SearchSummary:
        spec = SearchSpec.model_validate(job.spec)
        table = self._candidate_cache.table(session, job)
        context = front_context(state_from_json(job.state).finished)
        by_device = {name: compute_front(spec, table, context, device=name) for name in spec.devices if spec.fleet}
        shared = spec.views == (None,)
        front = compute_front(spec, table, context) if shared else by_device[spec.device]
        rows = table.of_origin("search")
        outside = rows[table.extrapolated_N[rows] == 1].tolist()
        return SearchSummary(
            front=FrontSummary.of(front),
            evaluations=len(rows),
            extrapolated=len(outside),
            extrapolated_measured=sum(row in table.measurements or row in table.measured for row in outside),
            fleet=tuple(
                FleetMemberSchema(device=name, bound_ms=spec.bound_on(name), **vars(FrontSummary.of(front_on_device)))
                for name, front_on_device in by_device.items()
            ),
        )

    def _search_schema(self, session: Session, job: Job, waiting: Mapping[str, str]) -> SearchSchema:
        state = state_from_json(job.state)
        summary = self._summary(session, job)
        return SearchSchema(
            **vars(job_schema(job, state, waiting.get(job.id), self._clock())),
            **vars(summary.front),
            evaluations=summary.evaluations,
            extrapolated=summary.extrapolated,
            extrapolated_measured=summary.extrapolated_measured,
            fleet=list(summary.fleet),
            spec=SearchSpec.model_validate(job.spec),
            parent=job.parent_id,
            predictor=job.predictor_id,
            hypervolume_history=list(state.hypervolume),
            conclusions=list(state.conclusions),
        )
