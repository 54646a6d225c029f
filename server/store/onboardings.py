"""Onboardings as jobs of devices: who may add one, and which may run beside each other.

A device may be onboarded for several spaces at once. It belongs to the owner who added it first.
"""

from __future__ import annotations

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.errors import Conflict, Forbidden
from nas.core.lifecycle import ENDED
from nas.core.spec import DeviceSpec
from server.store.models import AgentRow, DeviceRow, Job, PredictorRow


def register_onboarding(session: Session, job: Job, by: Principal) -> None:
    """Make a new onboarding the latest one of its device, which it creates if there is none.

    Raises Forbidden for the device of another owner, and Conflict while the device is onboarded for the same space.
    """
    device = session.get(DeviceRow, job.name, with_for_update=True)
    if device is None:
        session.add(DeviceRow(name=job.name, owner=by.owner, job_id=job.id))
        return
    require_owner(device, by)
    require_no_other_onboarding(session, job)
    device.job_id = job.id


def require_owner(device: DeviceRow, by: Principal) -> None:
    """Raises Forbidden if the device belongs to another owner."""
    if not by.may_change(device.owner):
        raise Forbidden(f"device {device.name!r} belongs to {device.owner}: choose another name for yours")


def require_no_other_onboarding(session: Session, job: Job) -> None:
    """Raises Conflict while another onboarding of the device has not ended that is for the same space and data, or has
    another source."""
    spec = DeviceSpec.model_validate(job.spec)
    active = onboardings_of(job.name).where(Job.id != job.id, Job.status.not_in(ENDED))
    for other in session.scalars(active):
        other_spec = DeviceSpec.model_validate(other.spec)
        if (other_spec.space, other_spec.data) == (spec.space, spec.data) or other_spec.source != spec.source:
            raise Conflict(f"device {job.name!r} is being added already (job {other.id})")


def detach_onboarding(session: Session, job: Job) -> None:
    """Make the onboarding before this one the latest of its device, or delete a device that had no other.

    Raises Conflict for an onboarding that made a predictor.
    """
    predictor = session.get(PredictorRow, job.id)
    if predictor is not None:
        raise Conflict(
            f"onboarding {job.id} made version {predictor.number} of a predictor of device {job.name!r}, which "
            "searches may use: delete the device instead"
        )
    device = session.get_one(DeviceRow, job.name, with_for_update=True)
    if device.job_id != job.id:
        return
    other_onboardings = select(Job.id).where(Job.kind == "device", Job.name == job.name, Job.id != job.id)
    before = session.scalars(other_onboardings.order_by(Job.created_at.desc(), Job.id.desc()).limit(1)).first()
    if before is None:
        session.delete(device)
    else:
        device.job_id = before
    session.flush()  # before the job that it refers to


def require_owner_of_job(session: Session, job: Job, by: Principal) -> None:
    """Raises Forbidden for an onboarding that neither the caller has submitted nor is of a device of the caller's.
    (Searches of other owners are hidden, which is checked where their ids enter.)"""
    if job.kind == "device" and not by.may_change(job.owner):
        device = session.get(DeviceRow, job.name)
        if device is None or not by.may_change(device.owner):
            raise Forbidden(f"onboarding {job.id} of device {job.name!r} belongs to {job.owner}")


def agent_name_of(device: DeviceRow) -> str:
    """The name under which the agent of a device runs: that of the device, unless it was renamed since."""
    profile = device.profile
    return profile.name if profile is not None and profile.source == "agent" else device.name


def agent_of(session: Session, device: str) -> AgentRow | None:
    """The agent of a device, or that of its name where there is no such device yet."""
    row = session.get(DeviceRow, device)
    return session.get(AgentRow, device if row is None else agent_name_of(row))


def onboardings_of(device: str) -> Select[Job]:
    """The onboardings of a device, the oldest first."""
    return select(Job).where(Job.kind == "device", Job.name == device).order_by(Job.created_at, Job.id)
