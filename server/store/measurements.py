"""What device agents are to measure: tasks of jobs that wait, each leased to one agent at a time.

A job waits while any of its tasks is open; nothing else says so, so the two cannot disagree. An agent gets one task at
a time. A result counts while its lease is the task's latest and the job still waits; anything later writes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, or_, select, update
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from nas.core.events import MeasurementsWanted
from server.store import audit
from server.store.database import reading, writing
from server.store.models import AgentRow, DeviceRow, Job, MeasurementRow

LEASE_S = 20.0
SEEN_S = 60.0  # an agent that was not heard of for longer is away
MAX_ATTEMPTS = 5  # of an agent at one network; after as many ends without a result the network fails
OPEN = ("queued", "leased")


@dataclass(frozen=True)
class Task:
    """A leased task. ``profile`` is the device with the protocol to measure by."""

    id: str
    lease: str
    network: str
    blob: str
    profile: Mapping[str, Any]
    seconds: float


class Measurements:
    """Agents and their tasks over one database. ``clock`` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def register(
        self, name: str, instance: str, profile: DeviceProfile, versions: Mapping[str, str], by: Principal
    ) -> DeviceProfile | None:
        """The agent of a device is there. Returns the profile by which it measures; None while its canary's time is not
        known, which it then has to measure and to register again with.

        A machine that was profiled keeps its canary's time: drift is relative to that. Raises Forbidden for the name of
        somebody else's agent, Conflict while another process of the same name is at work.
        """
        with writing(self._engine) as session:
            now = self._clock()
            row = session.get(AgentRow, name, with_for_update=True)
            if row is not None and row.owner != by.owner and not by.is_admin:
                raise Forbidden(f"the agent of device {name!r} is somebody else's")
            device = session.get(DeviceRow, name)
            if device is not None and device.profile is not None and device.profile.get("source") != "agent":
                raise Conflict(f"there is a device {name!r} already that has no agent: choose another name")
            if row is not None and row.instance != instance and self._leased(session, name, now) is not None:
                raise Conflict(_BUSY.format(name))
            if row is not None and row.profile_id == profile.id:
                profile = DeviceProfile.from_json(row.profile)
            if row is not None:
                row.instance, row.seen_at = instance, now
            if profile.canary_ms is None:
                return None
            if row is None:
                row = AgentRow(name=name, owner=by.owner, instance=instance, created_at=now, seen_at=now)
                session.add(row)
                audit.record(session, by, "register agent", name, now, profile=profile.id)
            row.profile, row.profile_id, row.versions = profile.as_json(), profile.id, dict(versions)
            return profile

    def claim(self, name: str, instance: str, by: Principal) -> Task | None:
        """The next task of a device, by its job's priority and age; None if there is none. Raises NotFound for an agent
        that has not registered, Conflict while another process holds a task of this device."""
        with writing(self._engine) as session:
            now = self._clock()
            agent = _agent(session, name, by)
            held = self._leased(session, name, now)
            if held is not None and held.lease_instance != instance:
                raise Conflict(_BUSY.format(name))
            agent.seen_at, agent.instance = now, instance
            self._fail_hopeless(session, name, now)
            free = or_(MeasurementRow.status == "queued", MeasurementRow.lease_expires_at <= now)
            mine = MeasurementRow.id == held.id if held is not None else free  # the answer to its claim was lost
            row = session.scalars(
                select(MeasurementRow)
                .join(Job, Job.id == MeasurementRow.job_id)
                .where(mine, MeasurementRow.device == name, MeasurementRow.status.in_(OPEN), Job.status == "queued")
                .order_by(Job.priority.desc(), Job.created_at, MeasurementRow.created_at, MeasurementRow.position)
                .limit(1)
                .with_for_update(of=MeasurementRow)
            ).first()
            if row is None:
                return None
            row.status, row.attempts, row.updated_at = "leased", row.attempts + 1, now
            row.lease_token, row.lease_instance = secrets.token_hex(12), instance
            row.lease_expires_at = now + LEASE_S
            return Task(row.id, row.lease_token, row.network, row.blob, row.profile, LEASE_S)

    def beat(self, name: str, task_id: str, lease: str, by: Principal) -> bool:
        """An agent is still at its task. False when the lease does not hold any more, and the task is to be left."""
        with writing(self._engine) as session:
            now = self._clock()
            _agent(session, name, by).seen_at = now
            row = self._held(session, name, task_id, lease, now)
            if row is None:
                return False
            row.lease_expires_at = now + LEASE_S
            return True

    def model(self, name: str, task_id: str, lease: str, by: Principal) -> str:
        """The blob of a task's model. Raises NotFound, or Conflict when the lease does not hold."""
        with writing(self._engine) as session:
            _agent(session, name, by)
            row = self._held(session, name, task_id, lease, self._clock())
            if row is None:
                raise _gone(task_id)
            return row.blob

    def profile_of(self, name: str, task_id: str) -> DeviceProfile:
        """The device and protocol that a task is measured by. Raises NotFound."""
        with reading(self._engine) as session:
            return DeviceProfile.from_json(_task(session, name, task_id).profile)

    def finish(
        self,
        name: str,
        task_id: str,
        lease: str,
        result: Measurement | str,
        raw: Mapping[str, Any] | None,
        by: Principal,
    ) -> None:
        """Keeps a result, or why there is none (text); the same again changes nothing, since an answer may be lost.
        Raises NotFound, or Conflict, having written nothing, when the lease does not hold any more."""
        with writing(self._engine) as session:
            now = self._clock()
            _agent(session, name, by).seen_at = now
            row = _task(session, name, task_id)
            if row.lease_token == lease and row.status in ("done", "failed"):
                return
            if self._held(session, name, task_id, lease, now) is None:
                raise _gone(task_id)
            if isinstance(result, str):
                row.status, row.result = "failed", {"error": result}
            else:
                row.status, row.result, row.raw = "done", result.as_json(), dict(raw) if raw is not None else None
            row.lease_instance = row.lease_expires_at = None
            row.updated_at = now

    def release(self, name: str, task_id: str, lease: str, by: Principal) -> None:
        """An agent that stops gives its task back, which is not held against the task."""
        with writing(self._engine) as session:
            now = self._clock()
            _agent(session, name, by).seen_at = now
            row = self._held(session, name, task_id, lease, now)
            if row is not None:
                row.status, row.attempts, row.updated_at = "queued", row.attempts - 1, now
                row.lease_token = row.lease_instance = row.lease_expires_at = None

    def _held(self, session: Session, name: str, task_id: str, lease: str, now: float) -> MeasurementRow | None:
        """The task, locked, if this lease on it holds and its job still waits for it."""
        row = session.get(MeasurementRow, task_id, with_for_update=True)
        if row is None or row.device != name:
            raise NotFound(f"device {name!r} has no task {task_id!r}")
        expires = row.lease_expires_at
        if row.status != "leased" or row.lease_token != lease or expires is None or expires <= now:
            return None
        return row if session.get_one(Job, row.job_id).status == "queued" else None

    def _leased(self, session: Session, name: str, now: float) -> MeasurementRow | None:
        """The task that the device is at, for a job that still waits for it."""
        return session.scalars(
            select(MeasurementRow)
            .join(Job, Job.id == MeasurementRow.job_id)
            .where(MeasurementRow.device == name, MeasurementRow.status == "leased", Job.status == "queued")
            .where(MeasurementRow.lease_expires_at > now)
        ).first()

    def _fail_hopeless(self, session: Session, name: str, now: float) -> None:
        """Networks whose leases all passed without a result: they take the agent down, or the device is too slow."""
        over = select(MeasurementRow).where(
            MeasurementRow.device == name,
            MeasurementRow.status == "leased",
            MeasurementRow.attempts >= MAX_ATTEMPTS,
            MeasurementRow.lease_expires_at <= now,
        )
        for row in session.scalars(over.with_for_update()).all():
            row.status, row.updated_at = "failed", now
            row.result = {"error": f"the agent did not come back from {MAX_ATTEMPTS} attempts at it"}


