"""Projections of events into rows. ``nas.core.events.fold`` defines what an event means; tables store the result.

``project`` loads only the rows that a batch of events changes into a ``SearchState``, folds the events, and writes the
difference back. The file is one thing: loading and writing must agree on the columns.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import String, Text, bindparam, cast, delete, func, insert, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from nas.core.arch import Arch
from nas.core.candidates import ORIGINS, CandidateTable, Rows
from nas.core.cost_estimate import COST_STAGE
from nas.core.device import OnDevice
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    Measured,
    Progress,
    Refitted,
    SearchState,
    StageFinished,
    StageResults,
    StageStarted,
    fold_all,
)
from server.store.device_projections import add_reading, add_version, project_onboarding
from server.store.json_columns import StageBar
from server.store.models import ALL_DEVICES, ArtifactRow, Base, HypervolumeRow, Job, PointRow
from server.store.stage_prices import keep_dry_run
from server.store.usage import add_usage
from server.store.user_models import project_intake

Key = tuple[str, str]  # origin and architecture, as ``Candidate.key``
KEPT_PROGRESS = 200  # progress events per stage, enough for a curve; beyond that every second one is deleted
_BATCH_SIZE = 500  # databases limit the parameters of one statement
_OWN_TABLES = (Evaluated, Measured, Exported)  # change rows of their own and nothing in ``jobs.state``
_BARS = (StageStarted, Progress, StageFinished)

_points = Base.metadata.tables["points"]
_CHANGING = ("seq", "metrics", "status", "promised_ms", "measurement", "devices", "extrapolated")
_OF_ORIGIN = select(_points).where(
    _points.c.job_id == bindparam("job"),
    _points.c.origin == bindparam("origin"),  # without it, the key's index would be read for the whole job
)
_SOME_POINTS = _OF_ORIGIN.where(_points.c.arch_id.in_(bindparam("archs", expanding=True)))
# Without statistics of the table, PostgreSQL reads the index for the whole job; with a limit of one row for each
# candidate, it looks them up one by one.
_requested = (
    func.unnest(bindparam("archs", type_=ARRAY(String))).table_valued("arch_id", name="wanted").render_derived()
)
_one = _OF_ORIGIN.where(_points.c.arch_id == _requested.c.arch_id).limit(1).lateral("one")
_SOME_POINTS_POSTGRESQL = select(_one).select_from(_requested).join(_one, true())
_CHANGE_POINT = (
    update(_points)
    .where(_points.c.job_id == bindparam("job"), _points.c.position == bindparam("place"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)


@dataclass(frozen=True)
class PlacedCandidate:
    """A candidate with its place, from 1, in the order of first evaluation."""

    position: int
    candidate: Candidate


@dataclass(frozen=True)
class CandidateChanges:
    """What a batch of events changes for fronts.

    ``last_seq`` is the last event before the batch. ``touched`` are new and changed candidates, ``before`` the latter
    as they were. The results of stages are None if the batch has none.
    """

    last_seq: int
    before: Mapping[Key, Candidate]
    touched: Mapping[Key, PlacedCandidate]
    finished_before: StageResults | None = None
    finished: StageResults | None = None

    @property
    def concern_fronts(self) -> bool:
        """Whether fronts can differ after the batch."""
        return bool(self.touched) or self.finished != self.finished_before


@dataclass(frozen=True)
class Projection:
    """What was projected: whether the events contain ``durable`` progress, and what they change for fronts."""

    durable: bool
    changes: CandidateChanges


def project(session: Session, job: Job, numbered: Sequence[tuple[int, Event]], at: float) -> Projection:
    """Fold new events into the rows of ``job``, except fronts."""
    events = [event for _, event in numbered]
    stateful = not all(isinstance(event, (Progress, *_OWN_TABLES)) for event in events)
    rows = _rows_of(session, job.id, _touched(numbered))
    export_rows = _export_rows(session, job.id, events)
    before = replace(
        job.state if stateful else SearchState(),
        candidates={key: point_of(row) for key, row in rows.items()},
        exports=tuple(_export(row) for row in export_rows),
    )
    after = fold_all(events, before)

    touched = _write_points(session, job, before, after, rows, _touched(numbered))
    _write_hypervolumes(session, job.id, numbered)
    seqs = {(e.arch.id, e.name): seq for seq, e in numbered if isinstance(e, Exported)}
    for export in after.exports:
        if (seq := seqs.get((export.arch.id, export.name))) is not None:
            session.merge(_export_row(job.id, seq, export))
    refits = len(job.state.refits) if any(isinstance(event, (Measured, Refitted)) for event in events) else 0
    if stateful:
        job.state = after
    if any(isinstance(event, _BARS) for event in events):
        job.stages = _advance(job.stages, numbered, at)
    if job.kind == "device":
        project_onboarding(session, job, events, after, at)
    if job.kind == "model":
        project_intake(session, job, events)
    if job.kind == "dry_run" and (cost := after.finished.get(COST_STAGE)) is not None:
        keep_dry_run(session, job, cost, at)
    if job.kind == "search":
        for event in events:
            if isinstance(event, Measured):
                add_reading(session, job, event, after, refits, at)
            elif isinstance(event, Refitted):
                add_version(session, job, event, at)
                refits = event.number
    durable = _durable(after) != _durable(before)
    if durable:
        job.stalled = 0
    results = (before.finished, after.finished) if stateful else (None, None)
    return Projection(durable, CandidateChanges(numbered[0][0] - 1, before.candidates, touched, *results))


def load_points(session: Session, job_id: str, after: int) -> tuple[Rows, CandidateTable]:
    """The candidates that changed after event ``after``: their rows in the job's table, and their new values."""
    p = PointRow
    plain = (p.position, p.space, p.origin, p.status, p.promised_ms, p.extrapolated)
    columns = (*plain, *(cast(c, Text) for c in (p.genes, p.metrics)))
    changed = (p.job_id == job_id, p.seq > after)
    records = session.execute(select(*columns).where(*changed).order_by(p.position)).all()
    if not records:
        return np.empty(0, dtype=np.intp), CandidateTable()
    positions, spaces, origins, statuses, promises_ms, extrapolated, genes, metrics = zip(*records, strict=True)
    rows = np.array(positions, dtype=np.intp) - 1
    row_of = {position: i for i, position in enumerate(positions)}
    measured = session.execute(select(p.position, p.measurement).where(*changed, p.measurement.is_not(None)))
    devices: list[Mapping[str, OnDevice]] = [{}] * len(positions)
    for position, parts in session.execute(select(p.position, p.devices).where(*changed, p.devices.is_not(None))):
        devices[row_of[position]] = parts or {}
    table = CandidateTable.from_columns(
        spaces=spaces,
        genes=_all_json(genes),
        origins=origins,
        statuses=statuses,
        metrics=_all_json(metrics),
        promises_ms=promises_ms,
        measurements={row_of[position]: m for position, m in measured if m is not None},
        devices=devices,
        extrapolated=extrapolated,
    )
    return rows, table


