"""Stars and notes that people put on searches and candidates."""

from __future__ import annotations

from sqlalchemy import Engine, delete, select

from nas.core.access import Principal
from nas.core.errors import NotFound
from nas.schemas.marks import MarkBody, MarkSchema
from server.store.clock import DatabaseClock
from server.store.cursors import utc
from server.store.database import reading, upsert, writing
from server.store.models import OF_SEARCH, MarkRow, PointRow
from server.store.readers.base import require_job


class Marks:
    """The marks of one database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def of(self, search_id: str) -> list[MarkSchema]:
        """The marks of a search and of its candidates. Raises NotFound."""
        query = select(MarkRow).where(MarkRow.job_id == search_id).order_by(MarkRow.arch_id)
        with reading(self._engine) as session:
            require_job(session, search_id, "search")
            return [_schema(row) for row in session.scalars(query)]

    def set(self, search_id: str, arch: str | None, body: MarkBody, by: Principal) -> MarkSchema:
        """Replace the mark of a candidate, or of the search itself (None); a mark without star and note is removed.
        Raises NotFound for a search, or for a candidate that it has not evaluated."""
        arch_id = OF_SEARCH if arch is None else arch
        key = {"job_id": search_id, "arch_id": arch_id}
        with writing(self._engine) as session:
            require_job(session, search_id, "search")
            candidates = select(PointRow.arch_id).where(PointRow.job_id == search_id, PointRow.arch_id == arch_id)
            if arch is not None and session.scalar(candidates.limit(1)) is None:
                raise NotFound(f"search {search_id} has no network {arch!r}")
            now = self._clock(session)
            values = {"starred": body.starred, "note": body.note.strip(), "owner": by.owner, "at": now}
            if body.starred or body.note.strip():
                upsert(session, MarkRow.metadata.tables["marks"], {**key, **values})
            else:
                session.execute(delete(MarkRow).where(MarkRow.job_id == search_id, MarkRow.arch_id == arch_id))
            return _schema(MarkRow(**key, **values))


def _schema(row: MarkRow) -> MarkSchema:
    arch = row.arch_id if row.arch_id != OF_SEARCH else None
    return MarkSchema(arch=arch, starred=row.starred, note=row.note, owner=row.owner, at=utc(row.at))