_BUSY = (
    "another process measures as the agent of device {!r}. One at a time: stop the other, or wait until its lease has "
    f"passed, which takes up to {LEASE_S:g} s"
)


def want(session: Session, job: Job, event: MeasurementsWanted, now: float) -> None:
    """Makes a task of every network that the job waits for. One that is known stays as it is."""
    profile = DeviceProfile.from_json(dict(event.profile))
    if profile.source != "agent":
        raise InvalidInput(f"expected networks for a device with an agent, got one with the source {profile.source!r}")
    mine = (
        MeasurementRow.job_id == job.id,
        MeasurementRow.device == profile.name,
        MeasurementRow.protocol == profile.protocol.id,
    )
    known = set(session.scalars(select(MeasurementRow.network).where(*mine)))
    for position, (network, blob) in enumerate(event.networks.items()):
        if network not in known:
            session.add(
                MeasurementRow(
                    id=secrets.token_hex(8),
                    job_id=job.id,
                    position=position,
                    device=profile.name,
                    network=network,
                    protocol=profile.protocol.id,
                    profile=dict(event.profile),
                    blob=blob,
                    status="queued",
                    attempts=0,
                    created_at=now,
                    updated_at=now,
                )
            )


def try_again(session: Session, job_id: str, now: float) -> None:
    """What could not be measured for a job is open again."""
    failed = (MeasurementRow.job_id == job_id, MeasurementRow.status == "failed")
    again = {"status": "queued", "attempts": 0, "result": None, "lease_token": None, "updated_at": now}
    session.execute(update(MeasurementRow).where(*failed).values(again))


