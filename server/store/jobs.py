"""The job store: queue and event log in a database, the ``JobStore`` of ``nas.core.jobs``.

A claim grants a lease with a fencing token. Every write of a worker carries its token and happens in one transaction
with its projections, so a worker without a valid lease writes nothing. Commands are in ``job_commands``, the order of
the queue is in ``queue``, leases are in ``leases``, and all status changes in ``transitions``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from itertools import chain, islice
from typing import Literal

from pydantic import JsonValue, ValidationError
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from nas.core.access import LOCAL, LOCAL_OWNER, Principal
from nas.core.cascade_spec import CascadeSpec
from nas.core.device import DeviceProfile
from nas.core.errors import Conflict, HwnasError, InvalidInput, InvalidSpec
from nas.core.events import EncodedEvent, MeasurementsWanted, StatusChanged
from nas.core.jobs import AppendOutcome, JobKind, JobSpec, Lease, LeaseToken
from nas.core.lifecycle import LEASED
from nas.core.model_spec import ModelSpec
from nas.core.scheduling import NodeResources, required_resources
from nas.core.spec import DeviceSpec, SearchSpec
from server.store import audit, job_commands, measurements
from server.store.changes import note_change
from server.store.clock import DatabaseClock
from server.store.database import reading, writing
from server.store.fronts import FrontProjector
from server.store.job_payload import build_payload
from server.store.json_columns import StageBar
from server.store.json_validation import dump_spec, validate_events
from server.store.leases import (
    excuse_expiry,
    expired_leases,
    grant_lease,
    lock_leased,
    return_expired,
    return_to_queue,
    was_parked_by,
)
from server.store.models import EventRow, Job, WorkerRow
from server.store.onboardings import register_onboarding
from server.store.projections import project, thin_progress
from server.store.queue import capacity_shortage, claimable_jobs, cluster_capacity, is_over_quota, note_urgent_claim
from server.store.quotas import has_spent_gpu_hours, require_dry_run_quota, require_queue_quota
from server.store.stage_prices import keep_finished_search, known_prices
from server.store.transitions import account_busy_time, append_status, change_status
from server.store.usage import add_usage
from server.store.user_models import register_intake

MAX_STALLED = 5
CLAIM_TRIES = 16  # of the first jobs, should other dispatchers be faster
DRY_RUN_LIFETIME_S = 3600.0  # a dry run that its server has not removed by then is removed
_WORKER_LIFETIME_S = 24 * 3600.0  # of the row of a dispatcher without heartbeats


class SqlJobStore:
    """Jobs in SQLite or PostgreSQL. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock
        self._fronts = FrontProjector()

    # Submission and commands

    def find(self, spec: JobSpec, key: str, owner: str = LOCAL_OWNER) -> str | None:
        """Return the job that ``owner`` submitted with ``key``, if any. Raises Conflict if it had another spec."""
        with reading(self._engine) as session:
            return _find_by_key(session, spec, key, owner)

    def submit(
        self,
        spec: JobSpec,
        key: str | None,
        *,
        dry_run: bool = False,
        space_id: str | None = None,
        parent: str | None = None,
        stages: Sequence[str] = (),
        by: Principal = LOCAL,
        priority: int = 0,
    ) -> str:
        """Queue a job and return its id; if the idempotency ``key`` was used before, return the id of that job.

        ``dry_run``: only estimate the cost of the search. ``space_id`` identifies the built search space, by which its
        predictor is found. Raises Conflict if the key was used for another spec or the device or model is being added
        already, Forbidden for the device of another owner, InvalidSpec for text that cannot be stored and for more
        resources than any node has, and QuotaExceeded.
        """
        record = dump_spec(spec)
        kind = "dry_run" if dry_run else _kind_of(spec)
        required = required_resources(spec)
        try:
            with writing(self._engine) as session:
                if key is not None and (existing := _find_by_key(session, spec, key, by.owner)) is not None:
                    return existing
                now = self._clock(session)
                if (reason := capacity_shortage(required, cluster_capacity(session, now))) is not None:
                    raise InvalidSpec(f"resources: {reason}")
                if kind == "dry_run":
                    job_commands.discard_created_before(session, now - DRY_RUN_LIFETIME_S, now)
                    require_dry_run_quota(session, by.owner)
                require_queue_quota(session, by.owner)
                prices = known_prices(session, by.owner, record) if kind == "search" else {}
                job = Job(
                    id=secrets.token_hex(6),
                    kind=kind,
                    owner=by.owner,
                    priority=priority,
                    name=spec.name,
                    spec=record,
                    space_id=space_id,
                    status="queued",
                    idempotency_key=f"{by.owner}/{key}" if key is not None else None,
                    parent_id=parent,
                    created_at=now,
                    last_seq=0,
                    resources=required,
                    stages=tuple(StageBar(name, price_s=prices.get(name)) for name in stages),
                )
                session.add(job)
                session.flush()
                append_status(session, job, StatusChanged(None, "queued", "submitted", by.owner), now)
                if kind == "device":
                    register_onboarding(session, job, by)
                if kind == "model":
                    register_intake(session, job, by)
                if kind != "dry_run":
                    audit.record(session, by, f"submit {kind}", job.id, now, name=job.name)
                return job.id
        except IntegrityError:  # a concurrent transaction used the same key or device: return what it created
            if key is not None and (existing := self.find(spec, key, by.owner)) is not None:
                return existing
            if kind in ("device", "model"):
                raise Conflict(f"{kind} {spec.name!r} is being added already") from None
            raise

    def pause(self, job_id: str, by: Principal = LOCAL) -> None:
        """Pause a job: at once if it is queued, else at its next durable result. Raises NotFound, or Conflict if it has
        ended."""
        with writing(self._engine) as session:
            job_commands.pause(session, job_id, by, self._clock(session))

    def resume(self, job_id: str, by: Principal = LOCAL) -> None:
        """Return a paused job to the queue, or let a pausing job continue. Raises NotFound or Conflict."""
        with writing(self._engine) as session:
            job_commands.resume(session, job_id, by, self._clock(session))

    def cancel(self, job_id: str, by: Principal = LOCAL) -> None:
        """Cancel a job at once: its lease ends, and earlier results stay. Raises NotFound, or Conflict if it has ended
        otherwise."""
        with writing(self._engine) as session:
            job_commands.cancel(session, job_id, by, self._clock(session))

    def retry(self, job_id: str, by: Principal = LOCAL) -> None:
        """Queue a failed, cancelled or quarantined job again; it continues from its last checkpoint. Raises NotFound,
        Conflict or QuotaExceeded."""
        with writing(self._engine) as session:
            job_commands.retry(session, job_id, by, self._clock(session))

    def delete(self, job_id: str, by: Principal = LOCAL) -> None:
        """Delete a paused or ended search with its results, or an onboarding that made no predictor. Raises NotFound,
        or Conflict while it runs or another unfinished search needs its supernet."""
        with writing(self._engine) as session:
            job_commands.delete(session, job_id, by, self._clock(session))

    def discard(self, job_id: str) -> None:
        """Delete a dry run, running or not, if it exists."""
        with writing(self._engine) as session:
            job_commands.discard(session, job_id, self._clock(session))

    def set_priority(self, job_id: str, priority: int, by: Principal = LOCAL) -> None:
        """Set the priority of a job among the jobs of its owner. Raises NotFound, or Conflict if it has ended."""
        with writing(self._engine) as session:
            job_commands.set_priority(session, job_id, priority, by, self._clock(session))

    # Dispatchers

    def claim(self, worker: str, seconds: float, free: Sequence[NodeResources] | None = None) -> Lease | None:
        """Lease the next job in fair order that fits one of the ``free`` nodes (None: any job). First returns jobs with
        an expired lease to the queue; a job whose attempts all end without progress is quarantined."""
        work = self._find_work(free)  # which waits for no lock, while most claims find nothing to do
        if work is None:
            return None
        with writing(self._engine) as session:
            now = self._clock(session)
            return_expired(session, now)
            for job_id in chain(work, claimable_jobs(session, free, now)):
                query = select(Job).where(Job.id == job_id, Job.status == "queued")
                job = session.scalars(query.with_for_update(skip_locked=True)).first()
                if job is None or is_over_quota(session, job.owner):  # another dispatcher has claimed it or was first
                    continue
                now = self._clock(session)
                if job.stalled >= MAX_STALLED:
                    last = f"; the last one: {job.last_crash}" if job.last_crash else ""
                    reason = f"{MAX_STALLED} attempts ended without progress{last}"
                    change_status(session, job, "quarantined", now, reason)
                    continue
                try:
                    payload = build_payload(session, job)
                except HwnasError as error:
                    change_status(session, job, "failed", now, str(error))
                    continue
                if job.kind == "dry_run":
                    note_urgent_claim(session, job.owner, now)
                return grant_lease(session, job, worker, now, seconds, payload)
        return None

    def _find_work(self, free: Sequence[NodeResources] | None) -> list[str] | None:
        """The ids of the first jobs that can be claimed; None if there are neither such jobs nor expired leases."""
        with reading(self._engine) as session:
            now = self._clock(session)
            claimable = list(islice(claimable_jobs(session, free, now), CLAIM_TRIES))
            expired = session.scalars(expired_leases(now).with_only_columns(Job.id).limit(1)).first()
            return None if not claimable and expired is None else claimable

    def append(self, lease: LeaseToken, batch: int, events: Sequence[EncodedEvent], seconds: float) -> AppendOutcome:
        """Write the ``batch``-th batch of this lease with its projections, and renew the lease. A batch that was
        written before is not written again.

        Returns ``lost``, having written nothing, if the lease no longer holds; ``stop`` if the job is parked with this
        batch. Raises InvalidInput if events are malformed, too many, too large, or out of order.
        """
        texts, decoded = validate_events(events)
        with writing(self._engine) as session, session.no_autoflush:  # one UPDATE of the job, at the end
            now = self._clock(session)
            job = lock_leased(session, lease, now)
            if job is None:
                if was_parked_by(session, lease, batch):
                    return "stop"
                excuse_expiry(session, lease)
                return "lost"
            if batch > job.lease_batch + 1:
                raise InvalidInput(f"expected batch {job.lease_batch + 1} of this lease, got {batch}")
            account_busy_time(session, job, now)
            job.lease_expires_at = now + seconds
            if job.status == "running" and has_spent_gpu_hours(session, job):
                change_status(session, job, "pausing", now, f"{job.owner} has used up the GPU-hours of the quota")
            if batch <= job.lease_batch:
                return "continue"
            job.lease_batch = batch
            numbered = list(enumerate(decoded, start=job.last_seq + 1))
            if not numbered:
                return "continue"
            rows = [
                {"job_id": job.id, "seq": seq, "at": now, "body": text}
                for (seq, _), text in zip(numbered, texts, strict=True)
            ]
            session.execute(insert(EventRow), rows)
            add_usage(session, job, events=len(rows))
            note_change(session, job.id)
            job.last_seq = numbered[-1][0]
            projection = project(session, job, numbered, now)
            if job.kind == "search":
                self._fronts.project(session, job, projection.changes)
            thinned = thin_progress(job.stages)
            if thinned.surplus:
                job.stages = thinned.bars
                session.execute(delete(EventRow).where(EventRow.job_id == job.id, EventRow.seq.in_(thinned.surplus)))
            requests = [event for event in decoded if isinstance(event, MeasurementsWanted)]
            for event in requests:
                measurements.create_tasks(session, job, event, now)
            if requests:
                devices = dict.fromkeys(event.profile.name for event in requests)
                return_to_queue(session, job, now, None, f"waiting for device {' and '.join(devices)}")
                return "stop"
            if projection.durable and job.status == "pausing":
                change_status(session, job, "paused", now, "reached a durable result")
                return "stop"
            return "continue"

    def renew(self, leases: Collection[LeaseToken], seconds: float) -> list[LeaseToken]:
        """Renew leases for so many seconds, all in one transaction. Returns those that hold no longer."""
        lost = []
        with writing(self._engine) as session:
            now = self._clock(session)
            for lease in sorted(leases, key=lambda lease: lease.job_id):  # in one order, against deadlocks
                job = lock_leased(session, lease, now)
                if job is None:
                    excuse_expiry(session, lease)
                    lost.append(lease)
                    continue
                account_busy_time(session, job, now)
                job.lease_expires_at = now + seconds
        return lost

    def finish(
        self, lease: LeaseToken, status: Literal["succeeded", "failed", "cancelled"], error: str | None = None
    ) -> bool:
        """End the job. False, having written nothing, if the lease no longer holds; idempotent for one lease and
        status, since the response may be lost."""
        with writing(self._engine) as session:
            now = self._clock(session)
            job = lock_leased(session, lease, now)
            if job is None:
                ended = session.get(Job, lease.job_id)
                return ended is not None and (ended.lease_token, ended.status) == (lease.token, status)
            change_status(session, job, status, now, error or "")
            if job.kind == "search" and status == "succeeded":
                keep_finished_search(session, job, now)
            return True

    def release(self, lease: LeaseToken, crash: str | None = None, delay_s: float = 0.0) -> bool:
        """Return the job to the queue. ``crash``: why the attempt failed; None if it was interrupted, which is not
        counted as a crash. ``delay_s``: how long the job waits after a first crash; doubled with each more. False if
        the lease no longer holds."""
        with writing(self._engine) as session:
            now = self._clock(session)
            job = lock_leased(session, lease, now)
            if job is None:
                return False
            if delay_s > 0:
                job.available_at = now + delay_s * 2 ** max(0, job.stalled - 1)
            return_to_queue(session, job, now, crash)
            return True

    def release_dead(self, dead: Callable[[str], bool]) -> int:
        """Unregister dispatchers that are ``dead`` and return their jobs to the queue; for use at a restart. Returns
        the number of jobs."""
        with writing(self._engine) as session:
            names = [name for name in session.scalars(select(WorkerRow.owner)) if dead(name)]
            session.execute(delete(WorkerRow).where(WorkerRow.owner.in_(names)))
            jobs = session.scalars(select(Job).where(Job.status.in_(LEASED)).with_for_update()).all()
            orphaned = [job for job in jobs if job.lease_owner is not None and dead(job.lease_owner)]
            for job in orphaned:
                return_to_queue(session, job, self._clock(session), "the service was stopped or crashed")
            return len(orphaned)

    def leases_of(self, worker: str) -> list[LeaseToken]:
        """Return every lease of a dispatcher."""
        with reading(self._engine) as session:
            query = select(Job.id, Job.lease_token).where(Job.lease_owner == worker, Job.status.in_(LEASED))
            return [LeaseToken(row[0], row[1]) for row in session.execute(query)]

    def heartbeat(
        self,
        worker: str,
        slots: int,
        nodes: Sequence[NodeResources] = (),
        free: Sequence[NodeResources] = (),
        elastic: bool = False,
        machine: DeviceProfile | None = None,
    ) -> None:
        """Register a dispatcher as alive, with ``slots`` concurrent jobs, the total and free resources of its cluster's
        nodes, and the ``machine`` that it runs on."""
        with writing(self._engine) as session:
            now = self._clock(session)
            session.execute(delete(WorkerRow).where(WorkerRow.seen_at < now - _WORKER_LIFETIME_S))
            session.merge(
                WorkerRow(
                    owner=worker,
                    slots=slots,
                    seen_at=now,
                    nodes=tuple(nodes),
                    free=tuple(free),
                    elastic=elastic,
                    machine=machine,
                )
            )

    def unregister(self, worker: str) -> None:
        """Remove a dispatcher that stops."""
        with writing(self._engine) as session:
            session.execute(delete(WorkerRow).where(WorkerRow.owner == worker))


def _find_by_key(session: Session, spec: JobSpec, key: str, owner: str) -> str | None:
    """The job that was submitted with a key. Raises Conflict if it had another spec: specs are compared as values, so
    that a field with a default that was added since makes no difference."""
    job = session.scalars(select(Job).where(Job.idempotency_key == f"{owner}/{key}")).first()
    if job is None:
        return None
    if job.kind != _kind_of(spec) or _read_spec(type(spec), job.spec) != spec:
        raise Conflict(f"the idempotency key {key!r} was used for another spec (job {job.id})")
    return job.id


def _kind_of(spec: JobSpec) -> JobKind:
    match spec:
        case SearchSpec():
            return "search"
        case DeviceSpec():
            return "device"
        case ModelSpec():
            return "model"
        case CascadeSpec():
            return "cascade"


def _read_spec(spec_type: type[JobSpec], record: dict[str, JsonValue]) -> JobSpec | None:
    """A stored spec; None if it is no longer valid."""
    try:
        return spec_type.model_validate(record)
    except ValidationError:
        return None
