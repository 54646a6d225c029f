"""Cascades of the exported models of searches."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from sqlalchemy.orm import Session

from nas.core.cascade_spec import CASCADE_STAGE, CascadeSpec, StoredCascade
from nas.core.errors import NotFound
from nas.schemas.cascades import CascadeFileSchema, CascadeSchema
from server.store.cascades import cascades_of, package_blobs
from server.store.database import reading
from server.store.mapping import job_schema
from server.store.models import Job
from server.store.queue import wait_reasons
from server.store.readers.base import Reader, require_job


class CascadeReader(Reader):
    """Reads cascades."""

    def cascades(self, search_id: str) -> list[CascadeSchema]:
        """The cascades of a search, the newest first. Raises NotFound."""
        with reading(self._engine) as session:
            require_job(session, search_id, "search")
            return _schemas(session, session.scalars(cascades_of(search_id)).all(), self._clock(session))

    def cascade(self, search_id: str, cascade_id: str) -> CascadeSchema:
        """One cascade of a search. Raises NotFound."""
        with reading(self._engine) as session:
            job = require_job(session, cascade_id, "cascade")
            if job.parent_id != search_id:
                raise NotFound(f"search {search_id!r} has no cascade {cascade_id!r}")
            [schema] = _schemas(session, [job], self._clock(session))
            return schema

    def exported_models(self, search_id: str) -> int:
        """How many models a search has exported. Raises NotFound."""
        with reading(self._engine) as session:
            return len(package_blobs(session, require_job(session, search_id, "search").id))


def _schemas(session: Session, jobs: Sequence[Job], now: float) -> list[CascadeSchema]:
    waiting = wait_reasons(session, jobs, now)
    return [_schema(job, waiting.get(job.id), now) for job in jobs]


def _schema(job: Job, waiting: str | None, now: float) -> CascadeSchema:
    spec = CascadeSpec.model_validate(job.spec)
    made = job.state.finished.get(CASCADE_STAGE)
    stored = StoredCascade.parse(made) if made is not None else None
    return CascadeSchema(
        **vars(job_schema(job, job.state, waiting, now)),
        spec=spec,
        report=stored.report if stored is not None else None,
        worker=stored.worker if stored is not None else None,
        file=_file(spec.search, job.id, stored) if stored is not None else None,
    )


def _file(search_id: str, cascade_id: str, stored: StoredCascade) -> CascadeFileSchema:
    return CascadeFileSchema(
        name=f"cascade-{cascade_id}.zip",
        size_bytes=stored.size_bytes,
        sha256=stored.blob,
        url=f"/v1/searches/{quote(search_id, safe='')}/cascades/{cascade_id}/file",
    )
