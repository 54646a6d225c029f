"""Database rows and engine values as the schemas of ``nas.schemas``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from types import MappingProxyType

from nas.core.device import Measurement, OnDevice
from nas.core.events import Candidate, SearchState, StageResults
from nas.core.fronts import Front
from nas.core.lifecycle import LEASED
from nas.core.metrics import METRICS, kind_of
from nas.core.predictor_card import PredictorCard
from nas.schemas.candidates import (
    ArtifactSchema,
    CandidateOnDeviceSchema,
    CandidateSchema,
    MetricSchema,
)
from nas.schemas.jobs import JobSchema, StageSchema
from nas.schemas.predictors import PredictorCardSchema
from nas.stages.results import ReferencesResult
from server.store.cursors import utc
from server.store.json_columns import StageBar
from server.store.models import ArtifactRow, Job, PredictorRow
from server.store.time_left import TimeLeft, stage_time_left_s, time_left


def front_keys(*fronts: Front) -> set[tuple[str, str]]:
    """The keys of all members of fronts and of their baselines."""
    return {p.key for front in fronts for p in (*front.members, *front.baseline)}


def reference_names(finished: StageResults) -> Mapping[str, str]:
    """The names of the references of a search by architecture id; empty before they were evaluated."""
    result = ReferencesResult.read(finished)
    return result.names if result is not None else {}


def candidate_schema(
    candidate: Candidate,
    on_front: bool,
    virtual: Collection[str] = frozenset(),
    device: str | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    with_layers: bool = False,
) -> CandidateSchema:
    """A candidate with units and kinds of evidence: on one ``device``, or on the worst of all.

    ``virtual``: the devices that are defined by peak figures alone. ``names`` as ``reference_names``.
    ``with_layers``: with the time of every layer, of which lists of candidates have no use.
    """
    return CandidateSchema(
        arch=candidate.arch.id,
        origin=candidate.origin,
        name=names.get(candidate.arch.id) if candidate.origin == "reference" else None,
        genes=list(candidate.arch.genes),
        metrics=_metric_schemas(candidate.metrics, device in virtual if device is not None else bool(virtual)),
        status=candidate.status,
        promised_ms=candidate.promised_ms,
        measurement=_measurement(candidate.measurement, with_layers),
        devices={
            name: _on_device_schema(part, name in virtual, with_layers) for name, part in candidate.devices.items()
        },
        extrapolated=candidate.extrapolated,
        on_front=on_front,
    )


def _measurement(measurement: Measurement | None, with_layers: bool) -> Measurement | None:
    return measurement if measurement is None or with_layers else replace(measurement, layers=())


def _on_device_schema(part: OnDevice, virtual: bool, with_layers: bool) -> CandidateOnDeviceSchema:
    values_ms = {"predicted_ms": part.predicted_ms, "upper_ms": part.upper_ms, "measured_ms": part.measured_ms}
    return CandidateOnDeviceSchema(
        metrics=_metric_schemas({name: value for name, value in values_ms.items() if value is not None}, virtual),
        status=part.status,
        promised_ms=part.promised_ms,
        measurement=_measurement(part.measurement, with_layers),
    )


def _metric_schemas(metrics: Mapping[str, float], virtual: bool) -> dict[str, MetricSchema]:
    return {
        name: MetricSchema(value=value, unit=METRICS[name].unit, kind=kind_of(name, virtual))
        for name, value in metrics.items()
    }


def artifact_schema(row: ArtifactRow) -> ArtifactSchema:
    """An exported file."""
    return ArtifactSchema(
        arch=row.arch_id,
        name=row.name,
        size_bytes=row.size_bytes,
        sha256=row.blob,
        media_type=row.media_type,
        url=f"/v1/searches/{row.job_id}/artifacts/{row.arch_id}/{row.name}",
        report=row.report,
    )


def card_of(row: PredictorRow) -> PredictorCard:
    """The stored card of a predictor; the first versions of cards left the family to the row."""
    return PredictorCard.from_json({"family": row.family, **row.card})


def card_schema(row: PredictorRow) -> PredictorCardSchema:
    """The card of a predictor."""
    row_fields = {
        "id": row.id,
        "device": row.device,
        "profile": row.profile_id,
        "space": row.space_id,
        "family": row.family,
    }
    card = card_of(row)
    return PredictorCardSchema.model_validate(
        {
            **vars(card),
            **row_fields,
            "source": card.source,
            "protocol": row.card["protocol"],
            "noise": None if card.noise is None else vars(card.noise),
            "energy": None if card.energy is None else vars(card.energy),
            "choice": None if card.choice is None else asdict(card.choice),
            "number": row.number,
            "created_at": utc(row.created_at),
        }
    )


def job_schema(job: Job, state: SearchState, waiting: str | None, now: float) -> JobSchema:
    """What searches and device onboardings have in common. ``waiting`` is what a queued job waits for."""
    left = time_left(job.stages, state.seconds, now) if job.status in LEASED else TimeLeft(None, ())
    return JobSchema(
        id=job.id,
        status=job.status,
        owner=job.owner,
        priority=job.priority,
        waiting=waiting,
        busy_seconds=job.busy_seconds,
        created_at=utc(job.created_at),
        started_at=utc(job.started_at) if job.started_at is not None else None,
        finished_at=utc(job.finished_at) if job.finished_at is not None else None,
        attempts=job.attempts,
        error=job.error,
        stages=[_stage_schema(job, bar, state, now) for bar in job.stages],
        warnings=list(state.warnings),
        eta_s=left.seconds,
        untimed_stages=list(left.untimed),
        last_event=job.last_seq,
    )


def _stage_schema(job: Job, bar: StageBar, state: SearchState, now: float) -> StageSchema:
    active = bar.status == "running"
    seconds = state.seconds.get(bar.name, 0.0)
    if active and bar.begun_at is not None and bar.latest is not None:
        seconds += (now if job.status in LEASED else bar.latest) - bar.begun_at
    status = "waiting" if active and job.status not in LEASED else bar.status
    return StageSchema(
        name=bar.name,
        status=status,
        done=bar.done,
        total=bar.total,
        unit=bar.unit,
        seconds=seconds,
        eta_s=stage_time_left_s(bar, now) if active and job.status in LEASED else None,
        values=bar.values,
        message=bar.message,
        result=dict(state.finished.get(bar.name, {})),
    )
