"""Commands on jobs (pause, resume, cancel, retry, delete, prioritise), each within the caller's transaction.

A command checks the job's status, changes the job, and writes an audit record.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.errors import Conflict, NotFound
from nas.core.lifecycle import ENDED, STATUSES, JobCommand, JobStatus, check_command
from server.store import audit, measurements
from server.store.cascades import delete_cascades
from server.store.models import Job
from server.store.onboardings import detach_onboarding, require_no_other_onboarding, require_owner_of_job
from server.store.quotas import require_queue_quota
from server.store.transitions import account_busy_time, change_status


def pause(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Pause a queued job at once, a running one at its next durable result."""
    if (job := _begin_command(session, job_id, "pause", by, now)) is not None:
        change_status(session, job, "pausing" if job.status == "running" else "paused", now, "paused", by.owner)


def resume(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Return a paused job to the queue; let a pausing job continue to run."""
    if (job := _begin_command(session, job_id, "resume", by, now)) is not None:
        change_status(session, job, "running" if job.status == "pausing" else "queued", now, "resumed", by.owner)


def cancel(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Cancel a job; this ends its lease, if any."""
    if (job := _begin_command(session, job_id, "cancel", by, now)) is not None:
        change_status(session, job, "cancelled", now, "cancelled", by.owner)


def retry(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Return an ended job to the queue and reset its crash count."""
    if (job := _begin_command(session, job_id, "retry", by, now)) is not None:
        if job.kind == "device":
            require_no_other_onboarding(session, job)
        require_queue_quota(session, job.owner)
        job.stalled, job.last_crash, job.available_at = 0, None, None
        measurements.requeue_failed(session, job_id, now)
        change_status(session, job, "queued", now, "retried", by.owner)


def delete(session: Session, job_id: str, by: Principal, now: float) -> None:
    """Delete the rows of a job; garbage collection removes its blobs later."""
    job = _begin_command(session, job_id, "delete", by, now)
    assert job is not None  # no status makes a delete a no-op
    if job.kind == "device":
        detach_onboarding(session, job)
    unfinished = Job.status.in_([status for status in STATUSES if status not in ENDED])
    dependents = select(Job.id).where(unfinished, Job.spec["supernet"].as_string() == job_id)
    if active := session.scalars(dependents).all():
        raise Conflict(f"search {job_id} cannot be deleted yet: {', '.join(active)} uses its supernet")
    students = select(Job.id).where(unfinished, Job.spec["retrain", "teacher", "search"].as_string() == job_id)
    if active := session.scalars(students).all():
        raise Conflict(f"search {job_id} cannot be deleted yet: {', '.join(active)} learns from its model")
    delete_cascades(session, job_id, now)
    session.execute(update(Job).where(Job.parent_id == job_id).values(parent_id=None))
    session.delete(job)


def discard(session: Session, job_id: str, now: float) -> None:
    """Delete a dry run, whatever its status; this ends its lease, if any."""
    job = session.get(Job, job_id, with_for_update=True)
    if job is not None and job.kind == "dry_run":
        account_busy_time(session, job, now)
        session.delete(job)


def discard_created_before(session: Session, limit: float, now: float) -> None:
    """Delete dry runs that a server has left behind because it died."""
    for job_id in session.scalars(select(Job.id).where(Job.kind == "dry_run", Job.created_at < limit)).all():
        discard(session, job_id, now)


def set_priority(session: Session, job_id: str, priority: int, by: Principal, now: float) -> None:
    """Set the priority of a job among the jobs of its owner; higher goes first."""
    job = _lock_job(session, job_id)
    require_owner_of_job(session, job, by)
    if job.status in ENDED:
        raise Conflict(f"job {job_id} has ended ({job.status}), so its priority cannot be changed")
    audit.record(session, by, f"prioritise {job.kind}", job_id, now, before=job.priority, after=priority)
    job.priority = priority


def _begin_command(session: Session, job_id: str, command: JobCommand, by: Principal, now: float) -> Job | None:
    """Lock the job, check the command and record it; None if it has no effect. Raises NotFound, Forbidden for the
    onboarding of another owner, or Conflict."""
    job = _lock_job(session, job_id)
    require_owner_of_job(session, job, by)
    if not check_command(job_id, command, cast(JobStatus, job.status)):
        return None
    audit.record(session, by, f"{command} {job.kind}", job_id, now, name=job.name, status=job.status)
    return job


def _lock_job(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job
