"""Projections of the results of onboardings, and of what searches measure, into devices, predictors and readings."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nas.core.device import DeviceProfile
from nas.core.errors import InvalidInput
from nas.core.events import Event, Measured, Refitted, SearchState, StageFinished
from predictors.onboarding.results import FitResult, ProfileResult, RefitResult
from server.store.models import DeviceRow, Job, PredictorRow, ReadingRow
from server.store.predictor_lookup import find_predictor


def project_onboarding(session: Session, job: Job, events: Iterable[Event], state: SearchState, at: float) -> None:
    """Store the results of an onboarding: the device's profile, and the predictor with its card."""
    for event in events:
        if not isinstance(event, StageFinished):
            continue
        device = session.get_one(DeviceRow, job.name)
        if event.stage == "profile":
            profile = ProfileResult.parse(event.result).profile
            _add_canary_reading(session, job, device, profile, at)
            device.profile, device.profile_id = profile, profile.id
        elif event.stage == "fit":
            profile = ProfileResult.require(state.finished).profile
            fitted = FitResult.parse(event.result)
            session.merge(
                PredictorRow(
                    id=job.id,
                    device=device.name,
                    profile_id=profile.id,
                    profile=profile,
                    space_id=fitted.space_id,
                    family=fitted.family,
                    card=dict(event.result["card"]),
                    blob=fitted.blob,
                    created_at=at,
                    number=_next_number(session, device.name, fitted.space_id, job.id),
                    measurements_blob=fitted.measurements_blob,
                    networks=fitted.networks,
                    better=True,
                    why="",
                )
            )


def _add_canary_reading(session: Session, job: Job, device: DeviceRow, profile: DeviceProfile, at: float) -> None:
    """Store how the canary changed, if a device is profiled again with the same profile."""
    before = device.profile
    if before is None or before.id != profile.id or not before.canary_ms or not profile.canary_ms:
        return
    session.add(
        ReadingRow(
            device=device.name,
            at=at,
            profile_id=profile.id,
            protocol=profile.protocol.id,
            job_id=job.id,
            canary=profile.canary_ms / before.canary_ms,
        )
    )


def add_reading(session: Session, job: Job, event: Measured, state: SearchState, refits: int, at: float) -> None:
    """Store a measurement after ``refits`` refits: measured and predicted latency, and the canary's drift."""
    m, point = event.measurement, state.candidates[event.origin, event.arch.id]
    predicted_ms, predictor_id = point.metrics.get("predicted_ms"), job.predictor_id
    if event.device is not None:
        predicted_ms, predictor_id = point.devices[event.device].predicted_ms, None
    elif refits:
        predictor_id = _version_id(job, refits)
    is_predicted = predicted_ms is not None
    session.add(
        ReadingRow(
            device=event.device or job.spec["device"],
            at=at,
            profile_id=m.profile,
            protocol=m.protocol,
            job_id=job.id,
            canary=m.drift,
            space_id=job.space_id if is_predicted else event.arch.space,  # a reference may be of another space
            predictor_id=predictor_id if is_predicted else None,
            arch_id=event.arch.id,
            genes=list(event.arch.genes),
            measured_ms=m.median_ms,
            predicted_ms=predicted_ms,
        )
    )


def add_version(session: Session, job: Job, event: Refitted, at: float) -> None:
    """Store a predictor refitted with the measurements of a search.

    If another search made a version meanwhile, which this one was not fitted to, that version stays in use; the next
    version is fitted to the measurements of both.
    """
    before = session.get(PredictorRow, job.predictor_id) if job.predictor_id is not None else None
    if before is None:
        raise InvalidInput("expected a search with a predictor, got a refit of one without")
    refitted = RefitResult.parse(event.record)
    own_versions = {before.id, *(_version_id(job, n) for n in range(1, event.number))}
    current = find_predictor(session, before.device, before.space_id)
    overtaken = current is not None and current.profile_id == before.profile_id and current.id not in own_versions
    better, why = refitted.better, refitted.why
    if better and overtaken:
        assert current is not None
        better, why = False, f"version {current.number} was made first, from measurements that this one lacks; {why}"
    session.merge(
        PredictorRow(
            id=_version_id(job, event.number),
            device=before.device,
            profile_id=before.profile_id,
            profile=before.profile,
            space_id=before.space_id,
            family=refitted.family,
            card=dict(event.record["card"]),
            blob=refitted.blob,
            created_at=at,
            number=_next_number(session, before.device, before.space_id, _version_id(job, event.number)),
            before=before.id if event.number == 1 else _version_id(job, event.number - 1),
            search_id=job.id,
            measurements_blob=refitted.measurements_blob,
            networks=refitted.networks,
            better=better,
            why=why,
        )
    )
    session.flush()  # the number of the next version depends on this row


def _version_id(job: Job, number: int) -> str:
    return f"{job.id}-{number}"


def _next_number(session: Session, device: str, space_id: str, of: str) -> int:
    row = session.get(PredictorRow, of)
    if row is not None:  # the device was measured again by the same job
        return row.number
    numbers = select(func.max(PredictorRow.number)).where(
        PredictorRow.device == device, PredictorRow.space_id == space_id
    )
    return (session.scalar(numbers) or 0) + 1
