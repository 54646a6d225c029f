"""The queue and the log in a database: the ``JobStore`` of ``nas.core.ports``.

A claim is a lease with a fencing token. Every write of a worker names its token and happens in one transaction with
its projections, so a worker that was given up on writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Engine, and_, delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from nas.core.errors import Conflict, HwnasError, InvalidInput, InvalidSpec, NotFound
from nas.core.events import Evaluated, Event, Progress, decode
from nas.core.metrics import metric_info
from nas.core.ports import JobKind, Lease, Room, Verdict
from server.store.database import reading, writing
from server.store.models import DeviceRow, EventRow, Job, WorkerRow
from server.store.projections import new_stage, project, surplus_progress
from server.store.resolve import resolve

MAX_STALLED = 5
_FORGET_WORKER_S = 24 * 3600.0
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # as JSON writes it; PostgreSQL cannot store it


class SqlJobStore:
    """Jobs in SQLite or PostgreSQL. ``clock`` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def find(self, kind: JobKind, spec: Mapping[str, Any], key: str) -> str | None:
        """The job that was submitted with ``key``, if any. Raises Conflict if that was another spec."""
        with reading(self._engine) as session:
            return _known(session, kind, spec_hash(spec), key)

    def submit(
        self,
        kind: JobKind,
        spec: Mapping[str, Any],
        key: str | None,
        *,
        space_id: str | None = None,
        parent: str | None = None,
        stages: Sequence[str] = (),
    ) -> str:
        """Queues a job and returns its id; with a ``key`` that is known, the id it had.

        ``space_id`` names the built search space, by which its predictor is found. Raises Conflict for a key known with
        another spec and for a device that is being added already, InvalidSpec for values that JSON cannot hold.
        """
        digest = spec_hash(spec)
        try:
            with writing(self._engine) as session:
                if key is not None and (known := _known(session, kind, digest, key)) is not None:
                    return known
                job = Job(
                    id=secrets.token_hex(6),
                    kind=kind,
                    name=str(spec["name"]),
                    spec=dict(spec),
                    spec_hash=digest,
                    space_id=space_id,
                    idempotency_key=f"local/{key}" if key is not None else None,
                    parent_id=parent,
                    created_at=self._clock(),
                    stages=[new_stage(name) for name in stages],
                )
                session.add(job)
                session.flush()
                if kind == "device":
                    _register_device(session, job)
                return job.id
        except IntegrityError:  # another process was faster with the same key or device: answer as if it came first
            if key is not None and (known := self.find(kind, spec, key)) is not None:
                return known
            if kind == "device":
                raise Conflict(f"device {spec['name']!r} is being added already") from None
            raise

    def claim(self, worker: str, seconds: float, free: Sequence[Room] | None = None) -> Lease | None:
        """The oldest job that waits or whose lease has passed, or None. Gives up on jobs that only ever crash."""
        with writing(self._engine) as session:
            while (job := self._next(session)) is not None:
                now = self._clock()
                if job.stalled >= MAX_STALLED:
                    reason = f"; the last one: {job.last_crash}" if job.last_crash else ""
                    _end(job, "failed", f"{MAX_STALLED} attempts ended without any progress{reason}", now)
                    continue
                try:
                    resolved = resolve(session, job)
                except HwnasError as error:
                    _end(job, "failed", str(error), now)
                    continue
                return _lease(session, job, worker, now, seconds, resolved)
        return None

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> Verdict:
        """Writes events and their projections if the lease still holds, and renews it.

        Returns ``lost``, having written nothing, when it does not. Raises InvalidInput for events that are none.
        """
        bodies = [_storable(event) for event in events]
        decoded = [_decoded(body) for body in bodies]
        with writing(self._engine) as session:
            now = self._clock()
            job = _held(session, lease, now)
            if job is None:
                return "lost"
            if batch <= job.lease_batch:
                return "continue"
            job.lease_batch = batch
            numbered = list(enumerate(decoded, start=job.last_seq + 1))
            rows = zip(numbered, bodies, strict=True)
            session.add_all(EventRow(job_id=job.id, seq=seq, at=now, body=body) for (seq, _), body in rows)
            if numbered:
                job.last_seq = numbered[-1][0]
                project(session, job, numbered, now)
                job.stages, surplus = surplus_progress(job.stages)
                if surplus:
                    session.flush()
                    session.execute(delete(EventRow).where(EventRow.job_id == job.id, EventRow.seq.in_(surplus)))
            job.lease_expires_at = now + seconds
            return "continue"

    def finish(
        self, lease: Lease, status: Literal["succeeded", "failed", "cancelled"], error: str | None = None
    ) -> bool:
        """Ends the job; False, having written nothing, when the lease does not hold any more."""
        with writing(self._engine) as session:
            now = self._clock()
            job = _held(session, lease, now)
            if job is not None:
                _end(job, status, error, now)
            return job is not None

    def release(self, lease: Lease, crash: str | None = None) -> bool:
        """Puts the job back into the queue. ``crash`` says why the attempt failed; None when it was only interrupted,
        which is not held against the job. False when the lease does not hold any more."""
        with writing(self._engine) as session:
            job = _held(session, lease, self._clock())
            if job is None:
                return False
            _requeue(job)
            if crash is None:
                job.stalled = max(0, job.stalled - 1)
            else:
                job.last_crash = crash
            return True

    def release_dead(self, dead: Callable[[str], bool]) -> int:
        """Puts every job back into the queue whose owner is ``dead``; how many. For use at a restart."""
        with writing(self._engine) as session:
            jobs = session.scalars(select(Job).where(Job.status == "running").with_for_update()).all()
            gone = [job for job in jobs if job.lease_owner is not None and dead(job.lease_owner)]
            for job in gone:
                _requeue(job)
                job.last_crash = "the service was stopped or crashed"
            return len(gone)

    def cancel(self, job_id: str) -> None:
        """Cancels a job, now: a worker that has it writes nothing any more and is told so.

        Raises NotFound, or Conflict when it has ended otherwise.
        """
        with writing(self._engine) as session:
            job = session.get(Job, job_id, with_for_update=True)
            if job is None:
                raise NotFound(f"no job {job_id!r}")
            if job.status in ("succeeded", "failed"):
                raise Conflict(f"job {job_id} has {job.status} already, so it cannot be cancelled")
            if job.status != "cancelled":
                _end(job, "cancelled", None, self._clock())

    def held(self, worker: str) -> list[tuple[str, int]]:
        """The jobs whose lease a dispatcher has, with their tokens."""
        with reading(self._engine) as session:
            mine = (Job.status == "running") & (Job.lease_owner == worker) & (Job.lease_expires_at > self._clock())
            return [(row.id, row.lease_token) for row in session.execute(select(Job.id, Job.lease_token).where(mine))]

    def beat(
        self, worker: str, slots: int, nodes: Sequence[Room] = (), free: Sequence[Room] = (), elastic: bool = False
    ) -> None:
        """A dispatcher says that it is there, ready for ``slots`` jobs at a time."""
        with writing(self._engine) as session:
            now = self._clock()
            session.execute(delete(WorkerRow).where(WorkerRow.seen_at < now - _FORGET_WORKER_S))
            session.merge(WorkerRow(owner=worker, slots=slots, seen_at=now))

    def leave(self, worker: str) -> None:
        """A dispatcher says that it stops."""
        with writing(self._engine) as session:
            session.execute(delete(WorkerRow).where(WorkerRow.owner == worker))

    def _next(self, session: Session) -> Job | None:
        passed = and_(Job.status == "running", Job.lease_expires_at <= self._clock())
        return session.scalars(
            select(Job)
            .where(or_(Job.status == "queued", passed))
            .order_by(Job.created_at, Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).first()


def spec_hash(spec: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON, as ``SearchSpec.content_hash``. Raises InvalidSpec for what JSON cannot hold."""
    try:
        text = json.dumps(spec, sort_keys=True, allow_nan=False)
        json.dumps(spec, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidSpec(f"the spec cannot be kept as JSON: {error}") from error
    if _NUL.search(text):
        raise InvalidSpec("the spec holds a NUL character, which cannot be stored")
    return hashlib.sha256(text.encode()).hexdigest()


def _known(session: Session, kind: JobKind, digest: str, key: str) -> str | None:
    job = session.scalars(select(Job).where(Job.idempotency_key == f"local/{key}")).first()
    if job is None:
        return None
    if (job.kind, job.spec_hash) != (kind, digest):
        raise Conflict(f"the idempotency key {key!r} was used for another spec (job {job.id})")
    return job.id


def _register_device(session: Session, job: Job) -> None:
    device = session.get(DeviceRow, job.name, with_for_update=True)
    if device is None:
        session.add(DeviceRow(name=job.name, job_id=job.id))
        return
    if session.get_one(Job, device.job_id).status in ("queued", "running"):
        raise Conflict(f"device {job.name!r} is being added already (job {device.job_id})")
    device.job_id = job.id


def _held(session: Session, lease: Lease, now: float) -> Job | None:
    """The job, locked, if the lease on it still holds."""
    job = session.get(Job, lease.job_id, with_for_update=True)
    if job is None or job.status != "running" or job.lease_token != lease.token or job.lease_expires_at is None:
        return None
    return job if now < job.lease_expires_at else None


def _lease(session: Session, job: Job, worker: str, now: float, seconds: float, resolved: Mapping[str, Any]) -> Lease:
    job.status = "running"
    job.started_at = job.started_at or now
    job.attempts += 1
    job.stalled += 1
    job.lease_owner, job.lease_token, job.lease_expires_at = worker, job.lease_token + 1, now + seconds
    job.lease_batch = 0
    kind: JobKind = "device" if job.kind == "device" else "search"
    spec = {"spec": job.spec, "resolved": dict(resolved)}
    return Lease(job.id, kind, spec, job.lease_token, job.lease_expires_at, _log(session, job.id))


def _log(session: Session, job_id: str) -> tuple[Mapping[str, Any], ...]:
    """All events of a job, but of the progress in each stage only the latest."""
    bodies = session.scalars(select(EventRow.body).where(EventRow.job_id == job_id).order_by(EventRow.seq)).all()
    newest = {body["stage"]: i for i, body in enumerate(bodies) if body["kind"] == Progress.kind}
    return tuple(b for i, b in enumerate(bodies) if b["kind"] != Progress.kind or newest[b["stage"]] == i)


def _requeue(job: Job) -> None:
    job.status, job.lease_owner, job.lease_expires_at = "queued", None, None


def _end(job: Job, status: str, error: str | None, now: float) -> None:
    job.status, job.error, job.finished_at = status, error, now
    job.lease_owner, job.lease_expires_at = None, None


def _storable(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event as it is kept. A live reading that is not finite is left out; anywhere else it is refused.

    Raises InvalidInput.
    """
    body = dict(event)
    if body.get("kind") == Progress.kind:
        body["values"] = {k: v for k, v in body.get("values", {}).items() if math.isfinite(v)}
    try:
        text = json.dumps(body, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"a {body.get('kind')} event cannot be kept as JSON: {error}") from error
    kept: dict[str, Any] = json.loads(_NUL.sub(r"\1", text))
    return kept


def _decoded(body: Mapping[str, Any]) -> Event:
    try:
        event = decode(body)
    except (TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(f"a malformed {body.get('kind')} event: {error!r}") from error
    if isinstance(event, Evaluated):
        for name in {name for point in event.points for name in point.metrics}:
            metric_info(name)
    return event