def load_exports(session: Session, job: Job) -> tuple[Exported, ...]:
    """All files of a job, in the order of their export."""
    rows = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job.id).order_by(ArtifactRow.seq))
    return tuple(_export(row) for row in rows)


@dataclass(frozen=True)
class ThinnedProgress:
    """Stages with fewer progress events, and the numbers of the events to delete."""

    bars: tuple[StageBar, ...]
    surplus: tuple[int, ...]


def thin_progress(bars: Sequence[StageBar]) -> ThinnedProgress:
    """Drop every second progress event of each stage that has more than ``KEPT_PROGRESS``."""
    thinned: list[StageBar] = []
    surplus: list[int] = []
    for bar in bars:
        if len(bar.progress_seqs) > KEPT_PROGRESS:
            dropped = bar.progress_seqs[1:-1:2]
            surplus += dropped
            bar = replace(bar, progress_seqs=tuple(seq for seq in bar.progress_seqs if seq not in set(dropped)))
        thinned.append(bar)
    return ThinnedProgress(tuple(thinned), tuple(surplus))


def _durable(state: SearchState) -> tuple[object, ...]:
    """The results that a crashed job does not have to repeat."""
    measured = {key for key, p in state.candidates.items() if p.measurement is not None}
    measured_on = {
        (*key, name)
        for key, p in state.candidates.items()
        for name, part in p.devices.items()
        if part.measurement is not None
    }
    exports = {(e.arch.id, e.name) for e in state.exports}
    return state.finished, state.checkpoints, set(state.candidates), measured, measured_on, exports, len(state.refits)


