"""Data sets with names."""

from __future__ import annotations

from sqlalchemy import select

from nas.core.access import Principal
from nas.core.spec import DataSpec
from nas.schemas.named_data import NamedDataSchema
from server.store.cursors import utc
from server.store.database import reading
from server.store.models import NamedDataRow
from server.store.named_data import jobs_reading, require_data
from server.store.readers.base import Reader


class NamedDataReader(Reader):
    """Reads data sets with names."""

    def named_data_sets(self, by: Principal) -> list[NamedDataSchema]:
        """The data sets of a caller by name; for an administrator, those of all owners."""
        query = select(NamedDataRow).order_by(NamedDataRow.name)
        with reading(self._engine) as session:
            rows = session.scalars(query if by.is_admin else query.where(NamedDataRow.owner == by.owner)).all()
            return [_schema(row) for row in rows]

    def named_data(self, name: str, by: Principal) -> NamedDataSchema:
        """One data set. Raises NotFound, also for another owner's."""
        with reading(self._engine) as session:
            return _schema(require_data(session, name, by))

    def data_samples(self, name: str, by: Principal) -> str | None:
        """The blob of the picture of a data set's images, None without one. Raises NotFound."""
        with reading(self._engine) as session:
            return require_data(session, name, by).samples

    def is_data_used(self, path: str) -> bool:
        """Whether a name stands for the data at a path, or any job has them in its spec."""
        query = select(NamedDataRow.name).where(NamedDataRow.spec["path"].as_string() == path)
        with reading(self._engine) as session:
            return session.scalars(query).first() is not None or bool(jobs_reading(session, path, ended=True))


def _schema(row: NamedDataRow) -> NamedDataSchema:
    return NamedDataSchema(
        name=row.name,
        owner=row.owner,
        data=DataSpec.model_validate(row.spec),
        added_at=utc(row.added_at),
        checked_at=utc(row.checked_at),
        shape=row.shape,
        account=row.account,
        incomplete=row.incomplete,
        samples=row.samples is not None,
    )
