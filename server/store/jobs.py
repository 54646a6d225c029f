"""The queue and the log in a database: the ``JobStore`` of ``nas.core.ports``.

A claim is a lease with a fencing token. Every write of a worker names its token and happens in one transaction with
its projections, so a worker that was given up on writes nothing. What people ask for is in ``verbs``, the order of the
queue in ``queue``, and every change of a status in ``transitions``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from nas.core.access import LOCAL, LOCAL_OWNER, Principal
from nas.core.device import DeviceProfile
from nas.core.errors import Conflict, HwnasError, InvalidInput, InvalidSpec
from nas.core.events import Evaluated, Event, MeasurementsWanted, Progress, StatusChanged, decode
from nas.core.lifecycle import ENDED, LEASED
from nas.core.metrics import metric_info
from nas.core.ports import JobKind, Lease, Room, Verdict
from nas.core.spec import ResourceSpec
from server.store import audit, measurements, verbs
from server.store.database import JsonText, reading, writing
from server.store.models import DeviceRow, EventRow, Job, WorkerRow
from server.store.projections import new_stage, project, surplus_progress
from server.store.queue import candidates, cluster, impossible
from server.store.quotas import require_room_in_queue
from server.store.resolve import resolve
from server.store.transitions import account, change, log

MAX_STALLED = 5
DRY_RUN_KEPT_S = 3600.0  # of a dry run that nobody came back for
MAX_EVENTS = 10_000  # of one append
MAX_EVENT_BYTES = 16 * 1024 * 1024  # of one event as JSON
_FORGET_WORKER_S = 24 * 3600.0
_UNREAD = (defer(Job.spec), defer(Job.state), defer(Job.resources))  # by most appends
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # as JSON writes it; PostgreSQL cannot store it


class SqlJobStore:
    """Jobs in SQLite or PostgreSQL. ``clock`` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    # What people ask for

    def find(self, kind: JobKind, spec: Mapping[str, Any], key: str, owner: str = LOCAL_OWNER) -> str | None:
        """The job that ``owner`` submitted with ``key``, if any. Raises Conflict if that was another spec."""
        with reading(self._engine) as session:
            return _known(session, kind, spec_hash(spec), key, owner)

    def submit(
        self,
        kind: JobKind,
        spec: Mapping[str, Any],
        key: str | None,
        *,
        space_id: str | None = None,
        parent: str | None = None,
        stages: Sequence[str] = (),
        by: Principal = LOCAL,
        priority: int = 0,
    ) -> str:
        """Queues a job and returns its id; with a ``key`` that is known, the id it had.

        ``space_id`` names the built search space, by which its predictor is found. Raises Conflict for a key known with
        another spec and for a device that is being added already, InvalidSpec for values that JSON cannot hold and for
        more than any node has, QuotaExceeded.
        """
        digest = spec_hash(spec)
        wanted = _resources(spec)
        try:
            with writing(self._engine) as session:
                if key is not None and (known := _known(session, kind, digest, key, by.owner)) is not None:
                    return known
                now = self._clock()
                if (reason := impossible(wanted, cluster(session, now))) is not None:
                    raise InvalidSpec(f"resources: {reason}")
                if kind == "search":
                    require_room_in_queue(session, by.owner)
                if kind == "dry_run":
                    verbs.discard_older(session, now - DRY_RUN_KEPT_S, now)
                job = Job(
                    id=secrets.token_hex(6),
                    kind=kind,
                    owner=by.owner,
                    priority=priority,
                    name=str(spec["name"]),
                    spec=dict(spec),
                    spec_hash=digest,
                    space_id=space_id,
                    status="queued",
                    idempotency_key=f"{by.owner}/{key}" if key is not None else None,
                    parent_id=parent,
                    created_at=now,
                    last_seq=0,
                    resources=wanted.model_dump(mode="json"),
                    stages=[new_stage(name) for name in stages],
                )
                session.add(job)
                session.flush()
                log(session, job, StatusChanged(None, "queued", "submitted", by.owner), now)
                if kind == "device":
                    _register_device(session, job)
                if kind != "dry_run":
                    audit.record(session, by, f"submit {kind}", job.id, now, name=job.name)
                return job.id
        except IntegrityError:  # another process was faster with the same key or device: answer as if it came first
            if key is not None and (known := self.find(kind, spec, key, by.owner)) is not None:
                return known
            if kind == "device":
                raise Conflict(f"device {spec['name']!r} is being added already") from None
            raise

    def pause(self, job_id: str, by: Principal = LOCAL) -> None:
        """Parks a job: at once if it waits, else at its next durable result. Raises NotFound, or Conflict when it has
        ended."""
        with writing(self._engine) as session:
            verbs.pause(session, job_id, by, self._clock())

    def resume(self, job_id: str, by: Principal = LOCAL) -> None:
        """Puts a paused job back into the queue, or lets a pausing one run on. Raises NotFound or Conflict."""
        with writing(self._engine) as session:
            verbs.resume(session, job_id, by, self._clock())

    def cancel(self, job_id: str, by: Principal = LOCAL) -> None:
        """Ends a job, now: its worker writes nothing any more, and what was written stays. Raises NotFound, or Conflict
        when it has ended otherwise."""
        with writing(self._engine) as session:
            verbs.cancel(session, job_id, by, self._clock())

    def retry(self, job_id: str, by: Principal = LOCAL) -> None:
        """Lets a job that failed, was cancelled or quarantined go on from its last checkpoint. Raises NotFound,
        Conflict or QuotaExceeded."""
        with writing(self._engine) as session:
            verbs.retry(session, job_id, by, self._clock())

    def delete(self, job_id: str, by: Principal = LOCAL) -> None:
        """Removes a paused or ended search with all it found. Raises NotFound, or Conflict while it runs or another
        one that has not ended needs its supernet."""
        with writing(self._engine) as session:
            verbs.delete(session, job_id, by, self._clock())

    def discard(self, job_id: str) -> None:
        """Removes a dry run, running or not; nothing happens if it is gone already."""
        with writing(self._engine) as session:
            verbs.discard(session, job_id, self._clock())

    def set_priority(self, job_id: str, priority: int, by: Principal = LOCAL) -> None:
        """Moves a job among its owner's others. Raises NotFound, or Conflict when it has ended."""
        with writing(self._engine) as session:
            verbs.set_priority(session, job_id, priority, by, self._clock())

    # What dispatchers do

    def claim(self, worker: str, seconds: float, free: Sequence[Room] | None = None) -> Lease | None:
        """The next job in fair order that fits into one of the ``free`` rooms, or None. Jobs whose lease has passed go
        back into the queue first; one that only ever crashes is quarantined."""
        with writing(self._engine) as session:
            self._settle(session)
            for job_id in candidates(session, free):
                query = select(Job).where(Job.id == job_id, Job.status == "queued")
                job = session.scalars(query.with_for_update(skip_locked=True)).first()
                if job is None:  # another dispatcher has it
                    continue
                now = self._clock()
                if job.stalled >= MAX_STALLED:
                    reason = f"; the last one: {job.last_crash}" if job.last_crash else ""
                    change(session, job, "quarantined", now, f"{MAX_STALLED} attempts ended without progress{reason}")
                    continue
                try:
                    resolved = resolve(session, job)
                except HwnasError as error:
                    change(session, job, "failed", now, str(error))
                    continue
                return _lease(session, job, worker, now, seconds, resolved)
        return None

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> Verdict:
        """Writes the ``batch``-th batch of this lease with its projections, and renews the lease; a batch that is there
        already is not written again.

        Returns ``lost``, having written nothing, when the lease does not hold any more; ``stop`` when the job is parked
        with this batch. Raises InvalidInput for events that are none, too many, too large, or out of order.
        """
        if len(events) > MAX_EVENTS:
            raise InvalidInput(f"expected at most {MAX_EVENTS} events in one batch, got {len(events)}")
        texts = [_storable(event) for event in events]
        decoded = [_decoded(text) for text in texts]
        with writing(self._engine) as session, session.no_autoflush:  # one UPDATE of the job, at the end
            now = self._clock()
            job = _held(session, lease, now)
            if job is None:
                return "stop" if _parked(session, lease, batch) else "lost"
            if batch > job.lease_batch + 1:
                raise InvalidInput(f"expected batch {job.lease_batch + 1} of this lease, got {batch}")
            account(job, now)
            job.lease_expires_at = now + seconds
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
            job.last_seq = numbered[-1][0]
            moved = project(session, job, numbered, now)
            thinned, surplus = surplus_progress(job.stages)
            if surplus:
                job.stages = thinned
                session.execute(delete(EventRow).where(EventRow.job_id == job.id, EventRow.seq.in_(surplus)))
            wanted_elsewhere = [event for event in decoded if isinstance(event, MeasurementsWanted)]
            for event in wanted_elsewhere:
                measurements.want(session, job, event, now)
            if wanted_elsewhere:
                devices = dict.fromkeys(event.profile["name"] for event in wanted_elsewhere)
                _give_back(session, job, now, None, f"waits for device {' and '.join(devices)}")
                return "stop"
            if moved and job.status == "pausing":
                change(session, job, "paused", now, "reached its next durable result")
                return "stop"
            return "continue"

    def finish(
        self, lease: Lease, status: Literal["succeeded", "failed", "cancelled"], error: str | None = None
    ) -> bool:
        """Ends the job; False, having written nothing, when the lease does not hold any more. True as well when this
        very lease has ended it like this before: the answer may have been lost."""
        with writing(self._engine) as session:
            now = self._clock()
            job = _held(session, lease, now)
            if job is None:
                ended = session.get(Job, lease.job_id)
                return ended is not None and (ended.lease_token, ended.status) == (lease.token, status)
            change(session, job, status, now, error or "")
            return True

    def release(self, lease: Lease, crash: str | None = None) -> bool:
        """Gives the job back. ``crash`` says why the attempt failed; None when it was only interrupted, which is not
        held against the job. False when the lease does not hold any more."""
        with writing(self._engine) as session:
            now = self._clock()
            job = _held(session, lease, now)
            if job is None:
                return False
            _give_back(session, job, now, crash)
            return True

    def release_dead(self, dead: Callable[[str], bool]) -> int:
        """Forgets every dispatcher that is ``dead`` and gives its jobs back; how many. For use at a restart."""
        with writing(self._engine) as session:
            names = [name for name in session.scalars(select(WorkerRow.owner)) if dead(name)]
            session.execute(delete(WorkerRow).where(WorkerRow.owner.in_(names)))
            jobs = session.scalars(select(Job).where(Job.status.in_(LEASED)).with_for_update()).all()
            gone = [job for job in jobs if job.lease_owner is not None and dead(job.lease_owner)]
            for job in gone:
                _give_back(session, job, self._clock(), "the service was stopped or crashed")
            return len(gone)

    def held(self, worker: str) -> list[tuple[str, int]]:
        """(job id, token) of every lease of a dispatcher."""
        with reading(self._engine) as session:
            query = select(Job.id, Job.lease_token).where(Job.lease_owner == worker, Job.status.in_(LEASED))
            return [(row[0], row[1]) for row in session.execute(query)]

    def beat(
        self,
        worker: str,
        slots: int,
        nodes: Sequence[Room] = (),
        free: Sequence[Room] = (),
        elastic: bool = False,
        machine: DeviceProfile | None = None,
    ) -> None:
        """A dispatcher says that it is there, ready for ``slots`` jobs at a time, what its cluster has, and what
        ``machine`` it runs on itself."""
        with writing(self._engine) as session:
            now = self._clock()
            session.execute(delete(WorkerRow).where(WorkerRow.seen_at < now - _FORGET_WORKER_S))
            session.merge(
                WorkerRow(
                    owner=worker,
                    slots=slots,
                    seen_at=now,
                    nodes=[asdict(room) for room in nodes],
                    free=[asdict(room) for room in free],
                    elastic=elastic,
                    machine=machine.as_json() if machine is not None else None,
                )
            )

    def leave(self, worker: str) -> None:
        """A dispatcher says that it stops."""
        with writing(self._engine) as session:
            session.execute(delete(WorkerRow).where(WorkerRow.owner == worker))

    def _settle(self, session: Session) -> None:
        """Gives back every job whose lease has passed."""
        now = self._clock()
        passed = select(Job).where(Job.status.in_(LEASED), Job.lease_expires_at <= now)
        for job in session.scalars(passed.with_for_update(skip_locked=True)).all():
            _give_back(session, job, now, f"its worker {job.lease_owner} was not heard of any more")


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


