"""What all readers share: the database, the clock, cached candidates and fronts, and rows looked up by name."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, Select, and_, or_, select
from sqlalchemy.orm import Session

from nas.core.errors import NotFound
from nas.core.jobs import JobKind
from server.store.candidate_cache import CandidateCache
from server.store.clock import DatabaseClock
from server.store.cursors import read_cursor, write_cursor
from server.store.front_cache import FrontCache
from server.store.models import DeviceRow, Job


class Reader:
    """Reads over one database. ``clock`` is that of the database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock
        self._candidate_cache = CandidateCache()
        self._front_cache = FrontCache()


def require_job(session: Session, job_id: str, kind: JobKind) -> Job:
    """The job of an id and kind. Raises NotFound."""
    job = session.get(Job, job_id)
    if job is None or job.kind != kind:
        raise NotFound(f"no {kind} {job_id!r}")
    return job


def newest_first(kind: JobKind, cursor: str | None) -> Select[Job]:
    """All jobs of a kind, newest first, or those after the page that ``cursor`` ends. Raises InvalidInput for an
    invalid cursor."""
    query = select(Job).where(Job.kind == kind).order_by(Job.created_at.desc(), Job.id.desc())
    if cursor is None:
        return query
    at, last = read_cursor(cursor, float, str)
    return query.where(or_(Job.created_at < at, and_(Job.created_at == at, Job.id < last)))


def read_page(session: Session, query: Select[Job], limit: int) -> tuple[Sequence[Job], str | None]:
    """The first ``limit`` jobs of a query of ``newest_first``, and the cursor of the next page if there is one."""
    jobs = session.scalars(query.limit(limit + 1)).all()
    page = jobs[:limit]
    return page, write_cursor(page[-1].created_at, page[-1].id) if len(jobs) > limit else None


def require_device(session: Session, name: str) -> DeviceRow:
    """The device of a name. Raises NotFound, with the names of all devices."""
    row = session.get(DeviceRow, name)
    if row is None:
        names = session.scalars(select(DeviceRow.name).order_by(DeviceRow.name)).all()
        raise NotFound(f"no device {name!r}; the devices: {', '.join(names) or 'none'}")
    return row


def roofline_devices(session: Session, names: tuple[str, ...]) -> frozenset[str]:
    """Those of the devices that are defined by peak figures alone."""
    rows = session.scalars(select(DeviceRow).where(DeviceRow.name.in_(names)))
    return frozenset(row.name for row in rows if row.profile is not None and row.profile.source == "roofline")
