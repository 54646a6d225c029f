"""Measurement tasks for device agents: created for queued jobs, each leased to one agent at a time.

A job waits for an agent exactly while one of its tasks is open; this is not stored elsewhere. An agent gets one task at
a time. A result is accepted while its lease is the latest of the task and the job still waits; later results are
rejected.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import cast

from sqlalchemy import ColumnElement, Engine, delete, func, or_, select, update
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import AgentBusy, Conflict, Forbidden, InvalidInput, NotFound
from nas.core.events import MeasurementsWanted
from nas.core.jobs import JobKind, MeasurementFailure, MeasurementKey
from nas.core.spec import DeviceSpec
from nas.core.timing import MeasurementTask, Timing
from server.store import audit
from server.store.clock import DatabaseClock
from server.store.database import reading, writing
from server.store.models import AgentRow, DeviceRow, Job, MeasurementRow
from server.store.onboardings import require_owner

LEASE_S = 20.0
AGENT_TIMEOUT_S = 60.0  # an agent without a request for longer is offline
MAX_ATTEMPTS = 5  # at one network; a task fails after as many leases without a result
OPEN = ("queued", "leased")
_PACE_OF = 33  # results from which the pace of a device is told
_BREAK_S = 600.0  # a longer time between results was a break


class Measurements:
    """Agents and their tasks in one database. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def register(
        self, name: str, instance: str, profile: DeviceProfile, versions: Mapping[str, str], by: Principal
    ) -> DeviceProfile | None:
        """Register an agent and return the profile by which it measures; None if its profile lacks the canary's time,
        which the agent then measures and registers again with.

        A machine that was profiled before keeps its canary's time, since drift is relative to it. Raises Forbidden if
        the agent or the device belongs to another owner, AgentBusy while another process of the same name measures, and
        Conflict if a device of this name has no agent.
        """
        with writing(self._engine) as session:
            now = self._clock(session)
            row = session.get(AgentRow, name, with_for_update=True)
            if row is not None and row.owner != by.owner and not by.is_admin:
                raise Forbidden(f"the agent of device {name!r} belongs to another owner")
            device = session.get(DeviceRow, name)
            if device is not None:
                require_owner(device, by)
            if device is not None and device.profile is not None and device.profile.source != "agent":
                raise Conflict(f"device {name!r} already exists and has no agent: choose another name")
            if row is not None and row.instance != instance and self._leased_task(session, name, now) is not None:
                raise AgentBusy(name, LEASE_S)
            if row is not None and row.profile_id == profile.id:
                profile = row.profile
            if row is not None:
                row.instance, row.seen_at = instance, now
            if profile.canary_ms is None:
                return None
            if row is None:
                row = AgentRow(name=name, owner=by.owner, instance=instance, created_at=now, seen_at=now)
                session.add(row)
                audit.record(session, by, "register agent", name, now, profile=profile.id)
            row.profile, row.profile_id, row.versions = profile, profile.id, dict(versions)
            return profile

    def claim(self, name: str, instance: str, by: Principal) -> MeasurementTask | None:
        """Lease the next task of a device, by priority and age of its job; None if there is no task. Raises NotFound if
        the agent has not registered, AgentBusy while another process holds a task of this device."""
        with writing(self._engine) as session:
            now = self._clock(session)
            agent = _agent(session, name, by)
            current = self._leased_task(session, name, now)
            if current is not None and current.lease_instance != instance:
                raise AgentBusy(name, LEASE_S)
            agent.seen_at, agent.instance = now, instance
            self._fail_exhausted(session, name, now)
            free = or_(MeasurementRow.status == "queued", MeasurementRow.lease_expires_at <= now)
            claimable = (
                MeasurementRow.id == current.id if current is not None else free
            )  # repeated after a lost response
            row = session.scalars(
                select(MeasurementRow)
                .join(Job, Job.id == MeasurementRow.job_id)
                .where(
                    claimable, MeasurementRow.device == name, MeasurementRow.status.in_(OPEN), Job.status == "queued"
                )
                .order_by(Job.priority.desc(), Job.created_at, MeasurementRow.created_at, MeasurementRow.position)
                .limit(1)
                .with_for_update(of=MeasurementRow)
            ).first()
            if row is None:
                return None
            row.status, row.attempts, row.updated_at = "leased", row.attempts + 1, now
            row.lease_token, row.lease_instance = secrets.token_hex(12), instance
            row.lease_expires_at = now + LEASE_S
            profile = row.profile
            return MeasurementTask(row.id, row.lease_token, row.network, row.blob, profile, LEASE_S)

    def renew(self, name: str, task_id: str, lease: str, by: Principal) -> bool:
        """Renew the lease on a task. False if the lease no longer holds."""
        with writing(self._engine) as session:
            now = self._clock(session)
            _agent(session, name, by).seen_at = now
            row = self._lock_leased(session, name, task_id, lease, now)
            if row is None:
                return False
            row.lease_expires_at = now + LEASE_S
            return True

    def model(self, name: str, task_id: str, lease: str, by: Principal) -> str:
        """Return the blob of a task's model. Raises NotFound, or Conflict if the lease no longer holds."""
        with writing(self._engine) as session:
            _agent(session, name, by)
            row = self._lock_leased(session, name, task_id, lease, self._clock(session))
            if row is None:
                raise _lease_ended(task_id)
            return row.blob

    def profile_of(self, name: str, task_id: str) -> DeviceProfile:
        """Return the profile by which a task is measured. Raises NotFound."""
        with reading(self._engine) as session:
            return _task(session, name, task_id).profile

    def finish(
        self,
        name: str,
        task_id: str,
        lease: str,
        result: Measurement | MeasurementFailure,
        timing: Timing | None,
        by: Principal,
    ) -> None:
        """Store a result with the times that it was computed from. Idempotent for one lease, since a response may be
        lost. Raises NotFound, or Conflict, having written nothing, if the lease no longer holds."""
        with writing(self._engine) as session:
            now = self._clock(session)
            _agent(session, name, by).seen_at = now
            row = _task(session, name, task_id)
            if row.lease_token == lease and row.status in ("done", "failed"):
                return
            if self._lock_leased(session, name, task_id, lease, now) is None:
                raise _lease_ended(task_id)
            failed = isinstance(result, MeasurementFailure)
            row.status, row.result, row.raw = "failed" if failed else "done", result, None if failed else timing
            row.lease_instance = row.lease_expires_at = None
            row.seconds, row.updated_at = now - row.updated_at, now
            session.flush()
            _withdraw_out_of_time(session, session.get_one(Job, row.job_id))

    def release(self, name: str, task_id: str, lease: str, by: Principal) -> None:
        """Return a task to the queue without counting the attempt, when its agent stops."""
        with writing(self._engine) as session:
            now = self._clock(session)
            _agent(session, name, by).seen_at = now
            row = self._lock_leased(session, name, task_id, lease, now)
            if row is not None:
                row.status, row.attempts, row.updated_at = "queued", row.attempts - 1, now
                row.lease_token = row.lease_instance = row.lease_expires_at = None

    def _lock_leased(self, session: Session, name: str, task_id: str, lease: str, now: float) -> MeasurementRow | None:
        """Lock and return the task if this lease on it holds and its job still waits for it."""
        row = session.get(MeasurementRow, task_id, with_for_update=True)
        if row is None or row.device != name:
            raise NotFound(f"device {name!r} has no task {task_id!r}")
        expires = row.lease_expires_at
        if row.status != "leased" or row.lease_token != lease or expires is None or expires <= now:
            return None
        return row if session.get_one(Job, row.job_id).status == "queued" else None

    def _leased_task(self, session: Session, name: str, now: float) -> MeasurementRow | None:
        """Return the task that the device measures now, for a job that still waits for it."""
        return session.scalars(
            select(MeasurementRow)
            .join(Job, Job.id == MeasurementRow.job_id)
            .where(MeasurementRow.device == name, MeasurementRow.status == "leased", Job.status == "queued")
            .where(MeasurementRow.lease_expires_at > now)
        ).first()

    def _fail_exhausted(self, session: Session, name: str, now: float) -> None:
        """Fail tasks whose leases all expired without a result: the model crashes the agent or is too slow for it."""
        exhausted = select(MeasurementRow).where(
            MeasurementRow.device == name,
            MeasurementRow.status == "leased",
            MeasurementRow.attempts >= MAX_ATTEMPTS,
            MeasurementRow.lease_expires_at <= now,
        )
        for row in session.scalars(exhausted.with_for_update()).all():
            row.status, row.updated_at = "failed", now
            row.result = MeasurementFailure(f"the agent returned no result in {MAX_ATTEMPTS} attempts")


