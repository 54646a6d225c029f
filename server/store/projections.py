"""From events to rows. What an event means is ``nas.core.events.fold``; here its result is kept in tables.

``project`` loads only what a batch of events touches into a ``SearchState``, folds, and writes the difference back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.arch import Arch
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import InvalidInput
from nas.core.events import (
    Checkpoint,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    Measured,
    Point,
    Progress,
    SearchState,
    StageFinished,
    StageStarted,
    fold_all,
)
from server.store.models import ArtifactRow, DeviceRow, Job, PointRow, PredictorRow

R = TypeVar("R", PointRow, ArtifactRow)
KEPT_PROGRESS = 200  # progress events kept per stage, enough for a curve; beyond it every second one is dropped


def project(session: Session, job: Job, numbered: Sequence[tuple[int, Event]], at: float) -> bool:
    """Folds new events into the rows of ``job``; whether they hold durable progress, with which it counts as moving."""
    events = [event for _, event in numbered]
    point_rows = {(row.origin, row.arch_id): row for row in _rows(session, PointRow, job.id, _evaluated(events))}
    export_rows = {(row.arch_id, row.name): row for row in _rows(session, ArtifactRow, job.id, _exported(events))}
    before = replace(
        state_from_json(job.state),
        points={key: point_of(row) for key, row in point_rows.items()},
        exports=tuple(_export(row) for row in export_rows.values()),
    )
    after = fold_all(events, before)

    last = numbered[-1][0]
    for key, point in after.points.items():
        if key not in point_rows:
            point_rows[key] = _new_point_row(job, point)
            session.add(point_rows[key])
        if point != before.points.get(key):
            _write_point(point_rows[key], point, last)
    seqs = {(e.arch.id, e.name): seq for seq, e in numbered if isinstance(e, Exported)}
    for export in after.exports:
        if (seq := seqs.get((export.arch.id, export.name))) is not None:
            session.merge(_export_row(job.id, seq, export))
    job.state = state_to_json(after)
    job.stages = _advance(job.stages, numbered, at)
    if job.kind == "device":
        _project_device(session, job, events, after, at)
    moved = _durable(after) != _durable(before)
    if moved:
        job.stalled = 0
    return moved


def load_state(session: Session, job: Job) -> SearchState:
    """The whole state of a job, as folding its log would give."""
    points = session.scalars(select(PointRow).where(PointRow.job_id == job.id).order_by(PointRow.position))
    exports = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job.id).order_by(ArtifactRow.seq))
    return replace(
        state_from_json(job.state),
        points={(row.origin, row.arch_id): point_of(row) for row in points},
        exports=tuple(_export(row) for row in exports),
    )


def surplus_progress(stages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Stages with their list of progress events thinned out, and the numbers of the events that are to go."""
    thinned, surplus = [], []
    for stage in stages:
        kept: list[int] = stage["kept"]
        if len(kept) > KEPT_PROGRESS:
            surplus += kept[1:-1:2]
            stage = {**stage, "kept": [seq for seq in kept if seq not in set(kept[1:-1:2])]}
        thinned.append(stage)
    return thinned, surplus


def new_stage(name: str) -> dict[str, Any]:
    """A stage as ``jobs.stages`` keeps it. ``anchor`` is [time, done] of the first progress of this attempt, ``latest``
    the time of the last; ``kept`` the numbers of its progress events in the log."""
    return {
        "name": name,
        "status": "waiting",
        "done": 0,
        "total": 0,
        "unit": "",
        "values": {},
        "message": "",
        "begun": None,
        "anchor": None,
        "latest": None,
        "kept": [],
    }


def state_to_json(state: SearchState) -> dict[str, Any]:
    """A search state without points and exports, which have tables of their own."""
    return {
        "stage": state.stage,
        "finished": {stage: dict(result) for stage, result in state.finished.items()},
        "seconds": dict(state.seconds),
        "checkpoints": {stage: asdict(c) for stage, c in state.checkpoints.items()},
        "hypervolume": [asdict(h) for h in state.hypervolume],
        "warnings": list(state.warnings),
    }


def state_from_json(record: Mapping[str, Any]) -> SearchState:
    """Inverse of ``state_to_json``; an empty record is the empty state."""
    if not record:
        return SearchState()
    return SearchState(
        stage=record["stage"],
        finished=record["finished"],
        seconds=record["seconds"],
        checkpoints={stage: Checkpoint(**c) for stage, c in record["checkpoints"].items()},
        hypervolume=tuple(HypervolumeAt(**h) for h in record["hypervolume"]),
        warnings=tuple(record["warnings"]),
    )


def _durable(state: SearchState) -> tuple[object, ...]:
    """What a crashed job does not have to do again."""
    measured = {key for key, p in state.points.items() if p.measurement is not None}
    exports = {(e.arch.id, e.name) for e in state.exports}
    return state.finished, state.checkpoints, set(state.points), measured, exports