def _touched(numbered: Iterable[tuple[int, Event]]) -> dict[Key, int]:
    """The candidates that events change, each with the number of its last event."""
    last: dict[Key, int] = {}
    for seq, event in numbered:
        if isinstance(event, Evaluated):
            last |= {p.key: seq for p in event.candidates}
        elif isinstance(event, Measured):
            last[event.origin, event.arch.id] = seq
    return last


def _rows_of(session: Session, job_id: str, keys: Iterable[Key]) -> dict[Key, Any]:
    """The rows of those candidates that exist."""
    rows: dict[Key, Any] = {}
    query = _SOME_POINTS_POSTGRESQL if session.get_bind().dialect.name == "postgresql" else _SOME_POINTS
    for origin in ORIGINS:
        archs = sorted(arch for o, arch in keys if o == origin)
        for start in range(0, len(archs), _BATCH_SIZE):
            batch = {"job": job_id, "origin": origin, "archs": archs[start : start + _BATCH_SIZE]}
            rows |= {(row.origin, row.arch_id): row for row in session.execute(query, batch)}
    return rows


def _export_rows(session: Session, job_id: str, events: Iterable[Event]) -> list[ArtifactRow]:
    archs = sorted({e.arch.id for e in events if isinstance(e, Exported)})
    rows: list[ArtifactRow] = []
    for start in range(0, len(archs), _BATCH_SIZE):
        batch = archs[start : start + _BATCH_SIZE]
        rows += session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id, ArtifactRow.arch_id.in_(batch)))
    return rows


def _write_points(
    session: Session,
    job: Job,
    before: SearchState,
    after: SearchState,
    rows: Mapping[Key, Any],
    seqs: Mapping[Key, int],
) -> dict[Key, PlacedCandidate]:
    """Write new and changed candidates, without session objects because there may be thousands. Returns them."""
    new, changed = [], []
    touched: dict[Key, PlacedCandidate] = {}
    for key, point in after.candidates.items():
        count_candidate(job, before.candidates.get(key), point)
        if key in rows:
            touched[key] = PlacedCandidate(rows[key].position, point)
            if point != before.candidates[key]:
                values = {f"new_{name}": value for name, value in {"seq": seqs[key], **_values(point)}.items()}
                changed.append({"job": job.id, "place": rows[key].position, **values})
            continue
        job.point_count += 1
        touched[key] = PlacedCandidate(job.point_count, point)
        new.append(
            {
                "job_id": job.id,
                "origin": point.origin,
                "arch_id": point.arch.id,
                "position": job.point_count,
                "seq": seqs[key],
                "space": point.arch.space,
                "genes": list(point.arch.genes),
                **_values(point),
            }
        )
    if new:
        session.execute(insert(_points), new)
        if job.kind == "search":
            add_usage(session, job, evaluations=len(new))
    if changed:
        session.execute(_CHANGE_POINT, changed)
    return touched


def count_candidate(job: Job, old: Candidate | None, new: Candidate) -> None:
    """Count a new candidate of the search itself, or what has changed of one."""
    if new.origin == "search":
        job.evaluations += old is None
        job.extrapolated += bool(new.extrapolated) - (old is not None and bool(old.extrapolated))
        job.extrapolated_measured += _is_checked(new) - (old is not None and _is_checked(old))


