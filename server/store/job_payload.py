"""Build the payload of a job when it is claimed: everything that its spec names, so that a worker needs no database."""

from __future__ import annotations

import math
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.arch import Arch
from nas.core.cascade_spec import CascadeSpec
from nas.core.device import DeviceProfile
from nas.core.errors import InvalidSpec
from nas.core.events import Candidate, Origin
from nas.core.jobs import (
    DevicePayload,
    DryRunPayload,
    IntakePayload,
    JobPayload,
    OnboardingPayload,
    PredictorBlob,
    RefitData,
    SearchPayload,
)
from nas.core.metrics import METRICS
from nas.core.model_spec import ModelSpec
from nas.core.runtimes import Precision
from nas.core.spec import DeviceSpec, SearchSpec, parse_spec
from server.store.cascades import cascade_payload
from server.store.mapping import card_of
from server.store.measurements import agent_results, agent_seconds
from server.store.models import DeviceRow, Job, PointRow, PredictorRow, ReadingRow
from server.store.onboardings import agent_of
from server.store.predictor_lookup import energy_of, find_predictor, relatives_of, versions_before
from server.store.teachers import teacher_payload
from server.store.user_models import parent_blobs


def build_payload(session: Session, job: Job) -> JobPayload:
    """Resolve the spec of a job. Raises InvalidSpec for names that do not exist (any more).

    A search keeps the predictor version of its first claim, whose id is stored in ``job``.
    """
    if job.kind == "device":
        return _onboarding_payload(session, job)
    if job.kind == "model":
        return _intake_payload(session, job)
    if job.kind == "cascade":
        return cascade_payload(session, parse_spec(CascadeSpec, job.spec))
    payload = _search_payload(session, job)
    return DryRunPayload(payload) if job.kind == "dry_run" else payload


def _intake_payload(session: Session, job: Job) -> IntakePayload:
    spec = parse_spec(ModelSpec, job.spec)
    if spec.device is None:
        return IntakePayload(spec)
    device = session.get(DeviceRow, spec.device)
    if device is None or device.profile is None:
        raise InvalidSpec(f"device {spec.device!r} has not been profiled")
    return IntakePayload(spec, device.profile, agent_results(session, job.id))


def _onboarding_payload(session: Session, job: Job) -> OnboardingPayload:
    spec = parse_spec(DeviceSpec, job.spec)
    relatives = tuple(relative.blob for relative in relatives_of(session, spec))
    parent = parent_blobs(session, spec.space)
    if spec.source != "agent":
        return OnboardingPayload(spec, relatives, parent=parent, busy_seconds=job.busy_seconds)
    agent = agent_of(session, job.name)
    if agent is None:
        raise InvalidSpec(f"no agent has registered as {job.name!r}")
    profiling = job.state.finished.get("profile")
    profile = DeviceProfile.from_json(profiling["profile"]) if profiling else agent.profile
    busy_s = job.busy_seconds + agent_seconds(session, job.id)
    return OnboardingPayload(spec, relatives, profile, agent_results(session, job.id), parent, busy_s)


def _search_payload(session: Session, job: Job) -> SearchPayload:
    spec = parse_spec(SearchSpec, job.spec)
    predictors = [_predictor_of(session, job, name) for name in spec.devices]
    job.predictor_id = predictors[0].id
    single = spec.fleet is None
    return SearchPayload(
        spec=spec,
        search_id=job.id if job.kind == "search" else "",
        devices=tuple(
            DevicePayload(name, p.profile, PredictorBlob(p.family, p.blob), p.id, card_of(p).excluded)
            for name, p in zip(spec.devices, predictors, strict=True)
        ),
        energy=energy_of(session, predictors[0]) if single else None,  # energy is not predicted by device
        refit=_refit_data(session, job, predictors[0]) if single else None,
        supernet_blob=_required_supernet(session, spec.supernet) if spec.supernet is not None else None,
        supernet_data=data_hash_of(session, spec.supernet) if spec.supernet is not None else None,
        inherited=_estimated_candidates(session, spec.supernet, spec.precision) if spec.supernet is not None else (),
        measurements=agent_results(session, job.id),
        busy_seconds=job.busy_seconds,
        parent=parent_blobs(session, spec.space),
        teacher=teacher_payload(session, spec),
    )


