"""From events to rows. What an event means is ``nas.core.events.fold``; here its result is kept in tables.

``project`` loads only what a batch of events touches into a ``SearchState``, folds, and writes the difference back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from sqlalchemy import String, Text, bindparam, cast, func, insert, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from nas.core.arch import Arch
from nas.core.candidates import ORIGINS, CandidateTable, Rows
from nas.core.device import DeviceProfile, Measurement, OnDevice
from nas.core.errors import InvalidInput
from nas.core.events import (
    Candidate,
    Checkpoint,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    Measured,
    Progress,
    Refitted,
    SearchState,
    StageFinished,
    StageStarted,
    decode,
    fold_all,
)
from server.store.models import ArtifactRow, Base, DeviceRow, Job, PointRow, PredictorRow, ReadingRow
from server.store.resolve import find_predictor

Key = tuple[str, str]  # origin and architecture, as ``Candidate.key``
KEPT_PROGRESS = 200  # progress events kept per stage, enough for a curve; beyond it every second one is dropped
_AT_ONCE = 500  # databases limit the parameters of one statement
_OWN_TABLES = (Evaluated, Measured, Exported)  # what changes these rows and nothing in ``jobs.state``
_BARS = (StageStarted, Progress, StageFinished)

_points = Base.metadata.tables["points"]
_CHANGING = ("seq", "metrics", "status", "claim_ms", "measurement", "devices")
_OF_ORIGIN = select(_points).where(
    _points.c.job_id == bindparam("job"),
    _points.c.origin == bindparam("origin"),  # without it, the key's index would be read for the whole job
)
_SOME_POINTS = _OF_ORIGIN.where(_points.c.arch_id.in_(bindparam("archs", expanding=True)))
# PostgreSQL reads the index for the whole job as long as it has no statistics of the table. Told that each network has
# at most one row, it looks them up one by one.
_wanted = func.unnest(bindparam("archs", type_=ARRAY(String))).table_valued("arch_id", name="wanted").render_derived()
_one = _OF_ORIGIN.where(_points.c.arch_id == _wanted.c.arch_id).limit(1).lateral("one")
_SOME_POINTS_POSTGRESQL = select(_one).select_from(_wanted).join(_one, true())
_CHANGE_POINT = (
    update(_points)
    .where(_points.c.job_id == bindparam("job"), _points.c.position == bindparam("place"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)


def project(session: Session, job: Job, numbered: Sequence[tuple[int, Event]], at: float) -> bool:
    """Folds new events into the rows of ``job``; whether they hold durable progress, with which it counts as moving."""
    events = [event for _, event in numbered]
    stateful = not all(isinstance(event, (Progress, *_OWN_TABLES)) for event in events)
    rows = _rows_of(session, job.id, _touched(numbered))
    export_rows = _export_rows(session, job.id, events)
    before = replace(
        state_from_json(job.state) if stateful else SearchState(),
        candidates={key: point_of(row) for key, row in rows.items()},
        exports=tuple(_export(row) for row in export_rows),
    )
    after = fold_all(events, before)

    _write_points(session, job, before, after, rows, _touched(numbered))
    seqs = {(e.arch.id, e.name): seq for seq, e in numbered if isinstance(e, Exported)}
    for export in after.exports:
        if (seq := seqs.get((export.arch.id, export.name))) is not None:
            session.merge(_export_row(job.id, seq, export))
    refits = len(job.state.get("refits", ()))
    if stateful:
        job.state = state_to_json(after)
    if any(isinstance(event, _BARS) for event in events):
        job.stages = _advance(job.stages, numbered, at)
    if job.kind == "device":
        _project_device(session, job, events, after, at)
    if job.kind == "search":
        for event in events:
            if isinstance(event, Measured):
                _keep_reading(session, job, event, after, refits, at)
            elif isinstance(event, Refitted):
                _keep_version(session, job, event, at)
                refits = event.number
    moved = _durable(after) != _durable(before)
    if moved:
        job.stalled = 0
    return moved


def load_points(session: Session, job_id: str, after: int) -> tuple[Rows, CandidateTable]:
    """The networks that changed after event ``after``: their rows in the job's table, and what they are now."""
    p = PointRow
    columns = (p.position, p.space, p.origin, p.status, p.claim_ms, *(cast(c, Text) for c in (p.genes, p.metrics)))
    changed = (p.job_id == job_id, p.seq > after)
    found = session.execute(select(*columns).where(*changed).order_by(p.position)).all()
    if not found:
        return np.empty(0, dtype=np.intp), CandidateTable()
    positions, spaces, origins, statuses, claims_ms, genes, metrics = zip(*found, strict=True)
    rows = np.array(positions, dtype=np.intp) - 1
    row_of = {position: i for i, position in enumerate(positions)}
    measured = session.execute(select(p.position, p.measurement).where(*changed, p.measurement.is_not(None)))
    devices: list[Mapping[str, OnDevice]] = [{}] * len(positions)
    for position, parts in session.execute(select(p.position, p.devices).where(*changed, p.devices.is_not(None))):
        devices[row_of[position]] = _on_devices(parts)
    table = CandidateTable.from_columns(
        spaces=spaces,
        genes=_all_json(genes),
        origins=origins,
        statuses=statuses,
        metrics=_all_json(metrics),
        claims_ms=claims_ms,
        measurements={row_of[row[0]]: Measurement.from_json(row[1]) for row in measured},
        devices=devices,
    )
    return rows, table


