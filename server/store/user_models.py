"""Models of users: who may add one, what an intake stores of it, and deleting it.

A name belongs to the owner who used it first, and is never given to another model while its model exists. Owners do not
see each other's models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.errors import Conflict, InvalidSpec, NotFound
from nas.core.events import Event, StageFinished
from nas.core.jobs import JobKind, ParentBlobs
from nas.core.lifecycle import ENDED
from nas.core.model_spec import ModelSpec
from nas.core.parent import Preprocessing
from nas.core.spec import SpaceSpec, parse_spec
from nas.models.stored import READ_STAGE, ModelSummary, StoredModel
from server.store import audit
from server.store.clock import DatabaseClock
from server.store.database import writing
from server.store.models import Job, UserModelRow


class UserModels:
    """Deletes models. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def delete(self, name: str, by: Principal) -> None:
        """Delete a model with its intakes. Raises NotFound, also for the model of another owner, and Conflict while it
        is taken in or searches or devices refer to it."""
        with writing(self._engine) as session:
            row = require_model(session, name, by, lock=True)
            if active := _ids(session, intakes_of(name).where(Job.status.not_in(ENDED))):
                raise Conflict(f"model {name!r} cannot be deleted yet: its intake {', '.join(active)} has not ended")
            if users := users_of(session, name):
                raise Conflict(f"model {name!r} cannot be deleted, since {_needed_by(users)}")
            session.delete(row)
            session.flush()  # before the jobs that it refers to
            for job in session.scalars(intakes_of(name)).all():
                session.delete(job)
            audit.record(session, by, "delete model", name, self._clock(session))


def register_intake(session: Session, job: Job, by: Principal) -> None:
    """Give the model its name. An intake that has failed or was cancelled gives way to a new one of the same owner.

    Raises Conflict for a name that is taken.
    """
    row = session.get(UserModelRow, job.name, with_for_update=True)
    if row is None:
        session.add(UserModelRow(name=job.name, owner=by.owner, job_id=job.id))
        return
    if not by.may_change(row.owner):
        raise Conflict(f"the name {job.name!r} is taken: choose another one for your model")
    before = session.get_one(Job, row.job_id)
    if row.graph is not None or before.status not in ("failed", "cancelled", "quarantined"):
        raise Conflict(f"a model {job.name!r} exists ({before.status}): choose another name, or delete that model")
    row.job_id = job.id


def project_intake(session: Session, job: Job, events: Iterable[Event]) -> None:
    """Store what an intake has read."""
    for event in events:
        if isinstance(event, StageFinished) and event.stage == READ_STAGE:
            stored = StoredModel.parse(event.result)
            row = session.get_one(UserModelRow, job.name)
            row.graph, row.weights, row.report = stored.graph, stored.weights, stored.report
            row.summary = stored.summary


def require_model(session: Session, name: str, by: Principal, *, lock: bool = False) -> UserModelRow:
    """The model of a name. Raises NotFound, with the names of the caller's models, also for another owner's."""
    row = session.get(UserModelRow, name, with_for_update=lock)
    if row is None or not by.may_change(row.owner):
        query = select(UserModelRow.name).order_by(UserModelRow.name)
        names = session.scalars(query if by.is_admin else query.where(UserModelRow.owner == by.owner)).all()
        raise NotFound(f"no model {name!r}; the models: {', '.join(names) or 'none'}")
    return row


@dataclass(frozen=True)
class UsableModel:
    """A model that was read: what spaces start from, and its figures."""

    parent: ParentBlobs
    summary: ModelSummary


def require_usable(session: Session, name: str, by: Principal | None = None) -> UsableModel:
    """A model that spaces can start from; of the caller, if one is given. Raises InvalidSpec if there is none of the
    name, or none that was read."""
    row = session.get(UserModelRow, name)
    if row is None or (by is not None and not by.may_change(row.owner)):
        raise InvalidSpec(f"space.model: no model {name!r}. To add one, run: nas models add {name} FILE")
    job = session.get_one(Job, row.job_id)
    if row.graph is None or row.weights is None or row.summary is None:
        reason = f": {job.error}" if job.error else ""
        raise InvalidSpec(f"space.model: model {name!r} was not read yet, its intake is {job.status}{reason}")
    return UsableModel(ParentBlobs(name, row.graph, row.weights, preprocessing_of(job)), row.summary)


def preprocessing_of(job: Job) -> Preprocessing | None:
    """How an intake says that images enter its model: by its spec, else by the model's source."""
    specified = parse_spec(ModelSpec, job.spec).preprocessing
    if specified is not None:
        return specified.value
    result = job.state.finished.get(READ_STAGE)
    return StoredModel.parse(result).preprocessing if result is not None else None


def parent_blobs(session: Session, space: SpaceSpec) -> ParentBlobs | None:
    """The model that the space of a job starts from, None if from none. Raises InvalidSpec if it is gone."""
    return require_usable(session, space.model).parent if space.model is not None else None


def intakes_of(name: str) -> Select[Job]:
    """The intakes of a model, the oldest first."""
    return select(Job).where(Job.kind == "model", Job.name == name).order_by(Job.created_at, Job.id)


@dataclass(frozen=True)
class ModelUser:
    """What needs a model: a device by its name, a search or dry run by its id."""

    kind: JobKind
    name: str

    @property
    def how_to_free(self) -> str:
        """The command after which it no longer needs the model."""
        return f"nas devices delete {self.name}" if self.kind == "device" else f"nas delete {self.name}"


def users_of(session: Session, name: str) -> list[ModelUser]:
    """The searches, dry runs and devices whose space starts from a model."""
    query = select(Job.kind, Job.id, Job.name).where(Job.spec["space"]["model"].as_string() == name)
    users = (
        ModelUser(cast(JobKind, row.kind), row.name if row.kind == "device" else row.id)
        for row in session.execute(query.where(Job.kind != "model").order_by(Job.created_at, Job.id))
    )
    return list(dict.fromkeys(users))


def _needed_by(users: Sequence[ModelUser]) -> str:
    """What needs a model, and how to delete it."""
    names = ", ".join(f"{user.kind.replace('_', ' ')} {user.name}" for user in users)
    commands = "; ".join(user.how_to_free for user in users if user.kind != "dry_run")
    needs = f"{names} {'needs' if len(users) == 1 else 'need'} it"
    return f"{needs}. To free it: {commands}" if commands else f"{needs} until it has ended"


def _ids(session: Session, jobs: Select[Job]) -> list[str]:
    return list(session.scalars(jobs.with_only_columns(Job.id)))
