"""The one place where a job's status changes: a legal transition, its event and its accounts, in one transaction.

The caller holds the job's row locked, so that a transition is a compare-and-set.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy.orm import Session

from nas.core.events import StatusChanged, encode
from nas.core.lifecycle import ENDED, LEASED, JobStatus, check_transition
from server.store.models import EventRow, Job


def change(session: Session, job: Job, after: JobStatus, now: float, reason: str = "", by: str = "") -> None:
    """Makes ``job`` become ``after``. Raises Conflict for a transition that is not legal."""
    before = cast(JobStatus, job.status)
    check_transition(job.id, before, after)
    account(job, now)
    job.status = after
    if after not in LEASED:
        job.lease_owner, job.lease_expires_at, job.busy_until = None, None, None
    job.finished_at = now if after in ENDED else None
    job.error = reason if after in ("failed", "quarantined") else None
    log(session, job, StatusChanged(before, after, reason, by), now)


def log(session: Session, job: Job, event: StatusChanged, now: float) -> None:
    """Appends a status event to the job's log."""
    job.last_seq += 1
    session.add(EventRow(job_id=job.id, seq=job.last_seq, at=now, body=encode(event)))


def account(job: Job, now: float) -> None:
    """Counts the time that a worker has held the job, not beyond the end of its lease."""
    if job.busy_until is not None:
        until = min(now, job.lease_expires_at if job.lease_expires_at is not None else now)
        job.busy_seconds += max(0.0, until - job.busy_until)
        job.busy_until = until
