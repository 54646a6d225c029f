"""Notes on a search whose devices were added again since: it keeps its version of the predictor."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.spec import SearchSpec
from server.store.cursors import utc
from server.store.models import Job, PredictorRow
from server.store.predictor_lookup import find_predictor


def replacement_warnings(session: Session, job: Job, spec: SearchSpec) -> list[str]:
    """One sentence on each device of a search that was onboarded anew, for the same space, since the search got its
    predictor, or was submitted."""
    warnings = (_replacement_warning(session, job, device) for device in spec.devices)
    return [warning for warning in warnings if warning is not None]


def _replacement_warning(session: Session, job: Job, device: str) -> str | None:
    since = job.started_at if job.started_at is not None else job.created_at
    replacement = session.scalars(
        select(PredictorRow)
        .where(PredictorRow.device == device, PredictorRow.space_id == job.space_id)
        .where(PredictorRow.before.is_(None), PredictorRow.created_at > since)  # not refitted: onboarded
        .order_by(PredictorRow.number.desc())
        .limit(1)
    ).first()
    if replacement is None:
        return None
    used = _used_predictor(session, job, device)
    if used is None:
        return None
    onboarding = session.get_one(Job, replacement.id)
    added = f"device {device} was added again by {onboarding.owner} on {utc(replacement.created_at):%Y-%m-%d %H:%M} UTC"
    if job.started_at is None:
        return (
            f"{added}: this search was checked against version {used.number} of its predictor and will use version "
            f"{replacement.number}"
        )
    return (
        f"{added}: this search keeps version {used.number} of its predictor, and new searches use version "
        f"{replacement.number}"
    )


def _used_predictor(session: Session, job: Job, device: str) -> PredictorRow | None:
    """The version that a search got at its first claim, or was checked against; None for a device that was deleted."""
    row = session.get(PredictorRow, job.predictor_id) if job.predictor_id is not None else None
    if row is not None and row.device == device:
        return row
    until = job.started_at if job.started_at is not None else job.created_at
    return find_predictor(session, device, job.space_id, until=until)
