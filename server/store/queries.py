"""Read-only queries: map database rows and folded search states to the schemas of ``nas.schemas``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, and_, func, or_, select, text
from sqlalchemy.orm import Session

from nas.core.candidates import ORIGINS, STATUSES, CandidateTable, Rows
from nas.core.device import DeviceProfile, OnDevice, changes
from nas.core.drift import Reading, drift_of
from nas.core.errors import NotFound, UnknownName
from nas.core.events import Candidate, SearchState
from nas.core.fronts import Finished, Front, compute_front
from nas.core.lifecycle import ENDED, LEASED, JobStatus
from nas.core.metrics import METRICS, kind_of
from nas.core.ports import JobKind
from nas.core.spec import DeviceSpec, SearchSpec
from nas.schemas.agents import AgentSchema
from nas.schemas.candidates import (
    ArtifactSchema,
    CandidateOnDeviceSchema,
    CandidatePage,
    CandidateSchema,
    MeasurementSchema,
    MetricSchema,
)
from nas.schemas.devices import DeviceSchema, DriftReadingSchema, DriftSchema, DriftSessionSchema
from nas.schemas.dry_runs import CostEstimateSchema
from nas.schemas.jobs import EventPage, EventSchema, StageSchema
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from nas.schemas.searches import FleetMemberSchema, HypervolumeSchema, SearchPage, SearchSchema
from nas.schemas.service import NodeResourcesSchema, WorkerSchema
from server.store.cursors import read_cursor, utc, write_cursor
from server.store.database import reading
from server.store.measurements import OPEN, agents, queue_of
from server.store.measurements import SEEN_S as AWAY_S
from server.store.migrate import head
from server.store.models import (
    AgentRow,
    ArtifactRow,
    DeviceRow,
    EventRow,
    Job,
    MeasurementRow,
    PointRow,
    PredictorRow,
    ReadingRow,
    WorkerRow,
)
from server.store.point_cache import PointCache
from server.store.projections import load_exports, point_of, state_from_json
from server.store.queue import SEEN_S, waiting_texts
from server.store.resolve import energy_of, find_predictor, relatives_of, supernet_of, versions_before
from server.store.trust import trust_view

_KEPT_SUMMARIES = 20_000  # a few megabytes


@dataclass(frozen=True)
class Summary:
    """What a list shows of a search's networks."""

    front_size: int
    verified: int
    evaluations: int
    hypervolume: float | None
    baseline_hypervolume: float | None
    fleet: tuple[FleetMemberSchema, ...] = ()


_NOTHING = Summary(0, 0, 0, None, None)


@dataclass(frozen=True)
class ServiceStats:
    """Sums over all jobs, for monitoring. Ages in seconds are 0 where nothing has an age."""

    jobs: Mapping[tuple[str, str], int]
    oldest_queued_s: float
    leases: int
    oldest_lease_s: float
    event_lag_s: float
    silence_s: float
    workers: int
    slots: int
    events: int
    evaluations: int
    busy_s: float
    gpu_s: float
    agents: Mapping[str, AgentStats]


@dataclass(frozen=True)
class AgentStats:
    """An agent for monitoring: seconds since its last request, and its networks by status, of jobs that still exist."""

    age_s: float
    live: bool
    queued: int
    leased: int
    ended: Mapping[str, int]


@dataclass(frozen=True)
class DryRun:
    """A dry run on its way: its cost once it is known, what it waits for, or what is being timed now."""

    status: JobStatus
    cost: CostEstimateSchema | None
    error: str | None
    waiting: str
    doing: str


@dataclass(frozen=True)
class KnownDevice:
    """A device for a space: how it was onboarded, its profile, its predictor in use with its card, the blob of what
    that knows, and the genes and ms of all that was measured since."""

    spec: DeviceSpec
    profile: DeviceProfile
    family: str
    blob: str
    known: str | None
    readings: Sequence[tuple[tuple[int, ...], float]]
    card: PredictorCardSchema


