"""Status transitions of jobs: check the transition, write its event, and account busy time, in one transaction.

All status changes go through this module. The caller has locked the job's row, so a transition is a compare-and-set.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy.orm import Session

from nas.core.events import StatusChanged, encode
from nas.core.lifecycle import ENDED, LEASED, JobStatus, check_transition
from server.store.changes import note_change
from server.store.models import EventRow, Job, NoticeRow
from server.store.usage import add_usage

ANNOUNCED: tuple[JobStatus, ...] = ("succeeded", "failed", "quarantined")
"""The ends of a search of which webhooks are told: those that nobody has caused by a command."""


def change_status(session: Session, job: Job, after: JobStatus, now: float, reason: str = "", by: str = "") -> None:
    """Set the status of a job. Raises Conflict for an illegal transition."""
    before = cast(JobStatus, job.status)
    check_transition(job.id, before, after)
    account_busy_time(session, job, now)
    job.status = after
    if after not in LEASED:
        job.lease_owner, job.lease_expires_at, job.busy_until = None, None, None
    job.finished_at = now if after in ENDED else None
    job.error = reason if after in ("failed", "quarantined") else None
    append_status(session, job, StatusChanged(before, after, reason, by), now)
    if job.kind == "search" and after in ANNOUNCED:
        session.add(NoticeRow(job_id=job.id, seq=job.last_seq, at=now, attempts=0, next_at=now))


def append_status(session: Session, job: Job, event: StatusChanged, now: float) -> None:
    """Append a status event to the job's log."""
    job.last_seq += 1
    add_usage(session, job, events=1)
    note_change(session, job.id)
    session.add(EventRow(job_id=job.id, seq=job.last_seq, at=now, body=encode(event)))


def account_busy_time(session: Session, job: Job, now: float) -> None:
    """Add the time since the last call to the job's busy seconds, up to the end of its lease."""
    if job.busy_until is not None:
        until = min(now, job.lease_expires_at if job.lease_expires_at is not None else now)
        added = max(0.0, until - job.busy_until)
        job.busy_seconds += added
        job.busy_until = until
        add_usage(session, job, busy_seconds=added)
