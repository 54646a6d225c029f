"""The service itself: workers, monitoring, dry runs and the schema of its database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast, get_args

from sqlalchemy import and_, func, select, text
from sqlalchemy.orm import Session

from nas.core.cost_estimate import COST_STAGE, CostEstimate
from nas.core.jobs import JobKind
from nas.core.lifecycle import LEASED, JobStatus
from nas.schemas.dry_runs import read_cost_estimate
from nas.schemas.service import WorkerSchema
from server.store.cursors import utc
from server.store.database import reading
from server.store.measurements import AGENT_TIMEOUT_S, OPEN, agents
from server.store.migrate import head
from server.store.models import EventRow, Job, MeasurementRow, WorkerRow
from server.store.queue import WORKER_TIMEOUT_S, wait_reasons
from server.store.readers.base import Reader, require_job
from server.store.usage import Usage, usage_of

KINDS: tuple[JobKind, ...] = get_args(JobKind)


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
    usage: Usage
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
class DryRunProgress:
    """The progress of a dry run: its cost once it is estimated, what it waits for, or what is being timed now."""

    status: JobStatus
    cost: CostEstimate | None
    error: str | None
    waiting: str
    doing: str


class ServiceReader(Reader):
    """Reads the state of the service."""

    def counts(self, worker_seconds: float) -> tuple[int, int, int]:
        """Dispatchers seen within ``worker_seconds``, queued jobs and running jobs."""
        with reading(self._engine) as session:
            recent = select(func.count()).where(WorkerRow.seen_at > self._clock(session) - worker_seconds)
            jobs = {row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status))}
            return session.scalar(recent) or 0, jobs.get("queued", 0), sum(jobs.get(status, 0) for status in LEASED)

    def dry_run(self, job_id: str) -> DryRunProgress:
        """The progress of a dry run. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, job_id, "dry_run")
            cost = job.state.finished.get(COST_STAGE)
            return DryRunProgress(
                status=cast(JobStatus, job.status),
                cost=read_cost_estimate(cost) if cost is not None else None,
                error=job.error,
                waiting=wait_reasons(session, [job], self._clock(session)).get(job_id, ""),
                doing=next((bar.message for bar in job.stages), ""),
            )

    def workers(self, worker_seconds: float) -> list[WorkerSchema]:
        """Dispatchers seen within ``worker_seconds``, by name."""
        with reading(self._engine) as session:
            since = self._clock(session) - worker_seconds
            recent = select(WorkerRow).where(WorkerRow.seen_at > since).order_by(WorkerRow.owner)
            return [
                WorkerSchema(
                    name=row.owner,
                    slots=row.slots,
                    seen_at=utc(row.seen_at),
                    elastic=row.elastic,
                    nodes=list(row.nodes),
                    free=list(row.free),
                )
                for row in session.scalars(recent)
            ]

    def service_stats(self) -> ServiceStats:
        """Statistics for monitoring, in a few sums."""
        with reading(self._engine) as session:
            now = self._clock(session)
            jobs = session.execute(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status))
            oldest = session.scalar(select(func.min(Job.created_at)).where(Job.kind.in_(KINDS), Job.status == "queued"))
            leased = Job.status.in_(LEASED)
            leases, renewed = session.execute(select(func.count(), func.min(Job.busy_until)).where(leased)).one()
            last = and_(EventRow.job_id == Job.id, EventRow.seq == Job.last_seq)  # one row of each job
            latest_events = select(func.max(EventRow.at), func.min(EventRow.at)).join(Job, last).where(leased)
            newest, quietest = session.execute(latest_events).one()
            live_workers = select(func.count(), func.sum(WorkerRow.slots)).where(
                WorkerRow.seen_at > now - WORKER_TIMEOUT_S
            )
            workers, slots = session.execute(live_workers).one()
            return ServiceStats(
                jobs={(row[0], row[1]): row[2] for row in jobs},
                oldest_queued_s=now - oldest if oldest is not None else 0.0,
                leases=leases,
                oldest_lease_s=now - renewed if renewed is not None else 0.0,
                event_lag_s=now - newest if newest is not None else 0.0,
                silence_s=now - quietest if quietest is not None else 0.0,
                workers=workers,
                slots=slots or 0,
                usage=usage_of(session),
                agents=_agent_stats(session, now),
            )

    def revision(self) -> str:
        """The revision of the database's schema."""
        with reading(self._engine) as session:
            return str(session.scalar(text("SELECT version_num FROM alembic_version")))

    @cached_property
    def expected_revision(self) -> str:
        """The revision of the schema that this version works with."""
        return head()

    @property
    def database(self) -> str:
        """The kind of database: ``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name


def _agent_stats(session: Session, now: float) -> dict[str, AgentStats]:
    rows = session.execute(
        select(MeasurementRow.device, MeasurementRow.status, Job.status, func.count())
        .join(Job, Job.id == MeasurementRow.job_id)
        .group_by(MeasurementRow.device, MeasurementRow.status, Job.status)
    )
    counts: dict[tuple[str, str], int] = {}
    for device, status, job_status, count in rows:
        if status not in OPEN or job_status == "queued":  # tasks of a job that has ended are never measured
            counts[device, status] = counts.get((device, status), 0) + count
    return {
        row.name: AgentStats(
            age_s=now - row.seen_at,
            live=now - row.seen_at <= AGENT_TIMEOUT_S,
            queued=counts.get((row.name, "queued"), 0),
            leased=counts.get((row.name, "leased"), 0),
            ended={status: counts.get((row.name, status), 0) for status in ("done", "failed")},
        )
        for row in agents(session)
    }
