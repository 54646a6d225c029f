"""Data sets with names: who may add one, what its last check has read, and deleting it.

A name belongs to the owner who used it first. Owners do not see each other's data. The spec of a search holds the path
that the name stood for when it was submitted, so that deleting a name changes no search.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.data_account import DataAccount
from nas.core.errors import Conflict, NotFound
from nas.core.lifecycle import ENDED
from nas.core.ports import ImageShape
from nas.core.spec import DataSpec
from server.store import audit
from server.store.clock import DatabaseClock
from server.store.database import writing
from server.store.models import Job, NamedDataRow


@dataclass(frozen=True)
class CheckedData:
    """What a check has read of a data set; ``samples`` is the blob of a picture of its images."""

    shape: ImageShape
    account: DataAccount | None
    incomplete: str
    samples: str | None


class NamedData:
    """Adds, checks and deletes data sets. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def add(self, name: str, data: DataSpec, checked: CheckedData, by: Principal) -> None:
        """Give a data set a name. Raises Conflict for a name that is taken."""
        with writing(self._engine) as session:
            if session.get(NamedDataRow, name, with_for_update=True) is not None:
                raise Conflict(f"the name {name!r} is taken: choose another one for your data set")
            now = self._clock(session)
            row = NamedDataRow(
                name=name,
                owner=by.owner,
                spec=data.model_dump(mode="json"),
                added_at=now,
                checked_at=now,
                **vars(checked),
            )
            session.add(row)
            audit.record(session, by, "add data set", name, now, path=data.path)

    def record_check(self, name: str, checked: CheckedData, by: Principal) -> None:
        """Replace what the last check has read. Raises NotFound."""
        with writing(self._engine) as session:
            row = require_data(session, name, by, lock=True)
            row.shape, row.account, row.incomplete = checked.shape, checked.account, checked.incomplete
            row.samples = checked.samples
            row.checked_at = self._clock(session)

    def delete(self, name: str, by: Principal) -> DataSpec:
        """Delete a name; returns what it stood for. Raises NotFound, also for another owner's, and Conflict while jobs
        that have not ended read the data."""
        with writing(self._engine) as session:
            row = require_data(session, name, by, lock=True)
            data = DataSpec.model_validate(row.spec)
            if users := jobs_reading(session, data.path):
                raise Conflict(f"data set {name!r} cannot be deleted yet: {', '.join(users)} read it")
            session.delete(row)
            audit.record(session, by, "delete data set", name, self._clock(session))
            return data


def require_data(session: Session, name: str, by: Principal, *, lock: bool = False) -> NamedDataRow:
    """The data set of a name. Raises NotFound, with the names of the caller's data sets, also for another owner's."""
    row = session.get(NamedDataRow, name, with_for_update=lock)
    if row is None or not by.may_change(row.owner):
        raise NotFound(f"no data set {name!r}; the data sets: {', '.join(names_of(session, by)) or 'none'}")
    return row


def names_of(session: Session, by: Principal) -> list[str]:
    """The names of a caller's data sets; for an administrator, those of all owners."""
    query = select(NamedDataRow.name).order_by(NamedDataRow.name)
    return list(session.scalars(query if by.is_admin else query.where(NamedDataRow.owner == by.owner)))


def jobs_reading(session: Session, path: str | None, ended: bool = False) -> list[str]:
    """The jobs that read the data at a path, such as ``search 3f2a``; with ``ended``, also those that have ended."""
    query = select(Job.kind, Job.id).where(Job.spec["data"]["path"].as_string() == path)
    query = query if ended else query.where(Job.status.not_in(ENDED))
    return [f"{row.kind.replace('_', ' ')} {row.id}" for row in session.execute(query.order_by(Job.created_at, Job.id))]
