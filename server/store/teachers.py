"""The searches whose exported models teach the networks of others."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.errors import InvalidSpec
from nas.core.jobs import TeacherPayload
from nas.core.retraining import TeacherSpec
from nas.core.spec import SearchSpec
from server.store.models import ArtifactRow, Job
from server.store.user_models import parent_blobs


@dataclass(frozen=True)
class TeacherSearch:
    """The search that a teacher comes from: its owner, spec, space and the ids of its exported networks."""

    owner: str
    spec: SearchSpec
    space_id: str | None
    networks: tuple[str, ...]


def teacher_of(spec: SearchSpec) -> TeacherSpec | None:
    """The model of another search that a search learns from, None if from none."""
    teacher = spec.retrain.teacher if spec.retrain is not None else "none"
    return teacher if isinstance(teacher, TeacherSpec) else None


def teacher_search(session: Session, search_id: str) -> TeacherSearch | None:
    """The search of an id, None for an unknown one."""
    job = session.get(Job, search_id)
    if job is None or job.kind != "search":
        return None
    rows = select(ArtifactRow.arch_id, ArtifactRow.name).where(ArtifactRow.job_id == search_id)
    networks = {row.arch_id for row in session.execute(rows) if row.name == _package_of(row.arch_id)}
    return TeacherSearch(job.owner, SearchSpec.model_validate(job.spec), job.space_id, tuple(sorted(networks)))


def teacher_payload(session: Session, spec: SearchSpec) -> TeacherPayload | None:
    """What a worker needs of the teacher that a spec names. Raises InvalidSpec if it is gone."""
    teacher = teacher_of(spec)
    if teacher is None:
        return None
    job = session.get(Job, teacher.search)
    artifact = session.get(ArtifactRow, (teacher.search, teacher.network, _package_of(teacher.network)))
    if job is None or artifact is None:
        raise InvalidSpec(f"retrain.teacher: search {teacher.search!r} has no exported network {teacher.network!r}")
    of_teacher = SearchSpec.model_validate(job.spec)
    parent = parent_blobs(session, of_teacher.space)
    space, precision = of_teacher.space, of_teacher.precision
    return TeacherPayload(teacher.search, teacher.network, space, artifact.blob, parent, precision)


def _package_of(network: str) -> str:
    return f"{network}.zip"