class Queries:
    """Reads over one database. ``clock`` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._points = PointCache()
        self._summaries: dict[tuple[str, int], Summary] = {}

    def search(self, search_id: str) -> SearchSchema:
        """One search. Raises NotFound."""
        with reading(self._engine) as session:
            job = _job(session, search_id, "search")
            view = self._search_view(session, job, waiting_texts(session, [job], self._clock()))
            return view.model_copy(update={"trust": trust_view(state_from_json(job.state).finished)})

    def owner_of(self, search_id: str) -> str:
        """Whose search it is. Raises NotFound."""
        with reading(self._engine) as session:
            return _job(session, search_id, "search").owner

    def searches(
        self,
        status: str | None,
        limit: int,
        cursor: str | None,
        owner: str | None = None,
        parent: str | None = None,
    ) -> SearchPage:
        """Searches, newest first; of one owner, or the children of one, if given. Raises InvalidInput for a cursor
        that is none."""
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
            shown = jobs[:limit]
            following = write_cursor(shown[-1].created_at, shown[-1].id) if len(jobs) > limit else None
            waiting = waiting_texts(session, shown, self._clock())
            return SearchPage(items=[self._search_view(session, job, waiting) for job in shown], next=following)

    def state(self, search_id: str) -> tuple[SearchSpec, SearchState]:
        """The spec and the whole folded state of a search. Raises NotFound."""
        with reading(self._engine) as session:
            job = _job(session, search_id, "search")
            table = self._points.table(session, job)
            points = map(table.candidate, range(len(table)))
            state = state_from_json(job.state)
            exports = load_exports(session, job)
            return SearchSpec.model_validate(job.spec), replace(
                state, candidates={p.key: p for p in points}, exports=exports
            )

    def evaluated(self, search_id: str) -> tuple[SearchSpec, CandidateTable, Finished]:
        """The spec of a search, its networks and the results of its stages. Raises NotFound."""
        with reading(self._engine) as session:
            job = _job(session, search_id, "search")
            finished = state_from_json(job.state).finished
            return SearchSpec.model_validate(job.spec), self._points.table(session, job), finished

    def find_search(self, search_id: str) -> tuple[SearchSpec, str | None] | None:
        """The spec of a search and the id of its space, or None if there is no such search."""
        with reading(self._engine) as session:
            job = session.get(Job, search_id)
            if job is None or job.kind != "search":
                return None
            return SearchSpec.model_validate(job.spec), job.space_id

    def candidates(
        self,
        search_id: str,
        origin: str | None,
        status: str | None,
        order: str,
        limit: int,
        cursor: str | None,
        device: str | None = None,
    ) -> CandidatePage:
        """Evaluated networks in the order of a metric (``-`` in front: falling; those without it last) or of
        ``position``, the order of first evaluation; as one ``device`` of the fleet has them, if given. Raises NotFound,
        UnknownName or InvalidInput."""
        name, falling = order.removeprefix("-"), order.startswith("-")
        if name != "position" and name not in METRICS:
            raise UnknownName("order", name, ["position", *METRICS])
        spec, table, finished = self.evaluated(search_id)
        if device is not None and device not in spec.devices:
            raise UnknownName("device of the search", device, spec.devices)
        on_front = front_keys(*_fronts(spec, table, finished, device))
        if spec.fleet is not None and device is not None and len(table):
            table = table.on(device)
        chosen_N = np.ones(len(table), dtype=bool)
        if origin is not None:
            chosen_N &= table.origin_N == ORIGINS.index(origin)
        if status is not None:
            chosen_N &= table.status_N == STATUSES.index(status)
        rows = np.flatnonzero(chosen_N)
        value = rows + 1.0 if name == "position" else table.metric(name)[rows]
        value = -value if falling else value
        order_of_rows = value.argsort(kind="stable")  # those without a value last, ties by position
        rows, value = rows[order_of_rows], value[order_of_rows]
        start = 0
        if cursor is not None:
            last, position = read_cursor(cursor, float | int | None, int)
            start = _behind(rows, value, None if last is None else -last if falling else last, position)
        shown = rows[start : start + limit].tolist()
        points = [table.candidate(row) for row in shown]
        following = None
        if start + limit < len(rows):
            final = float(value[start + limit - 1])
            following = write_cursor(None if math.isnan(final) else -final if falling else final, shown[-1] + 1)
        virtual = self.virtual(spec)
        items = [point_view(p, p.key in on_front, virtual, device) for p in points]
        return CandidatePage(items=items, total=len(rows), next=following)

    def point(self, search_id: str, arch: str, origin: str) -> CandidateSchema:
        """One evaluated network. Raises NotFound."""
        with reading(self._engine) as session:
            job = _job(session, search_id, "search")
            row = session.get(PointRow, (search_id, origin, arch))
            if row is None:
                raise NotFound(f"search {search_id} has no network {arch!r} of origin {origin!r}")
            point, spec = point_of(row), SearchSpec.model_validate(job.spec)
            on_front = front_keys(*_fronts(spec, *self._found(session, job)))
            return point_view(point, point.key in on_front, _virtual(session, spec))

    def artifacts(self, search_id: str, arch: str | None = None) -> list[ArtifactSchema]:
        """The files of a search, or of one of its networks, in the order of their export. Raises NotFound."""
        query = select(ArtifactRow).where(ArtifactRow.job_id == search_id).order_by(ArtifactRow.seq)
        if arch is not None:
            query = query.where(ArtifactRow.arch_id == arch)
        with reading(self._engine) as session:
            _job(session, search_id, "search")
            return [_artifact_view(row) for row in session.scalars(query)]

    def artifact(self, search_id: str, arch: str, name: str) -> ArtifactSchema:
        """One file of a network. Raises NotFound with the names that exist."""
        found = self.artifacts(search_id, arch)
        for view in found:
            if view.name == name:
                return view
        names = ", ".join(sorted(v.name for v in found)) or "none"
        raise NotFound(f"network {arch!r} of search {search_id} has no file {name!r}; its files: {names}")

    def events(
        self, job_id: str, after: int, limit: int, kind: str | None = None
    ) -> tuple[EventPage, JobStatus | None]:
        """Events after a number, oldest first, of one kind, if given; and the job's status if it has ended with them.
        Raises NotFound."""
        where = [EventRow.job_id == job_id, EventRow.seq > after]
        where += [EventRow.body["kind"].as_string() == kind] if kind is not None else []
        with reading(self._engine) as session:
            job = session.get(Job, job_id)
            if job is None:
                raise NotFound(f"no job {job_id!r}")
            rows = session.scalars(select(EventRow).where(*where).order_by(EventRow.seq).limit(limit + 1)).all()
            items = [EventSchema(seq=row.seq, at=utc(row.at), body=row.body) for row in rows[:limit]]
            ended = job.status if job.status in ENDED and len(rows) <= limit else None
            return EventPage(items=items, last=items[-1].seq if items else after), ended

    def search_job(self, search_id: str) -> str:
        """The job id of a search, which is its own. Raises NotFound."""
        with reading(self._engine) as session:
            return _job(session, search_id, "search").id

    def device_job(self, name: str) -> str:
        """The id of a device's latest onboarding job. Raises NotFound."""
        with reading(self._engine) as session:
            return _device(session, name).job_id

    def devices(self) -> list[DeviceSchema]:
        """All devices by name."""
        with reading(self._engine) as session:
            rows = session.scalars(select(DeviceRow).order_by(DeviceRow.name)).all()
            return [self._device_view(session, row) for row in rows]

    def device(self, name: str) -> DeviceSchema:
        """One device. Raises NotFound."""
        with reading(self._engine) as session:
            return self._device_view(session, _device(session, name))

    def device_names(self) -> list[str]:
        """The names of all devices."""
        with reading(self._engine) as session:
            return list(session.scalars(select(DeviceRow.name).order_by(DeviceRow.name)))

    def relatives(self, spec: DeviceSpec) -> list[tuple[str, int]]:
        """Other devices from which this one could be learned, with how many networks are known of each."""
        with reading(self._engine) as session:
            return [(name, networks) for name, _, networks in relatives_of(session, spec)]

    def virtual(self, spec: SearchSpec) -> frozenset[str]:
        """Those devices of a search that are known by peak figures alone."""
        with reading(self._engine) as session:
            return _virtual(session, spec)

    def agents(self) -> list[AgentSchema]:
        """All agents by name."""
        with reading(self._engine) as session:
            return [self._agent_view(session, row) for row in agents(session)]

    def predictors(self, device: str | None) -> list[PredictorCardSchema]:
        """The cards of all predictors, or of one device's, newest first. Raises NotFound for an unknown device."""
        with reading(self._engine) as session:
            if device is not None:
                _device(session, device)
            return _cards(session, device)

    def predictor(self, predictor_id: str) -> PredictorCardSchema:
        """One predictor's card. Raises NotFound."""
        with reading(self._engine) as session:
            row = session.get(PredictorRow, predictor_id)
            if row is None:
                raise NotFound(f"no predictor {predictor_id!r}")
            return _card(row)

    def predictor_for(self, device: str, space_id: str) -> tuple[str, str] | None:
        """(family, blob) of the predictor that a search on this device and space would use, or None."""
        with reading(self._engine) as session:
            row = find_predictor(session, device, space_id)
            return (row.family, row.blob) if row is not None else None

    def versions(self, device: str, owner: str | None = None) -> list[PredictorVersionSchema]:
        """All versions of a device's predictors, newest first; of the searches that made or used them, those of one
        owner, if given. Raises NotFound for an unknown device."""
        with reading(self._engine) as session:
            _device(session, device)
            newest = select(PredictorRow).where(PredictorRow.device == device)
            rows = session.scalars(newest.order_by(PredictorRow.created_at.desc(), PredictorRow.number.desc())).all()
            used = select(Job.id, Job.predictor_id).where(Job.kind == "search")
            used = used.where(Job.predictor_id.in_([row.id for row in rows])).order_by(Job.created_at)
            if owner is not None:
                used = used.where(Job.owner == owner)
            searches: dict[str, list[str]] = {}
            for job_id, predictor_id in session.execute(used):
                searches.setdefault(str(predictor_id), []).append(job_id)
            visible = {job_id for ids in searches.values() for job_id in ids}
            in_use = {row.id for row in _in_use(session, device)}
            return [
                PredictorVersionSchema(
                    id=row.id,
                    device=row.device,
                    number=row.number,
                    profile=row.profile_id,
                    space=row.space_id,
                    family=row.family,
                    networks=row.networks,
                    before=row.before,
                    search=row.search_id if row.search_id in visible else None,
                    better=row.better,
                    why=row.why,
                    in_use=row.id in in_use,
                    searches=searches.get(row.id, []),
                    created_at=utc(row.created_at),
                    **{k: row.card[k] for k in ("space_name", "n", "held_out", "mape", "spearman", "coverage")},
                )
                for row in rows
            ]

    def drift(self, device: str, limit: int = 2_000) -> DriftSchema:
        """How a device was since it was profiled; its latest readings. Raises NotFound for an unknown device."""
        with reading(self._engine) as session:
            row = _device(session, device)
            mine = (ReadingRow.device == device, ReadingRow.profile_id == row.profile_id)
            query = select(ReadingRow).where(*mine).order_by(ReadingRow.at.desc(), ReadingRow.id.desc())
            rows = list(reversed(session.scalars(query.limit(limit)).all()))
            found = [(r, _ratio(r)) for r in rows if r.arch_id is None or r.measured_ms is not None]
            drift = drift_of([Reading(r.at, r.job_id, r.canary, ratio) for r, ratio in found])
            return DriftSchema(
                device=device,
                status=drift.status,
                within=drift.within,
                sentence=drift.sentence,
                sessions=[
                    DriftSessionSchema(at=utc(s.at), networks=s.networks, ratio=s.ratio, canary=s.canary)
                    for s in drift.sessions
                ],
                readings=[
                    DriftReadingSchema(at=utc(r.at), arch=r.arch_id, ratio=ratio, canary=r.canary) for r, ratio in found
                ],
            )

    def known(self, device: str, space_id: str) -> KnownDevice | None:
        """What is known of a device for a space, or None where it has no predictor for that."""
        with reading(self._engine) as session:
            row = find_predictor(session, device, space_id)
            if row is None:
                return None
            onboarding = session.get_one(Job, versions_before(session, row)[-1].id)
            readings = session.execute(
                select(ReadingRow.genes, ReadingRow.measured_ms)
                .where(ReadingRow.device == device, ReadingRow.space_id == space_id)
                .where(ReadingRow.profile_id == row.profile_id, ReadingRow.measured_ms.is_not(None))
                .order_by(ReadingRow.at, ReadingRow.id)
            )
            return KnownDevice(
                spec=DeviceSpec.model_validate(onboarding.spec),
                profile=DeviceProfile.from_json(row.profile),
                family=row.family,
                blob=row.blob,
                known=row.known,
                readings=[(tuple(r.genes), r.measured_ms) for r in readings],
                card=_card(row),
            )

    def energy_for(self, device: str, space_id: str) -> tuple[str, str] | None:
        """(family, blob) of the predictor of energy, in mJ, that goes with that of latency, or None."""
        with reading(self._engine) as session:
            row = find_predictor(session, device, space_id)
            found = energy_of(session, row) if row is not None else None
            return (found["family"], found["blob"]) if found is not None else None

    def supernet(self, search_id: str) -> str | None:
        """The blob of a search's trained supernet, or of the search's that it reused; None while there is none."""
        with reading(self._engine) as session:
            return supernet_of(session, search_id)

    def counts(self, worker_seconds: float) -> tuple[int, int, int]:
        """Dispatchers seen within ``worker_seconds``, queued jobs and running jobs."""
        with reading(self._engine) as session:
            recent = select(func.count()).where(WorkerRow.seen_at > self._clock() - worker_seconds)
            jobs = {row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status))}
            return session.scalar(recent) or 0, jobs.get("queued", 0), sum(jobs.get(status, 0) for status in LEASED)

    def dry_run(self, job_id: str) -> DryRun:
        """How far a dry run is. Raises NotFound."""
        with reading(self._engine) as session:
            job = _job(session, job_id, "dry_run")
            cost = job.state.get("finished", {}).get("price")
            return DryRun(
                status=cast(JobStatus, job.status),
                cost=CostEstimateSchema.model_validate(cost) if cost is not None else None,
                error=job.error,
                waiting=waiting_texts(session, [job], self._clock()).get(job_id, ""),
                doing=next((bar["message"] for bar in job.stages), ""),
            )

    def workers(self, worker_seconds: float) -> list[WorkerSchema]:
        """Dispatchers seen within ``worker_seconds``, by name."""
        recent = select(WorkerRow).where(WorkerRow.seen_at > self._clock() - worker_seconds).order_by(WorkerRow.owner)
        with reading(self._engine) as session:
            return [
                WorkerSchema(
                    name=row.owner,
                    slots=row.slots,
                    seen_at=utc(row.seen_at),
                    elastic=row.elastic,
                    nodes=[NodeResourcesSchema(**room) for room in row.nodes],
                    free=[NodeResourcesSchema(**room) for room in row.free],
                )
                for row in session.scalars(recent)
            ]

    def service_stats(self) -> ServiceStats:
        """Statistics for monitoring, in a few sums."""
        now = self._clock()
        with reading(self._engine) as session:
            jobs = session.execute(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status))
            oldest = session.scalar(select(func.min(Job.created_at)).where(Job.status == "queued"))
            leased = Job.status.in_(LEASED)
            leases, renewed = session.execute(select(func.count(), func.min(Job.busy_until)).where(leased)).one()
            last = and_(EventRow.job_id == Job.id, EventRow.seq == Job.last_seq)  # one row of each job
            spoken = select(func.max(EventRow.at), func.min(EventRow.at)).join(Job, last).where(leased)
            newest, quietest = session.execute(spoken).one()
            seen = select(func.count(), func.sum(WorkerRow.slots)).where(WorkerRow.seen_at > now - SEEN_S)
            workers, slots = session.execute(seen).one()
            gpus = Job.resources["gpus"].as_float()
            sums = select(
                func.sum(Job.last_seq), func.sum(Job.busy_seconds), func.sum(Job.busy_seconds * func.coalesce(gpus, 0))
            )
            events, busy_s, gpu_s = session.execute(sums).one()
            searched = select(func.sum(Job.point_count)).where(Job.kind == "search")
            return ServiceStats(
                jobs={(row[0], row[1]): row[2] for row in jobs},
                oldest_queued_s=now - oldest if oldest is not None else 0.0,
                leases=leases,
                oldest_lease_s=now - renewed if renewed is not None else 0.0,
                event_lag_s=now - newest if newest is not None else 0.0,
                silence_s=now - quietest if quietest is not None else 0.0,
                workers=workers,
                slots=slots or 0,
                events=events or 0,
                evaluations=session.scalar(searched) or 0,
                busy_s=busy_s or 0.0,
                gpu_s=gpu_s or 0.0,
                agents=_agent_stats(session, now),
            )

    def revision(self) -> str:
        """The revision of the database's schema."""
        with reading(self._engine) as session:
            return str(session.scalar(text("SELECT version_num FROM alembic_version")))

    @cached_property
    def newest(self) -> str:
        """The revision of the schema that this version works with."""
        return head()

    @property
    def database(self) -> str:
        """The kind of database: ``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def _found(self, session: Session, job: Job) -> tuple[CandidateTable, Finished]:
        return self._points.table(session, job), state_from_json(job.state).finished

    def _summary(self, session: Session, job: Job) -> Summary:
        """The summary of a search, which stays the same until the next event."""
        if job.point_count == 0:
            return _NOTHING
        key = (job.id, job.last_seq)
        summary = self._summaries.get(key)
        if summary is None:
            spec = SearchSpec.model_validate(job.spec)
            table, finished = self._found(session, job)
            by_device = {name: compute_front(spec, table, finished, device=name) for name in spec.devices if spec.fleet}
            shared = spec.views == (None,)
            front = compute_front(spec, table, finished) if shared else by_device[spec.device]
            summary = Summary(
                **_front_figures(front),
                evaluations=len(table.of_origin("search")),
                fleet=tuple(
                    FleetMemberSchema(device=name, bound_ms=spec.bound_on(name), **_front_figures(own))
                    for name, own in by_device.items()
                ),
            )
            if len(self._summaries) >= _KEPT_SUMMARIES:
                self._summaries.clear()
            self._summaries[key] = summary
        return summary

    def _search_view(self, session: Session, job: Job, waiting: Mapping[str, str]) -> SearchSchema:
        state = state_from_json(job.state)
        summary = self._summary(session, job)
        return SearchSchema(
            **self._job_fields(job, state, waiting),
            **{**vars(summary), "fleet": list(summary.fleet)},
            spec=SearchSpec.model_validate(job.spec),
            parent=job.parent_id,
            predictor=job.predictor_id,
            hypervolume_history=[
                HypervolumeSchema(evaluations=h.evaluations, search=h.search, baseline=h.baseline, device=h.device)
                for h in state.hypervolume
            ],
        )

    def _device_view(self, session: Session, device: DeviceRow) -> DeviceSchema:
        job = session.get_one(Job, device.job_id)
        agent = session.get(AgentRow, device.name)
        return DeviceSchema(
            agent=self._agent_view(session, agent) if agent is not None else None,
            stale=self._stale(session, device, agent),
            **self._job_fields(job, state_from_json(job.state), waiting_texts(session, [job], self._clock())),
            name=device.name,
            spec=DeviceSpec.model_validate(job.spec),
            profile_id=device.profile_id,
            profile=device.profile,
            predictors=[_card(row) for row in _in_use(session, device.name)],
        )

    def _stale(self, session: Session, device: DeviceRow, agent: AgentRow | None) -> list[str]:
        """What has changed on the machine since it was profiled, as its agent says, or a dispatcher on such a machine;
        nothing if nobody is there who knows."""
        if device.profile is None:
            return []
        profiled = DeviceProfile.from_json(device.profile)
        if profiled.source == "agent":
            return changes(profiled, DeviceProfile.from_json(agent.profile)) if agent is not None else []
        if profiled.source != "worker":
            return []
        recent = select(WorkerRow.machine).where(WorkerRow.seen_at > self._clock() - SEEN_S)
        machines = [DeviceProfile.from_json(m) for m in session.scalars(recent) if m is not None]
        same = [replace(m.protocol, threads=profiled.protocol.threads) for m in machines]
        alike = [
            changes(profiled, replace(m, protocol=protocol))
            for m, protocol in zip(machines, same, strict=True)
            if (m.machine, m.processor, m.cores) == (profiled.machine, profiled.processor, profiled.cores)
        ]
        return min(alike, key=len, default=[])

    def _agent_view(self, session: Session, row: AgentRow) -> AgentSchema:
        waiting, measuring = queue_of(session, row.name)
        return AgentSchema(
            name=row.name,
            owner=row.owner,
            profile_id=row.profile_id,
            profile=row.profile,
            versions=row.versions,
            seen_at=utc(row.seen_at),
            away=self._clock() - row.seen_at > AWAY_S,
            waiting=waiting,
            measuring=measuring,
        )

    def _job_fields(self, job: Job, state: SearchState, waiting: Mapping[str, str]) -> dict[str, Any]:
        now = self._clock()
        return {
            "id": job.id,
            "status": job.status,
            "owner": job.owner,
            "priority": job.priority,
            "waiting": waiting.get(job.id),
            "busy_seconds": job.busy_seconds,
            "created_at": utc(job.created_at),
            "started_at": utc(job.started_at) if job.started_at is not None else None,
            "finished_at": utc(job.finished_at) if job.finished_at is not None else None,
            "attempts": job.attempts,
            "error": job.error,
            "stages": [_stage_view(job, bar, state, now) for bar in job.stages],
            "warnings": list(state.warnings),
            "eta_s": _eta_s(job, now),
            "last_event": job.last_seq,
        }


def _agent_stats(session: Session, now: float) -> dict[str, AgentStats]:
    tasks = session.execute(
        select(MeasurementRow.device, MeasurementRow.status, Job.status, func.count())
        .join(Job, Job.id == MeasurementRow.job_id)
        .group_by(MeasurementRow.device, MeasurementRow.status, Job.status)
    )
    counts: dict[tuple[str, str], int] = {}
    for device, status, job_status, count in tasks:
        if status not in OPEN or job_status == "queued":  # nobody waits for what a job that is over wanted
            counts[device, status] = counts.get((device, status), 0) + count
    return {
        row.name: AgentStats(
            age_s=now - row.seen_at,
            live=now - row.seen_at <= AWAY_S,
            queued=counts.get((row.name, "queued"), 0),
            leased=counts.get((row.name, "leased"), 0),
            ended={status: counts.get((row.name, status), 0) for status in ("done", "failed")},
        )
        for row in agents(session)
    }


def front_keys(*fronts: Front) -> set[tuple[str, str]]:
    """The keys of all points on fronts or on their baselines'."""
    return {p.key for front in fronts for p in (*front.members, *front.baseline)}