def _is_checked(candidate: Candidate) -> bool:
    """Whether a candidate outside the domain of the predictor was measured, on any device."""
    measured = candidate.measurement is not None
    measured = measured or any(part.measurement is not None for part in candidate.devices.values())
    return bool(candidate.extrapolated) and measured


def _write_hypervolumes(session: Session, job_id: str, numbered: Iterable[tuple[int, Event]]) -> None:
    """Write hypervolumes; those after as many evaluations or more are replaced, as in ``fold``."""
    for seq, event in numbered:
        if not isinstance(event, HypervolumeAt):
            continue
        device = event.device or ALL_DEVICES
        of_device = (HypervolumeRow.job_id == job_id, HypervolumeRow.device == device)
        session.execute(delete(HypervolumeRow).where(*of_device, HypervolumeRow.evaluations >= event.evaluations))
        volumes = {"evaluations": event.evaluations, "search": event.search, "baseline": event.baseline}
        session.execute(insert(HypervolumeRow), {"job_id": job_id, "device": device, "seq": seq, **volumes})


def load_hypervolumes(session: Session, job_ids: Collection[str]) -> dict[str, list[HypervolumeAt]]:
    """The hypervolumes of searches by id, in the order in which they were reported."""
    query = select(HypervolumeRow).where(HypervolumeRow.job_id.in_(job_ids)).order_by(HypervolumeRow.seq)
    history: dict[str, list[HypervolumeAt]] = {job_id: [] for job_id in job_ids}
    for row in session.scalars(query):
        reported = HypervolumeAt(row.evaluations, row.search, row.baseline, row.device or None)
        history[row.job_id].append(reported)
    return history


def _values(point: Candidate) -> dict[str, object]:
    return {
        "metrics": dict(point.metrics),
        "status": point.status,
        "promised_ms": point.promised_ms,
        "measurement": point.measurement,
        "devices": dict(point.devices) or None,
        "extrapolated": point.extrapolated,
    }


def point_of(row: Any) -> Candidate:
    """The point in a row of ``points``."""
    return Candidate(
        arch=Arch(row.space, tuple(row.genes)),
        origin=row.origin,
        metrics=row.metrics,
        status=row.status,
        promised_ms=row.promised_ms,
        measurement=row.measurement,
        devices=row.devices or {},
        extrapolated=row.extrapolated,
    )


def _all_json(texts: Sequence[str]) -> Any:
    """Many JSON texts, parsed at once."""
    return json.loads(f"[{','.join(texts)}]")


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


def _advance(stages: Sequence[StageBar], numbered: Iterable[tuple[int, Event]], at: float) -> tuple[StageBar, ...]:
    """The progress bars after more events."""
    bars = {bar.name: bar for bar in stages}
    for seq, event in numbered:
        if not isinstance(event, _BARS):
            continue
        if event.stage not in bars:
            position = event.position if isinstance(event, StageStarted) else len(bars)
            rows = list(bars.items())
            bars = dict([*rows[:position], (event.stage, StageBar(event.stage)), *rows[position:]])
        bars[event.stage] = _advanced(bars[event.stage], event, seq, at)
    return tuple(bars.values())


def _advanced(bar: StageBar, event: StageStarted | Progress | StageFinished, seq: int, at: float) -> StageBar:
    match event:
        case StageStarted():
            return replace(bar, status="running", begun_at=at, anchor=None, latest=at)
        case StageFinished():
            return replace(bar, status="finished")  # a stage that was cut off has done less than all
        case Progress():
            return replace(
                bar,
                done=event.done,
                total=event.total,
                unit=event.unit,
                message=event.message,
                values={**bar.values, **event.values},
                progress_seqs=(*bar.progress_seqs, seq),
                anchor=bar.anchor or (at, event.done),
                latest=at,
            )
