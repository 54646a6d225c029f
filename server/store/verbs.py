"""What people ask of a job, inside a transaction: each verb checks, changes, and leaves a record in the audit trail."""

from __future__ import annotations

from typing import cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.errors import Conflict, NotFound
from nas.core.lifecycle import ENDED, JobStatus, Verb, check_verb
from server.store import audit, measurements
from server.store.models import Job, OwnerRow
from server.store.quotas import require_room_in_queue
from server.store.transitions import account, change


def pause(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Queued jobs are parked at once, running ones at their next durable result."""
    if (job := _asked(session, job_id, "pause", by, now)) is not None:
        change(session, job, "pausing" if job.status == "running" else "paused", now, "paused", by.owner)


def resume(session: Session, job_id: str, by: Principal, now: float) -> None:
    """A parked job waits again; one that was still on its way there runs on."""
    if (job := _asked(session, job_id, "resume", by, now)) is not None:
        change(session, job, "running" if job.status == "pausing" else "queued", now, "resumed", by.owner)


def cancel(session: Session, job_id: str, by: Principal, now: float) -> None:
    """The lease, if any, is over with this."""
    if (job := _asked(session, job_id, "cancel", by, now)) is not None:
        change(session, job, "cancelled", now, "cancelled", by.owner)


def retry(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Crashes before do not count any more."""
    if (job := _asked(session, job_id, "retry", by, now)) is not None:
        require_room_in_queue(session, job.owner)
        job.stalled, job.last_crash = 0, None
        measurements.try_again(session, job_id, now)
        change(session, job, "queued", now, "retried", by.owner)


def delete(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Removes the rows; blobs that nobody points at any more go with the next collection."""
    job = _asked(session, job_id, "delete", by, now)
    assert job is not None  # there is no status in which a delete is settled
    if job.kind == "device":
        raise Conflict(f"job {job_id} is the onboarding of a device, whose predictor belongs to it")
    needed = select(Job.id, Job.status).where(Job.spec["supernet"].as_string() == job_id)
    waiting = [row.id for row in session.execute(needed) if row.status not in ENDED]
    if waiting:
        raise Conflict(f"search {job_id} cannot be deleted yet: {', '.join(waiting)} uses its supernet")
    session.execute(update(Job).where(Job.parent_id == job_id).values(parent_id=None))
    _remove(session, job)


def discard(session: Session, job_id: str, now: float) -> None:
    """Removes a dry run, whatever its status: the lease of its worker, if any, is over with this."""
    job = session.get(Job, job_id, with_for_update=True)
    if job is not None and job.kind == "dry_run":
        account(job, now)
        _remove(session, job)


def discard_older(session: Session, than: float, now: float) -> None:
    """Removes dry runs whose server has died before it could."""
    for job_id in session.scalars(select(Job.id).where(Job.kind == "dry_run", Job.created_at < than)).all():
        discard(session, job_id, now)


def _remove(session: Session, job: Job) -> None:
    """Deletes the rows of a job; the GPU time that it took stays on its owner's account."""
    if gpu_seconds := job.busy_seconds * job.resources.get("gpus", 0):
        row = session.get(OwnerRow, job.owner, with_for_update=True) or OwnerRow(
            name=job.owner, gpu_seconds_deleted=0.0
        )
        row.gpu_seconds_deleted += gpu_seconds
        session.add(row)
    session.delete(job)


def set_priority(session: Session, job_id: str, priority: int, by: Principal, now: float) -> None:
    """Higher goes first among the jobs of one owner."""
    job = _locked(session, job_id)
    if job.status in ENDED:
        raise Conflict(f"job {job_id} has ended ({job.status}), so its priority means nothing")
    audit.record(session, by, f"prioritise {job.kind}", job_id, now, before=job.priority, after=priority)
    job.priority = priority


def _asked(session: Session, job_id: str, verb: Verb, by: Principal, now: float) -> Job | None:
    """The job, locked, or None when it is already as asked. Raises NotFound or Conflict."""
    job = _locked(session, job_id)
    if not check_verb(job_id, verb, cast(JobStatus, job.status)):
        return None
    audit.record(session, by, f"{verb} {job.kind}", job_id, now, name=job.name, status=job.status)
    return job


def _locked(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job
