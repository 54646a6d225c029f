"""Latency predictors, their versions and what they were fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.device import DeviceProfile
from nas.core.errors import NotFound
from nas.core.spec import DeviceSpec
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from server.store.cursors import utc
from server.store.database import reading
from server.store.mapping import card_of, card_schema
from server.store.models import Job, PredictorRow, ReadingRow
from server.store.predictor_lookup import find_predictor, versions_before
from server.store.readers.base import Reader, require_device


@dataclass(frozen=True)
class OnboardedDevice:
    """A device with its present predictor for one space.

    ``spec`` is that of the onboarding; ``family`` and ``blob`` name the predictor; ``measurements_blob`` has the
    measurements that it was fitted to, None for a device without any; ``readings`` are genes and ms measured since.
    """

    spec: DeviceSpec
    profile: DeviceProfile
    family: str
    blob: str
    measurements_blob: str | None
    readings: Sequence[tuple[tuple[int, ...], float]]
    card: PredictorCardSchema


class PredictorReader(Reader):
    """Reads latency predictors."""

    def predictors(self, device: str | None) -> list[PredictorCardSchema]:
        """The cards of all predictors, or of one device's, newest first. Raises NotFound for an unknown device."""
        with reading(self._engine) as session:
            if device is not None:
                require_device(session, device)
            return _cards(session, device)

    def predictor(self, predictor_id: str) -> PredictorCardSchema:
        """One predictor's card. Raises NotFound."""
        with reading(self._engine) as session:
            row = session.get(PredictorRow, predictor_id)
            if row is None:
                raise NotFound(f"no predictor {predictor_id!r}")
            return card_schema(row)

    def predictor_for(self, device: str, space_id: str) -> tuple[str, str] | None:
        """(family, blob) of the predictor that a new search on this device and space would use, or None."""
        with reading(self._engine) as session:
            row = find_predictor(session, device, space_id)
            return (row.family, row.blob) if row is not None else None

    def versions(self, device: str, owner: str | None = None) -> list[PredictorVersionSchema]:
        """All versions of a device's predictors, newest first, with the searches (of one owner) that used them.

        Raises NotFound for an unknown device.
        """
        with reading(self._engine) as session:
            require_device(session, device)
            of_device = select(PredictorRow).where(PredictorRow.device == device)
            rows = session.scalars(of_device.order_by(PredictorRow.created_at.desc(), PredictorRow.number.desc())).all()
            used = select(Job.id, Job.predictor_id).where(Job.kind == "search")
            used = used.where(Job.predictor_id.in_([row.id for row in rows])).order_by(Job.created_at)
            if owner is not None:
                used = used.where(Job.owner == owner)
            searches: dict[str, list[str]] = {}
            for job_id, predictor_id in session.execute(used):
                searches.setdefault(str(predictor_id), []).append(job_id)
            visible = {job_id for ids in searches.values() for job_id in ids}
            in_use = {row.id for row in current_predictors(session, device)}
            return [
                PredictorVersionSchema(
                    id=row.id,
                    device=row.device,
                    number=row.number,
                    profile=row.profile_id,
                    space=row.space_id,
                    family=row.family,
                    networks=row.networks,
                    before=row.before,
                    search=row.search_id if row.search_id in visible else None,
                    better=row.better,
                    why=row.why,
                    in_use=row.id in in_use,
                    searches=searches.get(row.id, []),
                    created_at=utc(row.created_at),
                    space_name=card.space_name,
                    n=card.n,
                    held_out=card.held_out,
                    mape=card.mape,
                    spearman=card.spearman,
                    coverage=card.coverage,
                )
                for row, card in ((row, card_of(row)) for row in rows)
            ]

    def onboarded_device(self, device: str, space_id: str) -> OnboardedDevice | None:
        """A device with its predictor for a space; None without such a predictor."""
        with reading(self._engine) as session:
            row = find_predictor(session, device, space_id)
            if row is None:
                return None
            onboarding = session.get_one(Job, versions_before(session, row)[-1].id)
            readings = session.execute(
                select(ReadingRow.genes, ReadingRow.measured_ms)
                .where(ReadingRow.device == device, ReadingRow.space_id == space_id)
                .where(ReadingRow.profile_id == row.profile_id, ReadingRow.measured_ms.is_not(None))
                .order_by(ReadingRow.at, ReadingRow.id)
            )
            return OnboardedDevice(
                spec=DeviceSpec.model_validate(onboarding.spec),
                profile=row.profile,
                family=row.family,
                blob=row.blob,
                measurements_blob=row.measurements_blob,
                readings=[(tuple(r.genes), r.measured_ms) for r in readings],
                card=card_schema(row),
            )


def _cards(session: Session, device: str | None) -> list[PredictorCardSchema]:
    query = select(PredictorRow).order_by(PredictorRow.created_at.desc(), PredictorRow.id)
    if device is not None:
        query = query.where(PredictorRow.device == device)
    return [card_schema(row) for row in session.scalars(query)]


def current_predictors(session: Session, device: str) -> list[PredictorRow]:
    """The versions that a new search would use, one for each space, the latest first."""
    spaces = session.scalars(select(PredictorRow.space_id).where(PredictorRow.device == device).distinct()).all()
    rows = [row for space_id in spaces if (row := find_predictor(session, device, space_id)) is not None]
    return sorted(rows, key=lambda row: (-row.created_at, row.id))
