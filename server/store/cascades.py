"""Cascades of the exported models of searches: what a worker needs of them, and their end."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from nas.core.cascade_spec import CascadeSpec
from nas.core.jobs import CascadePayload
from server.store.models import ArtifactRow, Job
from server.store.transitions import account_busy_time


def cascade_payload(session: Session, spec: CascadeSpec) -> CascadePayload:
    """The exported models that a cascade is made of."""
    return CascadePayload(spec, tuple(package_blobs(session, spec.search)))


def package_blobs(session: Session, search_id: str) -> Sequence[str]:
    """The zip files of the exported models of a search, by architecture id."""
    packages = (ArtifactRow.job_id == search_id, ArtifactRow.name == ArtifactRow.arch_id + ".zip")
    return session.scalars(select(ArtifactRow.blob).where(*packages).order_by(ArtifactRow.arch_id)).all()


def cascades_of(search_id: str) -> Select[Job]:
    """The cascades of a search, the newest first."""
    of_search = (Job.kind == "cascade", Job.parent_id == search_id)
    return select(Job).where(*of_search).order_by(Job.created_at.desc(), Job.id.desc())


def delete_cascades(session: Session, search_id: str, now: float) -> None:
    """Delete the cascades of a search with it, running or not; this ends their leases."""
    for job in session.scalars(cascades_of(search_id).with_for_update()).all():
        account_busy_time(session, job, now)
        session.delete(job)