def load_exports(session: Session, job: Job) -> tuple[Exported, ...]:
    """All files of a job, in the order in which they came."""
    rows = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job.id).order_by(ArtifactRow.seq))
    return tuple(_export(row) for row in rows)


def surplus_progress(stages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Stages with their list of progress events thinned out, and the numbers of the events that are to go."""
    thinned, surplus = [], []
    for stage in stages:
        kept: list[int] = stage["kept"]
        if len(kept) > KEPT_PROGRESS:
            gone = set(kept[1:-1:2])
            surplus += sorted(gone)
            stage = {**stage, "kept": [seq for seq in kept if seq not in gone]}
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
        "refits": [asdict(r) for r in state.refits],
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
        refits=tuple(_refit(r) for r in record.get("refits", ())),
    )


def _refit(record: Mapping[str, Any]) -> Refitted:
    event = decode({"kind": Refitted.kind, **record})
    assert isinstance(event, Refitted)
    return event


def _durable(state: SearchState) -> tuple[object, ...]:
    """What a crashed job does not have to do again."""
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
    """The networks that events say something of, each with the last of these events."""
    last: dict[Key, int] = {}
    for seq, event in numbered:
        if isinstance(event, Evaluated):
            last |= {p.key: seq for p in event.candidates}
        elif isinstance(event, Measured):
            last[event.origin, event.arch.id] = seq
    return last


def _rows_of(session: Session, job_id: str, keys: Iterable[Key]) -> dict[Key, Any]:
    """The rows of those networks that are known."""
    found: dict[Key, Any] = {}
    query = _SOME_POINTS_POSTGRESQL if session.get_bind().dialect.name == "postgresql" else _SOME_POINTS
    for origin in ORIGINS:
        archs = sorted(arch for o, arch in keys if o == origin)
        for start in range(0, len(archs), _AT_ONCE):
            some = {"job": job_id, "origin": origin, "archs": archs[start : start + _AT_ONCE]}
            found |= {(row.origin, row.arch_id): row for row in session.execute(query, some)}
    return found


def _export_rows(session: Session, job_id: str, events: Iterable[Event]) -> list[ArtifactRow]:
    archs = sorted({e.arch.id for e in events if isinstance(e, Exported)})
    rows: list[ArtifactRow] = []
    for start in range(0, len(archs), _AT_ONCE):
        some = archs[start : start + _AT_ONCE]
        rows += session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id, ArtifactRow.arch_id.in_(some)))
    return rows


def _write_points(
    session: Session,
    job: Job,
    before: SearchState,
    after: SearchState,
    rows: Mapping[Key, Any],
    seqs: Mapping[Key, int],
) -> None:
    """Writes the networks that are new or changed. They pass by the session's objects: there may be thousands."""
    new, changed = [], []
    for key, point in after.candidates.items():
        if key in rows:
            if point != before.candidates[key]:
                values = {f"new_{name}": value for name, value in {"seq": seqs[key], **_values(point)}.items()}
                changed.append({"job": job.id, "place": rows[key].position, **values})
            continue
        job.point_count += 1
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
    if changed:
        session.execute(_CHANGE_POINT, changed)


def _values(point: Candidate) -> dict[str, Any]:
    return {
        "metrics": dict(point.metrics),
        "status": point.status,
        "claim_ms": point.claim_ms,
        "measurement": point.measurement.as_json() if point.measurement is not None else None,
        "devices": {name: asdict(part) for name, part in point.devices.items()} or None,
    }


def point_of(row: Any) -> Candidate:
    """The point in a row of ``points``."""
    return Candidate(
        arch=Arch(row.space, tuple(row.genes)),
        origin=row.origin,
        metrics=row.metrics,
        status=row.status,
        claim_ms=row.claim_ms,
        measurement=Measurement.from_json(row.measurement) if row.measurement else None,
        devices=_on_devices(row.devices),
    )


def _on_devices(record: Mapping[str, Any] | None) -> dict[str, OnDevice]:
    return {name: OnDevice.from_json(part) for name, part in (record or {}).items()}


def _all_json(texts: Sequence[str]) -> Any:
    """Many JSON texts, read at once."""
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


def _advance(stages: list[dict[str, Any]], numbered: Sequence[tuple[int, Event]], at: float) -> list[dict[str, Any]]:
    """The progress bars after more events."""
    bars = {stage["name"]: {**stage, "kept": list(stage["kept"])} for stage in stages}
    for seq, event in numbered:
        if not isinstance(event, _BARS):
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
                bar |= {"values": {**bar["values"], **event.values}}
                bar["kept"].append(seq)
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
            _keep_canary(session, job, device, profile, at)
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
                    number=_next_number(session, device.name, _result(event, "space_id"), job.id),
                    known=event.result.get("known"),
                    networks=event.result.get("networks", 0),
                    better=True,
                    why="",
                )
            )