def create_tasks(session: Session, job: Job, event: MeasurementsWanted, now: float) -> None:
    """Create a task for every requested network that has none."""
    profile = event.profile
    if profile.source != "agent":
        raise InvalidInput(f"expected a device with an agent, got one with the source {profile.source!r}")
    same = (
        MeasurementRow.job_id == job.id,
        MeasurementRow.device == profile.name,
        MeasurementRow.protocol == profile.protocol.id,
    )
    existing = set(session.scalars(select(MeasurementRow.network).where(*same)))
    for position, (network, blob) in enumerate(event.networks.items()):
        if network not in existing:
            session.add(
                MeasurementRow(
                    id=secrets.token_hex(8),
                    job_id=job.id,
                    position=position,
                    device=profile.name,
                    network=network,
                    protocol=profile.protocol.id,
                    profile=profile,
                    blob=blob,
                    status="queued",
                    attempts=0,
                    created_at=now,
                    updated_at=now,
                )
            )


def requeue_failed(session: Session, job_id: str, now: float) -> None:
    """Return the failed tasks of a job to the queue."""
    failed = (MeasurementRow.job_id == job_id, MeasurementRow.status == "failed")
    reset = {"status": "queued", "attempts": 0, "result": None, "lease_token": None, "updated_at": now}
    session.execute(update(MeasurementRow).where(*failed).values(reset))