def _fronts(spec: SearchSpec, table: CandidateTable, finished: Finished, device: str | None = None) -> list[Front]:
    """The front of one device, or all that a search has."""
    views = spec.views if device is None or spec.fleet is None else (device,)
    return [compute_front(spec, table, finished, device=view) for view in views]


def _front_figures(front: Front) -> dict[str, Any]:
    return {
        "front_size": len(front.members),
        "verified": sum(p.status == "verified" for p in front.members),
        "hypervolume": front.hypervolume,
        "baseline_hypervolume": front.baseline_hypervolume,
    }


def point_view(
    point: Candidate, on_front: bool, virtual: Collection[str] = frozenset(), device: str | None = None
) -> CandidateSchema:
    """A point with units and kinds of evidence: as one ``device`` has it, or as the worst of all, of which some may be
    ``virtual``."""
    m = point.measurement
    return CandidateSchema(
        arch=point.arch.id,
        origin=point.origin,
        genes=list(point.arch.genes),
        metrics=_metric_views(point.metrics, device in virtual if device is not None else bool(virtual)),
        status=point.status,
        claim_ms=point.claim_ms,
        measurement=MeasurementSchema.model_validate(m, from_attributes=True) if m is not None else None,
        devices={name: _on_device_view(part, name in virtual) for name, part in point.devices.items()},
        on_front=on_front,
    )


