"""Deleting, renaming and handing over devices.

A device belongs to the owner who added it first. It is shared: searches of all owners may use it, so a device that an
unfinished search needs is neither deleted nor renamed. A device with an agent keeps it when it is renamed: the agent
goes on under the name that it was started with, which the profile has.
"""

from __future__ import annotations

from sqlalchemy import Engine, delete, or_, select, update
from sqlalchemy.orm import Session

from nas.core.access import LOCAL_OWNER, Principal
from nas.core.errors import Conflict, InvalidInput
from nas.core.lifecycle import ENDED
from nas.core.spec import SearchSpec
from server.store import audit
from server.store.clock import DatabaseClock
from server.store.database import writing
from server.store.models import AgentRow, DeviceRow, Job, PredictorRow, ReadingRow, TokenRow
from server.store.onboardings import agent_name_of, onboardings_of, require_owner
from server.store.readers.base import require_device
from server.store.tokens import is_valid


class Devices:
    """Changes devices. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def delete(self, name: str, by: Principal) -> None:
        """Delete a device with its onboardings, predictors and readings. Searches that have ended keep their results.

        Raises NotFound, Forbidden for another owner's device, and Conflict while it is needed.
        """
        with writing(self._engine) as session:
            device = _changeable(session, name, by, "deleted")
            session.execute(delete(PredictorRow).where(PredictorRow.device == name))
            session.execute(delete(ReadingRow).where(ReadingRow.device == name))
            session.delete(device)
            session.flush()  # before the jobs that it refers to
            for job in session.scalars(onboardings_of(name)).all():
                session.delete(job)
            audit.record(session, by, "delete device", name, self._clock(session))

    def rename(self, name: str, new_name: str, by: Principal) -> None:
        """Rename a device with its predictors. Searches that have ended keep the name that they were run with, and
        profiles the name that they were made under.

        Raises NotFound, Forbidden for another owner's device, and Conflict while it is needed, and for a name that is
        taken by another device or agent.
        """
        if name == new_name:
            return
        with writing(self._engine) as session:
            device = _changeable(session, name, by, "renamed")
            other_agent = session.get(AgentRow, new_name) is not None and agent_name_of(device) != new_name
            if session.get(DeviceRow, new_name) is not None or other_agent:
                raise Conflict(f"a device or an agent {new_name!r} exists already")
            renamed = DeviceRow(
                name=new_name,
                owner=device.owner,
                job_id=device.job_id,
                profile_id=device.profile_id,
                profile=device.profile,
            )
            session.add(renamed)
            session.flush()  # predictors refer to it
            session.execute(update(PredictorRow).where(PredictorRow.device == name).values(device=new_name))
            session.execute(update(ReadingRow).where(ReadingRow.device == name).values(device=new_name))
            for job in session.scalars(onboardings_of(name)).all():
                job.name, job.spec = new_name, {**job.spec, "name": new_name}
            session.delete(device)
            audit.record(session, by, "rename device", name, self._clock(session), name=new_name)

    def transfer(self, name: str, owner: str, by: Principal) -> None:
        """Give a device, and its agent, to another owner, who needs a token of theirs to start the agent again.

        Raises NotFound, Forbidden for another owner's device, Conflict while an onboarding or a search needs it, and
        InvalidInput for an owner without a valid token.
        """
        with writing(self._engine) as session:
            now = self._clock(session)
            device = _changeable(session, name, by, "given away")
            valid = [
                row for row in session.scalars(select(TokenRow).where(TokenRow.owner == owner)) if is_valid(row, now)
            ]
            if not valid and owner != LOCAL_OWNER:
                raise InvalidInput(f"expected an owner with a valid token, got {owner!r}")
            agent = session.get(AgentRow, agent_name_of(device), with_for_update=True)
            if agent is not None and agent.owner == device.owner:
                agent.owner = owner
            audit.record(session, by, "transfer device", name, now, before=device.owner, owner=owner)
            device.owner = owner


def _changeable(session: Session, name: str, by: Principal, change: str) -> DeviceRow:
    """Lock a device that may be changed. Raises NotFound, Forbidden or Conflict."""
    require_device(session, name)
    device = session.get_one(DeviceRow, name, with_for_update=True)
    require_owner(device, by)
    if active := session.scalars(onboardings_of(name).where(Job.status.not_in(ENDED)).with_only_columns(Job.id)).all():
        raise Conflict(f"device {name!r} cannot be {change} yet: onboarding {', '.join(active)} has not ended")
    if searches := _unfinished_searches(session, name):
        raise Conflict(f"device {name!r} cannot be {change} yet: unfinished searches need it: {', '.join(searches)}")
    return device


def _unfinished_searches(session: Session, device: str) -> list[str]:
    """The ids of the searches and dry runs that need a device."""
    of_device = or_(Job.spec["device"].as_string() == device, Job.spec["fleet"].as_string().is_not(None))
    query = select(Job.id, Job.spec).where(Job.kind != "device", Job.status.not_in(ENDED), of_device)
    return [row.id for row in session.execute(query) if device in SearchSpec.model_validate(row.spec).devices]