def waits_for_agent() -> ColumnElement[bool]:
    """SQL condition on ``Job``: the job waits for an agent. The few jobs that do are read once for a whole query."""
    return Job.id.in_(select(MeasurementRow.job_id).where(MeasurementRow.status.in_(OPEN)))


def agent_results(session: Session, job_id: str) -> dict[MeasurementKey, Measurement | MeasurementFailure]:
    """Return the results of all ended tasks of a job."""
    columns = (MeasurementRow.device, MeasurementRow.network, MeasurementRow.protocol, MeasurementRow.result)
    rows = session.execute(select(*columns).where(MeasurementRow.job_id == job_id, MeasurementRow.status.not_in(OPEN)))
    return {MeasurementKey(row.device, row.network, row.protocol): row.result for row in rows}


def agent_seconds(session: Session, job_id: str) -> float:
    """What agents took for the results of a job, in seconds."""
    return session.scalar(select(func.sum(MeasurementRow.seconds)).where(MeasurementRow.job_id == job_id)) or 0.0


def _withdraw_out_of_time(session: Session, job: Job) -> None:
    """Withdraw what an onboarding still asks for once its time is used up, so that it goes on with the results."""
    max_hours = DeviceSpec.model_validate(job.spec).max_hours if job.kind == "device" else None
    if max_hours is not None and job.busy_seconds + agent_seconds(session, job.id) >= 3600 * max_hours:
        open_tasks = (MeasurementRow.job_id == job.id, MeasurementRow.status.in_(OPEN))
        session.execute(delete(MeasurementRow).where(*open_tasks))