def _on_device_view(part: OnDevice, virtual: bool) -> CandidateOnDeviceSchema:
    known = {"predicted_ms": part.predicted_ms, "upper_ms": part.upper_ms, "measured_ms": part.measured_ms}
    m = part.measurement
    return CandidateOnDeviceSchema(
        metrics=_metric_views({name: value for name, value in known.items() if value is not None}, virtual),
        status=part.status,
        claim_ms=part.claim_ms,
        measurement=MeasurementSchema.model_validate(m, from_attributes=True) if m is not None else None,
    )


def _metric_views(metrics: Mapping[str, float], virtual: bool) -> dict[str, MetricSchema]:
    return {
        name: MetricSchema(value=value, unit=METRICS[name].unit, kind=kind_of(name, virtual))
        for name, value in metrics.items()
    }


def _virtual(session: Session, spec: SearchSpec) -> frozenset[str]:
    rows = session.scalars(select(DeviceRow).where(DeviceRow.name.in_(spec.devices)))
    return frozenset(row.name for row in rows if (row.profile or {}).get("source") == "roofline")


def _job(session: Session, job_id: str, kind: JobKind) -> Job:
    job = session.get(Job, job_id)
    if job is None or job.kind != kind:
        raise NotFound(f"no {kind} {job_id!r}")
    return job


