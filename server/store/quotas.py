"""Quotas: the limits of owners and their usage."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.errors import QuotaExceeded
from nas.core.lifecycle import ENDED, LEASED
from nas.schemas.administration import QuotaLimits, QuotaSchema
from server.store import audit
from server.store.clock import DatabaseClock
from server.store.database import reading, writing
from server.store.models import Job, OwnerRow
from server.store.usage import usage_of

DEFAULT_OWNER = "*"  # its limits apply to every owner without limits of its own
DRY_RUNS_AT_ONCE = 4  # of one owner, since they go before other jobs


class Quotas:
    """Reads and sets quotas. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def view(self, owner: str) -> QuotaSchema:
        """Return limits and usage of an owner."""
        with reading(self._engine) as session:
            return _view(session, owner)

    def views(self) -> list[QuotaSchema]:
        """Return limits and usage of every owner with limits or searches, by name; ``*`` holds the default limits."""
        with reading(self._engine) as session:
            owners = {
                DEFAULT_OWNER,
                *session.scalars(select(OwnerRow.name)),
                *session.scalars(select(Job.owner).distinct()),
            }
            return [_view(session, owner) for owner in sorted(owners)]

    def set(self, owner: str, body: QuotaLimits, by: Principal) -> QuotaSchema:
        """Set all limits of an owner."""
        with writing(self._engine) as session:
            row = session.get(OwnerRow, owner, with_for_update=True) or OwnerRow(name=owner)
            row.max_queued, row.max_running, row.gpu_hours = body.max_queued, body.max_running, body.gpu_hours
            session.add(row)
            audit.record(session, by, "set quota", owner, self._clock(session), **body.model_dump())
            session.flush()
            return _view(session, owner)


def limits_of(session: Session, owners: Collection[str]) -> dict[str, QuotaLimits]:
    """Return the limits of owners: their own, else the default."""
    rows = {r.name: r for r in session.scalars(select(OwnerRow).where(OwnerRow.name.in_([*owners, DEFAULT_OWNER])))}
    limits = {name: _limits(r) for name, r in rows.items()}
    return {owner: limits.get(owner, limits.get(DEFAULT_OWNER, QuotaLimits())) for owner in owners}


def _limits(row: OwnerRow) -> QuotaLimits:
    return QuotaLimits(max_queued=row.max_queued, max_running=row.max_running, gpu_hours=row.gpu_hours)


def require_queue_quota(session: Session, owner: str) -> None:
    """Raises QuotaExceeded if the owner may not queue another job, of whatever kind."""
    limits = limits_of(session, [owner])[owner]
    if limits.max_queued is not None:
        queued = count_jobs(session, owner, ("queued",))
        if queued >= limits.max_queued:
            plural = "" if limits.max_queued == 1 else "s"
            raise QuotaExceeded(f"{owner} may have {limits.max_queued} job{plural} in the queue and has {queued} there")
    if limits.gpu_hours is not None and (used := gpu_hours_used(session, owner)) >= limits.gpu_hours:
        raise QuotaExceeded(f"{owner} may use {limits.gpu_hours:g} GPU-hours and has used {used:.3g}")


def require_dry_run_quota(session: Session, owner: str) -> None:
    """Raises QuotaExceeded if as many dry runs of the owner as may be at once wait or run already."""
    unfinished = select(func.count()).where(Job.owner == owner, Job.kind == "dry_run", Job.status.not_in(ENDED))
    if (session.scalar(unfinished) or 0) >= DRY_RUNS_AT_ONCE:
        raise QuotaExceeded(f"{DRY_RUNS_AT_ONCE} dry runs of {owner} wait or run already: let one of them end")


def has_spent_gpu_hours(session: Session, job: Job) -> bool:
    """Whether the owner of a job that uses GPUs has no GPU-hours left."""
    if not job.resources.gpus:
        return False
    limit = limits_of(session, [job.owner])[job.owner].gpu_hours
    return limit is not None and gpu_hours_used(session, job.owner) >= limit


def count_jobs(session: Session, owner: str, statuses: Collection[str]) -> int:
    """Count the jobs of an owner, of every kind, with one of these statuses."""
    query = select(func.count()).where(Job.owner == owner, Job.status.in_(statuses))
    return session.scalar(query) or 0


def gpu_hours_used(session: Session, owner: str) -> float:
    """Return the GPU-hours of all jobs of an owner, including deleted jobs."""
    return usage_of(session, owner).gpu_seconds / 3600.0


def _view(session: Session, owner: str) -> QuotaSchema:
    limits = limits_of(session, [owner])[owner]
    return QuotaSchema(
        owner=owner,
        **limits.model_dump(),
        queued=count_jobs(session, owner, ("queued",)),
        running=count_jobs(session, owner, LEASED),
        gpu_hours_used=gpu_hours_used(session, owner),
    )