def _known(session: Session, kind: JobKind, digest: str, key: str, owner: str) -> str | None:
    job = session.scalars(select(Job).where(Job.idempotency_key == f"{owner}/{key}")).first()
    if job is None:
        return None
    if (job.kind, job.spec_hash) != (kind, digest):
        raise Conflict(f"the idempotency key {key!r} was used for another spec (job {job.id})")
    return job.id


def _resources(spec: Mapping[str, Any]) -> ResourceSpec:
    """What a job takes: a search says so, an onboarding takes a core for each thread that it measures with."""
    given = spec.get("resources")
    return ResourceSpec.model_validate(given) if given is not None else ResourceSpec(cpus=spec.get("threads", 1))


def _register_device(session: Session, job: Job) -> None:
    device = session.get(DeviceRow, job.name, with_for_update=True)
    if device is None:
        session.add(DeviceRow(name=job.name, job_id=job.id))
        return
    if session.get_one(Job, device.job_id).status not in ENDED:
        raise Conflict(f"device {job.name!r} is being added already (job {device.job_id})")
    device.job_id = job.id


def _held(session: Session, lease: Lease, now: float) -> Job | None:
    """The job, locked, if the lease on it still holds."""
    job = session.get(Job, lease.job_id, with_for_update=True, options=_UNREAD)
    if job is None or job.status not in LEASED or job.lease_token != lease.token or job.lease_expires_at is None:
        return None
    return job if now < job.lease_expires_at else None