def _keep_canary(session: Session, job: Job, device: DeviceRow, profile: DeviceProfile, at: float) -> None:
    """A machine that is profiled again tells how its canary has changed."""
    before = DeviceProfile.from_json(device.profile) if device.profile is not None else None
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


def _keep_reading(session: Session, job: Job, event: Measured, state: SearchState, refits: int, at: float) -> None:
    """What a search has measured, after so many ``refits``: a network's latency beside what was predicted, and the
    canary's drift."""
    m, point = event.measurement, state.candidates[event.origin, event.arch.id]
    predicted_ms, predictor_id = point.metrics.get("predicted_ms"), job.predictor_id
    if event.device is not None:
        predicted_ms, predictor_id = point.devices[event.device].predicted_ms, None
    elif refits:
        predictor_id = _version_of(job, refits)
    session.add(
        ReadingRow(
            device=event.device or job.spec["device"],
            at=at,
            profile_id=m.profile,
            protocol=m.protocol,
            job_id=job.id,
            canary=m.drift,
            space_id=job.space_id,
            predictor_id=predictor_id,
            arch_id=event.arch.id,
            genes=list(event.arch.genes),
            measured_ms=m.median_ms,
            predicted_ms=predicted_ms,
        )
    )


def _keep_version(session: Session, job: Job, event: Refitted, at: float) -> None:
    """A predictor that learned from a search. While the search ran, another one may have led to a version that knows
    what this one does not; then that stays in use, and the next one learns from both."""
    before = session.get(PredictorRow, job.predictor_id) if job.predictor_id is not None else None
    if before is None:
        raise InvalidInput("a predictor learned from a search that has none")
    record = event.record
    mine = {before.id, *(_version_of(job, n) for n in range(1, event.number))}
    current = find_predictor(session, before.device, before.space_id)
    overtaken = current is not None and current.profile_id == before.profile_id and current.id not in mine
    better, why = bool(record["better"]), str(record["why"])
    if better and overtaken:
        assert current is not None
        better, why = False, f"version {current.number} came first, and knows what this one does not; {why}"
    session.merge(
        PredictorRow(
            id=_version_of(job, event.number),
            device=before.device,
            profile_id=before.profile_id,
            profile=before.profile,
            space_id=before.space_id,
            family=record["family"],
            card=record["card"],
            blob=record["blob"],
            created_at=at,
            number=_next_number(session, before.device, before.space_id, _version_of(job, event.number)),
            before=before.id if event.number == 1 else _version_of(job, event.number - 1),
            search_id=job.id,
            known=record["known"],
            networks=record["networks"],
            better=better,
            why=why,
        )
    )
    session.flush()  # the next one of this batch counts from here


def _version_of(job: Job, number: int) -> str:
    return f"{job.id}-{number}"


def _next_number(session: Session, device: str, space_id: str, of: str) -> int:
    row = session.get(PredictorRow, of)
    if row is not None:  # a device that is measured again under the same job
        return row.number
    numbers = select(func.max(PredictorRow.number)).where(
        PredictorRow.device == device, PredictorRow.space_id == space_id
    )
    return (session.scalar(numbers) or 0) + 1


def _result(event: StageFinished, name: str) -> Any:
    if name not in event.result:
        raise InvalidInput(f"the {event.stage} stage of an onboarding ended without {name!r} in its result")
    return event.result[name]