def _device(session: Session, name: str) -> DeviceRow:
    row = session.get(DeviceRow, name)
    if row is None:
        known = session.scalars(select(DeviceRow.name).order_by(DeviceRow.name)).all()
        raise NotFound(f"no device {name!r}; the devices: {', '.join(known) or 'none'}")
    return row


def _cards(session: Session, device: str | None) -> list[PredictorCardSchema]:
    query = select(PredictorRow).order_by(PredictorRow.created_at.desc(), PredictorRow.id)
    if device is not None:
        query = query.where(PredictorRow.device == device)
    return [_card(row) for row in session.scalars(query)]


def _card(row: PredictorRow) -> PredictorCardSchema:
    own = {"id": row.id, "device": row.device, "profile": row.profile_id, "space": row.space_id, "family": row.family}
    return PredictorCardSchema.model_validate(
        {**row.card, **own, "number": row.number, "created_at": utc(row.created_at)}
    )


def _ratio(row: ReadingRow) -> float | None:
    return row.measured_ms / row.predicted_ms if row.measured_ms and row.predicted_ms else None


def _in_use(session: Session, device: str) -> list[PredictorRow]:
    """The versions that searches would get which begin now, one for each space, the latest first."""
    spaces = session.scalars(select(PredictorRow.space_id).where(PredictorRow.device == device).distinct()).all()
    found = [row for space_id in spaces if (row := find_predictor(session, device, space_id)) is not None]
    return sorted(found, key=lambda row: (-row.created_at, row.id))


