"""Leases on jobs as rows: grant one, check that it still holds, and return the job when it ends early."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, defer

from nas.core.events import EncodedEvent, Progress, StatusChanged
from nas.core.jobs import JobPayload, Lease, LeaseToken
from nas.core.lifecycle import LEASED
from server.store.models import EventRow, Job
from server.store.transitions import change_status

_UNUSED_COLUMNS = (defer(Job.spec), defer(Job.state))  # by most appends


def grant_lease(session: Session, job: Job, worker: str, now: float, seconds: float, payload: JobPayload) -> Lease:
    """Lease a queued job to a worker."""
    events = _events_of_workers(session, job.id)
    change_status(session, job, "running", now, f"claimed by {worker}")
    job.started_at, job.available_at = job.started_at or now, None
    job.attempts += 1
    job.stalled += 1
    job.lease_owner, job.lease_token, job.lease_expires_at = worker, job.lease_token + 1, now + seconds
    job.lease_batch, job.busy_until = 0, now
    return Lease(job.id, job.lease_token, now + seconds, payload, events)


def lock_leased(session: Session, lease: LeaseToken, now: float) -> Job | None:
    """Lock and return the job if the lease on it still holds."""
    job = session.get(Job, lease.job_id, with_for_update=True, options=_UNUSED_COLUMNS)
    if job is None or job.status not in LEASED or job.lease_token != lease.token or job.lease_expires_at is None:
        return None
    return job if now < job.lease_expires_at else None


def was_parked_by(session: Session, lease: LeaseToken, batch: int) -> bool:
    """Whether this batch of this lease has parked the job before, so that only the response was lost."""
    job = session.get(Job, lease.job_id)
    if job is None or (job.lease_token, job.lease_batch) != (lease.token, batch):
        return False
    return job.status in ("paused", "queued")  # queued: it waits for an agent


def return_to_queue(session: Session, job: Job, now: float, crash: str | None, reason: str = "interrupted") -> None:
    """End a lease before the job has ended: the job returns to the queue, or is paused if it was pausing."""
    after: Literal["paused", "queued"] = "paused" if job.status == "pausing" else "queued"
    if crash is None:
        job.stalled = max(0, job.stalled - 1)
    else:
        job.last_crash = crash
    change_status(session, job, after, now, crash or reason)


def expired_leases(now: float) -> Select[Job]:
    """The jobs whose lease has expired."""
    return select(Job).where(Job.status.in_(LEASED), Job.lease_expires_at <= now)


def return_expired(session: Session, now: float) -> None:
    """Return every job to the queue whose lease has expired."""
    for job in session.scalars(expired_leases(now).with_for_update(skip_locked=True)).all():
        job.expired_token = job.lease_token
        return_to_queue(session, job, now, f"lost contact with worker {job.lease_owner}")


def excuse_expiry(session: Session, lease: LeaseToken) -> None:
    """Take back that the expiry of a lease was counted as a crash: its worker lives, so it was late, or a clock was
    wrong, and the job is not to blame."""
    job = session.get(Job, lease.job_id, with_for_update=True)
    if job is not None and job.expired_token == lease.token:
        job.stalled, job.expired_token = max(0, job.stalled - 1), None


def _events_of_workers(session: Session, job_id: str) -> tuple[EncodedEvent, ...]:
    """The events that workers wrote, with only the latest progress of each stage."""
    rows = session.scalars(select(EventRow.body).where(EventRow.job_id == job_id).order_by(EventRow.seq))
    bodies = [body for body in rows if body["kind"] != StatusChanged.kind]
    newest = {body["stage"]: i for i, body in enumerate(bodies) if body["kind"] == Progress.kind}
    return tuple(b for i, b in enumerate(bodies) if b["kind"] != Progress.kind or newest[b["stage"]] == i)