def _evaluated(events: Iterable[Event]) -> list[str]:
    ids: set[str] = set()
    for event in events:
        if isinstance(event, Evaluated):
            ids.update(p.arch.id for p in event.points)
        elif isinstance(event, Measured):
            ids.add(event.arch.id)
    return sorted(ids)


def _exported(events: Iterable[Event]) -> list[str]:
    return sorted({e.arch.id for e in events if isinstance(e, Exported)})


def _rows(session: Session, table: type[R], job_id: str, archs: list[str]) -> list[R]:
    rows: list[R] = []
    for start in range(0, len(archs), 500):  # databases limit the parameters of one statement
        some = archs[start : start + 500]
        rows += session.scalars(select(table).where(table.job_id == job_id, table.arch_id.in_(some)))
    return rows


def point_of(row: PointRow) -> Point:
    return Point(
        arch=Arch(row.space, tuple(row.genes)),
        origin=cast(Any, row.origin),
        metrics=row.metrics,
        status=cast(Any, row.status),
        claim_ms=row.claim_ms,
        measurement=Measurement.from_json(row.measurement) if row.measurement else None,
    )


def _new_point_row(job: Job, point: Point) -> PointRow:
    job.point_count += 1
    return PointRow(
        job_id=job.id,
        origin=point.origin,
        arch_id=point.arch.id,
        position=job.point_count,
        space=point.arch.space,
        genes=list(point.arch.genes),
    )


def _write_point(row: PointRow, point: Point, seq: int) -> None:
    row.seq = seq
    row.metrics = dict(point.metrics)
    row.status = point.status
    row.claim_ms = point.claim_ms
    row.measurement = point.measurement.as_json() if point.measurement else None


def _export(row: ArtifactRow) -> Exported:
    arch = Arch(row.space, tuple(row.genes))
    return Exported(arch, row.name, row.blob, row.size_bytes, row.media_type, row.report)


def _export_row(job_id: str, seq: int, export: Exported) -> ArtifactRow:
    return ArtifactRow(
        job_id=job_id,
        arch_id=export.arch.id,
        name=export.name,
        seq=seq,
        space=export.arch.space,
        genes=list(export.arch.genes),
        blob=export.blob,
        size_bytes=export.size_bytes,
        media_type=export.media_type,
        report=dict(export.report),
    )


def _advance(stages: list[dict[str, Any]], numbered: Sequence[tuple[int, Event]], at: float) -> list[dict[str, Any]]:
    """The progress bars after more events."""
    bars = {stage["name"]: dict(stage) for stage in stages}
    for seq, event in numbered:
        if not isinstance(event, StageStarted | Progress | StageFinished):
            continue
        if event.stage not in bars:
            position = event.position if isinstance(event, StageStarted) else len(bars)
            rows = list(bars.items())
            bars = dict([*rows[:position], (event.stage, new_stage(event.stage)), *rows[position:]])
        bar = bars[event.stage]
        match event:
            case StageStarted():
                bar |= {"status": "running", "begun": at, "anchor": None, "latest": at}
            case Progress():
                bar |= {"done": event.done, "total": event.total, "unit": event.unit, "message": event.message}
                bar |= {"values": {**bar["values"], **event.values}, "kept": [*bar["kept"], seq]}
                bar |= {"anchor": bar["anchor"] or [at, event.done], "latest": at}
            case StageFinished():
                bar |= {"status": "finished", "done": bar["total"]}
    return list(bars.values())


def _project_device(session: Session, job: Job, events: Iterable[Event], state: SearchState, at: float) -> None:
    """What an onboarding has found: the profile, and the predictor with its card."""
    for event in events:
        if not isinstance(event, StageFinished):
            continue
        device = session.get_one(DeviceRow, job.name)
        if event.stage == "profile":
            profile = DeviceProfile.from_json(_result(event, "profile"))
            device.profile, device.profile_id = profile.as_json(), profile.id
        elif event.stage == "fit":
            if "profile" not in state.finished:
                raise InvalidInput("a predictor was fitted before its device had a profile")
            profile = DeviceProfile.from_json(dict(state.finished["profile"]["profile"]))
            session.merge(
                PredictorRow(
                    id=job.id,
                    device=device.name,
                    profile_id=profile.id,
                    profile=profile.as_json(),
                    space_id=_result(event, "space_id"),
                    family=_result(event, "family"),
                    card=_result(event, "card"),
                    blob=_result(event, "blob"),
                    created_at=at,
                )
            )


def _result(event: StageFinished, name: str) -> Any:
    if name not in event.result:
        raise InvalidInput(f"the {event.stage} stage of an onboarding ended without {name!r} in its result")
    return event.result[name]