def _artifact_view(row: ArtifactRow) -> ArtifactSchema:
    return ArtifactSchema(
        arch=row.arch_id,
        name=row.name,
        size_bytes=row.size_bytes,
        sha256=row.blob,
        media_type=row.media_type,
        url=f"/v1/searches/{row.job_id}/artifacts/{row.arch_id}/{row.name}",
        report=row.report,
    )


def _stage_view(job: Job, bar: Mapping[str, Any], state: SearchState, now: float) -> StageSchema:
    active = bar["status"] == "running"
    seconds = state.seconds.get(bar["name"], 0.0)
    if active:
        seconds += (now if job.status in LEASED else bar["latest"]) - bar["begun"]
    status = "waiting" if active and job.status not in LEASED else bar["status"]
    return StageSchema(
        name=bar["name"],
        status=status,
        done=bar["done"],
        total=bar["total"],
        unit=bar["unit"],
        seconds=seconds,
        values=bar["values"],
        message=bar["message"],
        result=dict(state.finished.get(bar["name"], {})),
    )


def _eta_s(job: Job, now: float) -> float | None:
    """Seconds until the running stage is done, at the rate of its present attempt."""
    if job.status not in LEASED:
        return None
    for bar in job.stages:
        if bar["status"] == "running" and bar["anchor"] is not None:
            at, done = bar["anchor"]
            if bar["done"] > done and bar["latest"] > at:
                rate = (bar["done"] - done) / (bar["latest"] - at)
                return max(0.0, float((bar["total"] - bar["done"]) / rate - (now - bar["latest"])))
    return None


def _behind(rows: Rows, value: NDArray[np.floating[Any]], last: float | None, position: int) -> int:
    """How many of the ordered rows come before or at (``last``, ``position``); None is last in the order."""
    missing = np.isnan(value)
    behind_value = ~missing if last is None else value < last
    tied = missing if last is None else value == last
    before = behind_value | (tied & (rows < position))
    return int(np.count_nonzero(before))
