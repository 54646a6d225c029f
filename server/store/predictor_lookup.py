"""Find the predictors of a device: the version for a search, its ancestors, and measurements of similar devices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from nas.core.jobs import PredictorBlob
from nas.core.spec import DeviceSpec
from server.store.models import DeviceRow, Job, PredictorRow


@dataclass(frozen=True)
class RelatedDevice:
    """Another device that was measured for the same space and data, or (``other_space``) the device itself for others:
    the blob of its measurements, and of how many networks."""

    device: str
    blob: str
    networks: int
    other_space: bool = False


_CURRENT_PROFILE = select(DeviceRow.profile_id).where(DeviceRow.name == bindparam("device")).scalar_subquery()
_NEWEST_ACCEPTED = (  # built once: every submission runs it
    select(PredictorRow)
    .where(PredictorRow.device == bindparam("device"), PredictorRow.space_id == bindparam("space_id"))
    .where(PredictorRow.better, PredictorRow.created_at <= bindparam("until"))
    .order_by((PredictorRow.profile_id == _CURRENT_PROFILE).desc(), PredictorRow.number.desc())
    .limit(1)
)


def find_predictor(
    session: Session, device: str, space_id: str | None, until: float | None = None
) -> PredictorRow | None:
    """Return the newest accepted predictor version of a device for a space, created at or before ``until`` if given.
    Versions of the device's present profile are preferred."""
    values = {"device": device, "space_id": space_id, "until": until if until is not None else math.inf}
    return session.scalars(_NEWEST_ACCEPTED, values).first()


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
    """Return the newest measurements of each other device for the same space and data, by device name; then those of
    the device itself for other spaces and data, the oldest first."""
    if not spec.beside_relatives:
        return []
    query = select(PredictorRow.device, PredictorRow.space_id, Job.spec, Job.state)
    rows = session.execute(query.join(Job, Job.id == PredictorRow.id).order_by(PredictorRow.created_at))
    others: dict[str, RelatedDevice] = {}
    own: dict[str, RelatedDevice] = {}
    for device, space_id, record, state in rows:
        added, fit = DeviceSpec.model_validate(record), state.finished.get("fit", {})
        if "measurements_blob" not in fit:
            continue
        related = RelatedDevice(device, fit["measurements_blob"], fit["networks"])
        same = (added.space, added.data) == (spec.space, spec.data)
        if device != spec.name and same:
            others[device] = related
        elif device == spec.name and not same and "as_written" in fit["card"]:  # earlier versions stored no layers
            own[space_id] = replace(related, other_space=True)
    return [*(others[device] for device in sorted(others)), *own.values()]