def agent_wait_reasons(session: Session, job_ids: Collection[str], now: float) -> dict[str, str]:
    """Describe by id what each of the jobs waits for that wait for an agent."""
    open_ = MeasurementRow.status.in_(OPEN)
    counts = session.execute(
        select(
            MeasurementRow.job_id,
            MeasurementRow.device,
            func.count().label("all"),
            func.count().filter(open_).label("open"),
        )
        .where(MeasurementRow.job_id.in_(job_ids))
        .group_by(MeasurementRow.job_id, MeasurementRow.device)
    ).all()
    if not counts:
        return {}
    seen_at = {row.name: row.seen_at for row in session.execute(select(AgentRow.name, AgentRow.seen_at))}
    reasons: dict[str, list[str]] = {}
    for job_id, device, total, open_count in sorted(counts, key=lambda row: (row.job_id, row.device)):
        if open_count:
            silent_s = now - seen_at.get(device, 0.0)
            state = f", whose agent was last seen {_format_age(silent_s)} ago" if silent_s > AGENT_TIMEOUT_S else ""
            wait_s = next((e.wait_s for e in device_queue(session, device) if e.job == job_id), None)
            left = "" if wait_s is None else f", {_format_age(wait_s)} left"
            text = f"waiting for device {device}{state}: {total - open_count} of {total} networks measured{left}"
            reasons.setdefault(job_id, []).append(text)
    return {job_id: "; ".join(parts) for job_id, parts in reasons.items()}


def agents(session: Session, names: Sequence[str] | None = None) -> list[AgentRow]:
    """Return the agents of these devices, or all agents."""
    query = select(AgentRow).order_by(AgentRow.name)
    return list(session.scalars(query if names is None else query.where(AgentRow.name.in_(names))))


def agent_queue(session: Session, name: str) -> tuple[int, str | None]:
    """Return the number of queued networks of a device, and the network that it measures now."""
    active = (MeasurementRow.device == name, MeasurementRow.job_id == Job.id, Job.status == "queued")
    queued = session.scalar(select(func.count()).where(*active, MeasurementRow.status == "queued")) or 0
    measuring = session.scalars(
        select(MeasurementRow.network).where(*active, MeasurementRow.status == "leased")
    ).first()
    return queued, measuring


@dataclass(frozen=True)
class QueueEntry:
    """A job that waits for ``networks`` on a device. ``wait_s``: how long until they are measured, those of earlier
    jobs included; None where nothing tells the device's pace."""

    job: str
    owner: str
    kind: JobKind
    networks: int
    wait_s: float | None


def device_queue(session: Session, name: str) -> list[QueueEntry]:
    """The jobs that wait for a device with an agent, in the order in which it measures for them."""
    rows = session.execute(
        select(Job.id, Job.owner, Job.kind, func.count().label("networks"))
        .join(MeasurementRow, MeasurementRow.job_id == Job.id)
        .where(MeasurementRow.device == name, MeasurementRow.status.in_(OPEN), Job.status == "queued")
        .group_by(Job.id, Job.owner, Job.kind, Job.priority, Job.created_at)
        .order_by(Job.priority.desc(), Job.created_at)
    ).all()
    pace_s, before = _pace_s(session, name) if rows else None, 0
    entries = []
    for row in rows:
        before += row.networks
        entries.append(
            QueueEntry(
                row.id,
                row.owner,
                cast(JobKind, row.kind),
                row.networks,
                None if pace_s is None else before * pace_s,
            )
        )
    return entries


def _pace_s(session: Session, name: str) -> float | None:
    """Seconds that the device takes for a network: the median time between results, without long breaks."""
    done = (MeasurementRow.device == name, MeasurementRow.status == "done")
    ends = session.scalars(
        select(MeasurementRow.updated_at).where(*done).order_by(MeasurementRow.updated_at.desc()).limit(_PACE_OF)
    ).all()
    gaps = [later - earlier for later, earlier in pairwise(ends) if later - earlier < _BREAK_S]
    return median(gaps) if gaps else None


def _agent(session: Session, name: str, by: Principal) -> AgentRow:
    row = session.get(AgentRow, name, with_for_update=True)
    if row is None or (row.owner != by.owner and not by.is_admin):
        raise NotFound(f"no agent has registered as {name!r}")
    return row


def _task(session: Session, name: str, task_id: str) -> MeasurementRow:
    row = session.get(MeasurementRow, task_id)
    if row is None or row.device != name:
        raise NotFound(f"device {name!r} has no task {task_id!r}")
    return row


def _lease_ended(task_id: str) -> Conflict:
    return Conflict(f"the lease on task {task_id} no longer holds, so nothing was stored")


def _format_age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
