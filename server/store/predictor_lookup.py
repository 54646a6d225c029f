"""Find the predictors of a device: the version for a search, its ancestors, and measurements of similar devices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.jobs import PredictorBlob
from nas.core.spec import DeviceSpec
from server.store.models import DeviceRow, Job, PredictorRow


@dataclass(frozen=True)
class RelatedDevice:
    """Another device that was measured for the same space and data: the blob of its measurements, and of how many
    networks."""

    device: str
    blob: str
    networks: int


def find_predictor(
    session: Session, device: str, space_id: str | None, until: float | None = None
) -> PredictorRow | None:
    """Return the newest accepted predictor version of a device for a space, created at or before ``until`` if given.
    Versions of the device's present profile are preferred."""
    current = select(DeviceRow.profile_id).where(DeviceRow.name == device).scalar_subquery()
    return session.scalars(
        select(PredictorRow)
        .where(PredictorRow.device == device, PredictorRow.space_id == space_id, PredictorRow.better)
        .where(PredictorRow.created_at <= (until if until is not None else math.inf))
        .order_by((PredictorRow.profile_id == current).desc(), PredictorRow.number.desc())
        .limit(1)
    ).first()


def versions_before(session: Session, predictor: PredictorRow) -> list[PredictorRow]:
    """Return a version and its ancestors, from itself to the version of the onboarding."""
    chain = [predictor]
    while (before := chain[-1].before) is not None:
        chain.append(session.get_one(PredictorRow, before))
    return chain


def energy_of(session: Session, predictor: PredictorRow) -> PredictorBlob | None:
    """Return the energy predictor that belongs to a latency predictor; None if there is none."""
    fit = session.get_one(Job, versions_before(session, predictor)[-1].id).state.finished.get("fit", {})
    energy = fit.get("energy")
    return None if energy is None else PredictorBlob(energy["family"], energy["blob"])


def relatives_of(session: Session, spec: DeviceSpec) -> list[RelatedDevice]:
    """Return the newest measurements of each other device for the same space and data, by device name."""
    if not spec.beside_relatives:
        return []
    query = select(PredictorRow.device, Job.spec, Job.state).join(Job, Job.id == PredictorRow.id)
    rows = session.execute(query.where(PredictorRow.device != spec.name).order_by(PredictorRow.created_at))
    relatives: dict[str, RelatedDevice] = {}
    for device, record, state in rows:
        other, fit = DeviceSpec.model_validate(record), state.finished.get("fit", {})
        if (other.space, other.data) == (spec.space, spec.data) and "measurements_blob" in fit:
            relatives[device] = RelatedDevice(device, fit["measurements_blob"], fit["networks"])
    return [relatives[device] for device in sorted(relatives)]
