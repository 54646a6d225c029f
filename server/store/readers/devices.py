"""Devices, their agents and their drift."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.device import DeviceProfile, changes
from nas.core.drift import Drift, DriftReading, drift_of
from nas.core.errors import NotFound
from nas.core.spec import DeviceSpec, SearchSpec
from nas.schemas.agents import AgentSchema, QueueEntrySchema
from nas.schemas.devices import DeviceSchema, OnboardingPage, OnboardingSchema
from server.store.cursors import utc
from server.store.database import reading
from server.store.mapping import card_schema, job_schema
from server.store.measurements import AGENT_TIMEOUT_S, agent_queue, agents, device_queue
from server.store.models import AgentRow, DeviceRow, Job, ReadingRow, WorkerRow
from server.store.onboardings import agent_name_of
from server.store.queue import WORKER_TIMEOUT_S, wait_reasons
from server.store.readers.base import Reader, newest_first, read_page, require_device, roofline_devices
from server.store.readers.predictors import current_predictors


class DeviceReader(Reader):
    """Reads devices and their agents."""

    def devices(self) -> list[DeviceSchema]:
        """All devices by name."""
        with reading(self._engine) as session:
            rows = session.scalars(select(DeviceRow).order_by(DeviceRow.name)).all()
            return [self._device_schema(session, row) for row in rows]

    def device(self, name: str) -> DeviceSchema:
        """One device. Raises NotFound."""
        with reading(self._engine) as session:
            return self._device_schema(session, require_device(session, name))

    def device_job(self, name: str) -> str:
        """The id of a device's latest onboarding job. Raises NotFound."""
        with reading(self._engine) as session:
            return require_device(session, name).job_id

    def onboardings(self, device: str | None, status: str | None, limit: int, cursor: str | None) -> OnboardingPage:
        """A page of onboardings, newest first, optionally of one device. Raises InvalidInput for an invalid cursor."""
        query = newest_first("device", cursor)
        if device is not None:
            query = query.where(Job.name == device)
        if status is not None:
            query = query.where(Job.status == status)
        with reading(self._engine) as session:
            page, next_cursor = read_page(session, query, limit)
            now = self._clock(session)
            waiting = wait_reasons(session, page, now)
            return OnboardingPage(
                items=[_onboarding_schema(job, waiting.get(job.id), now) for job in page],
                next=next_cursor,
            )

    def onboarding(self, onboarding_id: str) -> OnboardingSchema:
        """One onboarding. Raises NotFound."""
        with reading(self._engine) as session:
            job = _require_onboarding(session, onboarding_id)
            now = self._clock(session)
            return _onboarding_schema(job, wait_reasons(session, [job], now).get(job.id), now)

    def onboarding_job(self, onboarding_id: str) -> str:
        """The id of an onboarding's job, which equals its own. Raises NotFound."""
        with reading(self._engine) as session:
            return _require_onboarding(session, onboarding_id).id

    def roofline_devices(self, spec: SearchSpec) -> frozenset[str]:
        """The devices of a search that are defined by peak figures alone."""
        with reading(self._engine) as session:
            return roofline_devices(session, spec.devices)

    def agents(self) -> list[AgentSchema]:
        """All agents by name."""
        with reading(self._engine) as session:
            now = self._clock(session)
            return [agent_schema(session, row, now) for row in agents(session)]

    def drift(self, device: str, limit: int = 2_000) -> Drift:
        """The drift of a device since it was profiled, with its latest readings. Raises NotFound."""
        with reading(self._engine) as session:
            row = require_device(session, device)
            since_profiled = (ReadingRow.device == device, ReadingRow.profile_id == row.profile_id)
            query = select(ReadingRow).where(*since_profiled).order_by(ReadingRow.at.desc(), ReadingRow.id.desc())
            rows = list(reversed(session.scalars(query.limit(limit)).all()))
            usable = [r for r in rows if r.arch_id is None or r.measured_ms is not None]
            sessions = [list(group) for _, group in groupby(usable, key=lambda r: r.job_id)]
            return drift_of(device, [[_drift_reading(r) for r in session] for session in sessions])

    def _device_schema(self, session: Session, device: DeviceRow) -> DeviceSchema:
        job = session.get_one(Job, device.job_id)
        agent = session.get(AgentRow, agent_name_of(device))
        now = self._clock(session)
        waiting = wait_reasons(session, [job], now).get(job.id)
        return DeviceSchema(
            agent=agent_schema(session, agent, now) if agent is not None else None,
            stale=self._stale(session, device, agent),
            **{**vars(job_schema(job, job.state, waiting, now)), "owner": device.owner},
            name=device.name,
            spec=DeviceSpec.model_validate(job.spec),
            profile_id=device.profile_id,
            profile=device.profile,
            predictors=[card_schema(row) for row in current_predictors(session, device.name)],
        )

    def _stale(self, session: Session, device: DeviceRow, agent: AgentRow | None) -> list[str]:
        """What changed on the machine since it was profiled, reported by its agent or by a dispatcher on the same
        kind of machine; empty without a report."""
        if device.profile is None:
            return []
        profiled = device.profile
        if profiled.source == "agent":
            return changes(profiled, agent.profile) if agent is not None else []
        if profiled.source != "worker":
            return []
        recent = select(WorkerRow.machine).where(WorkerRow.seen_at > self._clock(session) - WORKER_TIMEOUT_S)
        machines = [m for m in session.scalars(recent) if m is not None]
        differences = [
            changes(profiled, _as_profiled(m, profiled))
            for m in machines
            if (m.machine, m.processor, m.cores) == (profiled.machine, profiled.processor, profiled.cores)
        ]
        return min(differences, key=len, default=[])


def _as_profiled(machine: DeviceProfile, profiled: DeviceProfile) -> DeviceProfile:
    """A dispatcher's machine with the threads of a profile, and, where that is measured by another runtime than the
    dispatcher reports, with what the profile says of it."""
    machine = replace(machine, protocol=replace(machine.protocol, threads=profiled.protocol.threads))
    if machine.target == profiled.target:
        return machine
    runtime, version = profiled.runtime, profiled.runtime_version
    return replace(machine, runtime=runtime, runtime_version=version, driver=profiled.driver)


def _require_onboarding(session: Session, onboarding_id: str) -> Job:
    job = session.get(Job, onboarding_id)
    if job is None or job.kind != "device":
        raise NotFound(f"no onboarding {onboarding_id!r}")
    return job


def _onboarding_schema(job: Job, waiting: str | None, now: float) -> OnboardingSchema:
    return OnboardingSchema(
        **vars(job_schema(job, job.state, waiting, now)),
        device=job.name,
        spec=DeviceSpec.model_validate(job.spec),
    )


def agent_schema(session: Session, row: AgentRow, now: float) -> AgentSchema:
    """An agent at the time ``now``."""
    waiting, measuring = agent_queue(session, row.name)
    queue = device_queue(session, row.name)
    return AgentSchema(
        name=row.name,
        owner=row.owner,
        profile_id=row.profile_id,
        profile=row.profile,
        versions=row.versions,
        seen_at=utc(row.seen_at),
        away=now - row.seen_at > AGENT_TIMEOUT_S,
        waiting=waiting,
        measuring=measuring,
        queue=[QueueEntrySchema(owner=e.owner, kind=e.kind, networks=e.networks, wait_s=e.wait_s) for e in queue],
    )


def _drift_reading(row: ReadingRow) -> DriftReading:
    ratio = row.measured_ms / row.predicted_ms if row.measured_ms and row.predicted_ms else None
    return DriftReading(utc(row.at), row.arch_id, ratio, row.canary)