def waits() -> ColumnElement[bool]:
    """Whether a job (of an enclosing query over ``Job``) waits for an agent."""
    return select(MeasurementRow.id).where(MeasurementRow.job_id == Job.id, MeasurementRow.status.in_(OPEN)).exists()


def results(session: Session, job_id: str) -> dict[str, dict[str, Any]]:
    """What agents have measured for a job, by ``device/network/protocol``."""
    columns = (MeasurementRow.device, MeasurementRow.network, MeasurementRow.protocol, MeasurementRow.result)
    rows = session.execute(select(*columns).where(MeasurementRow.job_id == job_id, MeasurementRow.status.not_in(OPEN)))
    return {f"{row.device}/{row.network}/{row.protocol}": row.result for row in rows}


def waiting_for_agents(session: Session, job_ids: Collection[str], now: float) -> dict[str, str]:
    """Of those jobs that wait for an agent, what they wait for, in words."""
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
    seen = {row.name: row.seen_at for row in session.execute(select(AgentRow.name, AgentRow.seen_at))}
    texts: dict[str, list[str]] = {}
    for job_id, device, total, left in sorted(counts, key=lambda row: (row.job_id, row.device)):
        if left:
            away = now - seen.get(device, 0.0)
            state = f", whose agent was last seen {_ago(away)} ago" if away > SEEN_S else ""
            text = f"waiting for device {device}{state}: {total - left} of {total} networks measured"
            texts.setdefault(job_id, []).append(text)
    return {job_id: "; ".join(parts) for job_id, parts in texts.items()}


def agents(session: Session, names: Sequence[str] | None = None) -> list[AgentRow]:
    """The agents of these devices, or all."""
    query = select(AgentRow).order_by(AgentRow.name)
    return list(session.scalars(query if names is None else query.where(AgentRow.name.in_(names))))


def queue_of(session: Session, name: str) -> tuple[int, str | None]:
    """How many networks wait for a device, and the one that it measures now."""
    mine = (MeasurementRow.device == name, MeasurementRow.job_id == Job.id, Job.status == "queued")
    waiting = session.scalar(select(func.count()).where(*mine, MeasurementRow.status == "queued")) or 0
    doing = session.scalars(select(MeasurementRow.network).where(*mine, MeasurementRow.status == "leased")).first()
    return waiting, doing


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


def _gone(task_id: str) -> Conflict:
    return Conflict(f"the lease on task {task_id} does not hold any more, so nothing was kept")


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