def _parked(session: Session, lease: Lease, batch: int) -> bool:
    """Whether this batch of this lease has parked the job before, and only the answer was lost."""
    job = session.get(Job, lease.job_id)
    if job is None or (job.lease_token, job.lease_batch) != (lease.token, batch):
        return False
    return job.status in ("paused", "queued")  # queued: it waits for an agent


def _give_back(session: Session, job: Job, now: float, crash: str | None, why: str = "interrupted") -> None:
    """The end of a lease that did not end the job: it waits again, or is paused if it should be."""
    after: Literal["paused", "queued"] = "paused" if job.status == "pausing" else "queued"
    if crash is None:
        job.stalled = max(0, job.stalled - 1)
    else:
        job.last_crash = crash
    change(session, job, after, now, crash or why)


def _lease(session: Session, job: Job, worker: str, now: float, seconds: float, resolved: Mapping[str, Any]) -> Lease:
    past = _log(session, job.id)
    change(session, job, "running", now, f"claimed by {worker}")
    job.started_at = job.started_at or now
    job.attempts += 1
    job.stalled += 1
    job.lease_owner, job.lease_token, job.lease_expires_at = worker, job.lease_token + 1, now + seconds
    job.lease_batch, job.busy_until = 0, now
    kind: JobKind = job.kind  # type: ignore[assignment]
    return Lease(job.id, kind, {"spec": job.spec, "resolved": dict(resolved)}, job.lease_token, now + seconds, past)