def _predictor_of(session: Session, job: Job, device: str) -> PredictorRow:
    """The predictor version of a device as of the first claim of the search, whatever was fitted later."""
    row = session.get(PredictorRow, job.predictor_id) if job.predictor_id is not None else None
    if row is None or row.device != device:
        row = find_predictor(session, device, job.space_id, until=job.started_at)
    if row is None:
        raise InvalidSpec(f"device {device!r} has no latency predictor for the space {job.space_id}")
    return row


def _refit_data(session: Session, job: Job, predictor: PredictorRow) -> RefitData | None:
    """The data that the predictor was fitted to, and comparable measurements of other searches before this one began;
    None if nothing was ever measured."""
    if predictor.measurements_blob is None:
        return None
    onboarding = session.get(Job, versions_before(session, predictor)[-1].id)
    profiling = onboarding.state.finished.get("profile", {}) if onboarding is not None else {}
    protocol = predictor.profile.protocol.id
    readings = session.execute(
        select(ReadingRow.genes, ReadingRow.measured_ms)
        .where(ReadingRow.device == predictor.device, ReadingRow.space_id == predictor.space_id)
        .where(ReadingRow.profile_id == predictor.profile_id, ReadingRow.protocol == protocol)
        .where(ReadingRow.job_id != job.id, ReadingRow.measured_ms.is_not(None))
        .where(ReadingRow.at < (job.started_at if job.started_at is not None else math.inf))
        .order_by(ReadingRow.at, ReadingRow.id)
    ).all()
    return RefitData(
        measurements_blob=predictor.measurements_blob,
        relative_blobs=tuple(profiling.get("relatives", ())),
        genes=tuple(tuple(row.genes) for row in readings),
        latency_ms=tuple(row.measured_ms for row in readings),
    )


def supernet_of(session: Session, search_id: str) -> str | None:
    """The blob of the trained supernet of a search, or of the search whose supernet it reuses; None while there is
    none."""
    job: Job | None = session.get(Job, search_id)
    while job is not None and job.kind == "search":
        training = job.state.finished.get("train")
        for result in (training, job.state.finished.get("sensitivity")):
            if result is not None and result.get("supernet"):
                return str(result["supernet"])
        if job.spec["supernet"] is None:
            checkpoint = job.state.checkpoints.get("train")
            return str(checkpoint.blob) if training is not None and checkpoint is not None else None
        job = session.get(Job, job.spec["supernet"])
    return None


def data_hash_of(session: Session, search_id: str) -> str | None:
    """The content hash of the data that a search has read; None while it has read none, and for searches of versions
    that did not record it."""
    job = session.get(Job, search_id)
    data = job.state.data if job is not None else None
    return data.content_hash if data is not None else None


def _required_supernet(session: Session, search_id: str) -> str:
    blob = supernet_of(session, search_id)
    if blob is None:
        raise InvalidSpec(f"search {search_id!r} has no trained supernet")
    return blob


def _estimated_candidates(session: Session, search_id: str, precision: Precision) -> tuple[Candidate, ...]:
    """The candidates of a search with their estimated metrics only, since other metrics depend on device and bounds;
    without references, which every search evaluates itself. None of a search in another precision, whose estimates are
    of other models."""
    parent = session.get(Job, search_id)
    if parent is not None and parent.spec.get("precision", "float32") != precision:
        return ()
    evaluated = (PointRow.job_id == search_id, PointRow.origin != "reference")
    rows = session.scalars(select(PointRow).where(*evaluated).order_by(PointRow.position))
    return tuple(
        Candidate(
            Arch(row.space, tuple(row.genes)),
            cast(Origin, row.origin),
            {k: v for k, v in row.metrics.items() if METRICS[k].kind == "estimated"},
        )
        for row in rows
    )