def _log(session: Session, job_id: str) -> tuple[Mapping[str, Any], ...]:
    """What workers wrote about a job, but of the progress in each stage only the latest."""
    rows = session.scalars(select(EventRow.body).where(EventRow.job_id == job_id).order_by(EventRow.seq))
    bodies = [body for body in rows if body["kind"] != StatusChanged.kind]
    newest = {body["stage"]: i for i, body in enumerate(bodies) if body["kind"] == Progress.kind}
    return tuple(b for i, b in enumerate(bodies) if b["kind"] != Progress.kind or newest[b["stage"]] == i)


def _storable(event: Mapping[str, Any]) -> JsonText:
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
    if len(text) > MAX_EVENT_BYTES:
        raise InvalidInput(
            f"expected an event of at most {MAX_EVENT_BYTES} bytes, got {len(text)} ({body.get('kind')})"
        )
    return JsonText(_NUL.sub(r"\1", text) if "\\u0000" in text else text)


def _decoded(text: str) -> Event:
    body = json.loads(text)
    try:
        event = decode(body)
    except (TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(f"a malformed {body.get('kind')} event: {error!r}") from error
    if isinstance(event, StatusChanged):
        raise InvalidInput("a worker does not decide a status: expected any other event, got a status event")
    if isinstance(event, Evaluated):
        for name in {name for point in event.candidates for name in point.metrics}:
            metric_info(name)
    return event
