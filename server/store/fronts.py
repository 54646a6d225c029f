"""Fronts of searches as rows: which candidates are members, and how large the volume is that they dominate.

Rows are written in the transaction of the events that change them. A new candidate is compared with the members alone,
since what they dominate stays dominated. All candidates are read only if a member has become worse, or if candidates
are judged by other metrics from now on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from sqlalchemy import and_, bindparam, delete, event, insert, select
from sqlalchemy.orm import Session

from nas.core.arch import Floats
from nas.core.candidates import CandidateTable
from nas.core.events import Candidate
from nas.core.fronts import Front, FrontContext, compute_front
from nas.core.metrics import METRICS
from nas.core.spec import SearchSpec
from nas.stages.fronts import front_context
from server.store.candidate_cache import CandidateCache
from server.store.database import upsert
from server.store.models import ALL_DEVICES, Base, FrontMemberRow, FrontRow, Job, PointRow
from server.store.projections import CandidateChanges, Key, PlacedCandidate, count_candidate, point_of

_fronts = Base.metadata.tables["fronts"]
_members = Base.metadata.tables["front_members"]
_REMOVE_MEMBER = delete(_members).where(
    _members.c.job_id == bindparam("job"),
    _members.c.device == bindparam("of"),
    _members.c.origin == bindparam("o"),
    _members.c.arch_id == bindparam("a"),
)
_MAX_CACHED = 256  # searches


@dataclass(frozen=True)
class FrontFigures:
    """The size and the hypervolumes of a front. ``final`` and ``measured``: by which metrics members are judged, as in
    ``FrontContext``."""

    size: int
    verified: int
    hypervolume: float | None
    baseline_hypervolume: float | None
    final: bool
    measured: bool

    @staticmethod
    def of(row: FrontRow) -> FrontFigures:
        """The figures of a stored front."""
        return FrontFigures(*(getattr(row, f.name) for f in fields(FrontFigures)))


@dataclass(frozen=True)
class MemberLosses:
    """What members are compared by: ``axes``, the metrics that decide, and the ``losses`` of the members in them, to be
    minimised, by origin, each of shape (N, M). Without all ``required`` metrics, a candidate is on no front."""

    axes: tuple[str, ...]
    required: frozenset[str]
    losses: Mapping[str, Floats]

    @staticmethod
    def of(spec: SearchSpec, front: Front) -> MemberLosses:
        """Those of a front."""
        deciding = spec.task.deciding(spec.retrain is not None)
        axes = tuple(deciding if metric == spec.task.tested else metric for metric in front.metrics)
        members = {"search": front.members, "baseline": front.baseline}
        losses = {origin: np.array([_losses(c, axes) for c in of_origin]) for origin, of_origin in members.items()}
        return MemberLosses(axes, frozenset((*axes, *front.metrics)), losses)

    def exclude(self, candidate: Candidate) -> bool:
        """Whether a new candidate stays off the front: a reference, or a member is at least as good in everything."""
        if candidate.origin not in self.losses or not self.required <= candidate.metrics.keys():
            return True
        members = self.losses[candidate.origin]
        return len(members) > 0 and bool((members <= _losses(candidate, self.axes)).all(axis=1).any())


def _losses(candidate: Candidate, axes: Iterable[str]) -> list[float]:
    values = ((metric, candidate.metrics[metric]) for metric in axes)
    return [-value if METRICS[metric].goal == "max" else value for metric, value in values]


@dataclass(frozen=True)
class StoredFront:
    """The members of a front and of the baseline's, and its figures, None before it is stored. ``losses`` are None
    until the front was computed, and for one device of a fleet, which sees other metrics."""

    members: Mapping[Key, PlacedCandidate]
    figures: FrontFigures | None = None
    losses: MemberLosses | None = None

    @property
    def final(self) -> bool:
        """Whether members are judged on test images."""
        return self.figures is not None and self.figures.final

    @property
    def measured(self) -> bool:
        """Whether members are judged by measured latency."""
        return self.figures is not None and self.figures.measured


@dataclass(frozen=True)
class SearchFronts:
    """The fronts of a search after event ``last_seq``, by device; ``table``: all candidates, if they were read."""

    last_seq: int
    spec: SearchSpec
    context: FrontContext
    by_device: Mapping[str, StoredFront]
    table: CandidateTable | None = None


class FrontProjector:
    """Updates the rows of fronts. Keeps the members of running searches in memory, as of their last committed event."""

    def __init__(self) -> None:
        self._searches: OrderedDict[str, SearchFronts] = OrderedDict()
        self._lock = threading.Lock()
        self._candidates = CandidateCache()

    def project(self, session: Session, job: Job, changes: CandidateChanges) -> None:
        """Write the fronts of a search after ``changes``."""
        if changes.concern_fronts:
            fronts: SearchFronts | None = self._projected(session, job, changes)
        else:
            cached = self._cached(job.id, changes.last_seq)
            fronts = replace(cached, last_seq=job.last_seq) if cached is not None else None
        if fronts is not None:
            committed = partial(self._keep, job.id, fronts)
            event.listen(session, "after_commit", lambda _session: committed(), once=True)

    def _projected(self, session: Session, job: Job, changes: CandidateChanges) -> SearchFronts:
        fronts = self._before(session, job, changes)
        context = fronts.context if changes.finished is None else front_context(changes.finished)
        table: CandidateTable | None = None
        by_device = {}
        for device, front in fronts.by_device.items():
            update = FrontUpdate(fronts.spec, device, fronts.context, context, front, changes)
            if update.is_without_effect:
                by_device[device] = front
                continue
            if update.is_incremental:
                placed = update.possible_members()
            elif update.final:
                placed = tested_candidates(session, job.id, fronts.spec.task.tested)
            else:
                table = table if table is not None else self._candidates.uncommitted_table(session, job)
                placed = [PlacedCandidate(row + 1, table.candidate(row)) for row in range(len(table))]
            by_device[device] = _write_front(session, job, update, placed)
        return SearchFronts(job.last_seq, fronts.spec, context, by_device, table)

    def _cached(self, job_id: str, last_seq: int) -> SearchFronts | None:
        with self._lock:
            cached = self._searches.get(job_id)
        return cached if cached is not None and cached.last_seq == last_seq else None

    def _keep(self, job_id: str, fronts: SearchFronts) -> None:
        if fronts.table is not None:
            self._candidates.store(job_id, fronts.last_seq, fronts.table)
        with self._lock:
            self._searches[job_id] = replace(fronts, table=None)
            self._searches.move_to_end(job_id)
            while len(self._searches) > _MAX_CACHED:
                self._searches.popitem(last=False)

    def _before(self, session: Session, job: Job, changes: CandidateChanges) -> SearchFronts:
        """The fronts before the changes."""
        if (cached := self._cached(job.id, changes.last_seq)) is not None:
            return cached
        spec = SearchSpec.model_validate(job.spec)
        before = job.state.finished if changes.finished_before is None else changes.finished_before
        stored = {device: _read_front(session, job.id, device) for device in front_devices(spec)}
        return SearchFronts(changes.last_seq, spec, front_context(before), stored)


@dataclass(frozen=True)
class FrontUpdate:
    """How changes of candidates and of the context affect one front."""

    spec: SearchSpec
    device: str
    context_before: FrontContext
    context: FrontContext
    front: StoredFront
    changes: CandidateChanges

    @property
    def final(self) -> bool:
        """Whether candidates are judged on test images from now on."""
        return self.front.final or self._own(self.context).verified or self._is_measured()

    @property
    def measured(self) -> bool:
        """Whether candidates are judged by measured latency from now on."""
        return self.front.measured or self._own(self.context).measured or self._is_measured()

    @property
    def is_without_effect(self) -> bool:
        """Whether the front stays as it is: members exclude all new candidates, and nothing else has changed."""
        losses = self.front.losses
        if losses is None or self.changes.before or self.changes.finished != self.changes.finished_before:
            return False
        if self.final != self.front.final:
            return False
        return all(losses.exclude(placed.candidate) for placed in self.changes.touched.values())

    @property
    def is_incremental(self) -> bool:
        """Whether members and changed candidates decide the front, without all others."""
        judged_alike = (self.final, self.measured) == (self.front.final, self.front.measured)
        if not judged_alike or self.context.guiding_metric != self.context_before.guiding_metric:
            return False
        return all(
            self._is_no_worse(placed.candidate, self.changes.before[key])
            for key, placed in self.changes.touched.items()
            if key in self.front.members
        )

    def possible_members(self) -> list[PlacedCandidate]:
        """Members and changed candidates, as they are after the changes."""
        return [*{**self.front.members, **self.changes.touched}.values()]

    def compute(self, placed: Iterable[PlacedCandidate]) -> Front:
        """The front of candidates."""
        ordered = sorted(placed, key=lambda member: member.position)
        return self._front_of([member.candidate for member in ordered])

    def _front_of(self, candidates: Collection[Candidate]) -> Front:
        context = context_of_metrics(self.context, self.device, final=self.final, measured=self.measured)
        return compute_front(self.spec, CandidateTable.of(candidates), context, device=self.device or None)

    def _is_measured(self) -> bool:
        touched = (placed.candidate for placed in self.changes.touched.values())
        if self.device == ALL_DEVICES:
            return any(candidate.measurement is not None for candidate in touched)
        return any(candidate.devices[self.device].measurement is not None for candidate in touched)

    def _is_no_worse(self, new: Candidate, old: Candidate) -> bool:
        """Whether a member dominates all that it dominated before its change."""
        front = self._front_of([new, old])
        members = front.members if new.origin == "search" else front.baseline
        front_of_new = self._front_of([new])
        return members == (front_of_new.members if new.origin == "search" else front_of_new.baseline) != ()

    def _own(self, context: FrontContext) -> FrontContext:
        return context if self.device == ALL_DEVICES else context.on(self.device)


def context_of_metrics(context: FrontContext, device: str, *, final: bool, measured: bool) -> FrontContext:
    """The context of one front, where it is known by which metrics candidates are own_context."""
    own = context if device == ALL_DEVICES else context.on(device)
    own_context = replace(own, verified=final, measured=measured, by_device={})
    return own_context if device == ALL_DEVICES else replace(context, by_device={device: own_context})


def front_devices(spec: SearchSpec) -> tuple[str, ...]:
    """The devices whose fronts are stored; the one front of a search that has one is under ``ALL_DEVICES``."""
    views = tuple(view or ALL_DEVICES for view in spec.views)
    return tuple(dict.fromkeys((*views, *(spec.devices if spec.fleet is not None else ()))))


def rebuild_fronts(session: Session, job: Job) -> None:
    """Write all fronts of a search anew, and count its candidates."""
    for table in (FrontRow, FrontMemberRow):
        session.execute(delete(table).where(table.job_id == job.id))
    rows = session.scalars(select(PointRow).where(PointRow.job_id == job.id)).all()
    placed = [PlacedCandidate(row.position, point_of(row)) for row in rows]
    job.evaluations = job.extrapolated = job.extrapolated_measured = 0
    for member in placed:
        count_candidate(job, None, member.candidate)
    touched = {member.candidate.key: member for member in placed}
    finished = job.state.finished
    changes = CandidateChanges(job.last_seq, {}, touched, finished, finished)
    spec, context = SearchSpec.model_validate(job.spec), front_context(finished)
    for device in front_devices(spec):
        update = FrontUpdate(spec, device, context, context, StoredFront({}), changes)
        _write_front(session, job, update, placed)


def tested_candidates(session: Session, job_id: str, metric: str) -> list[PlacedCandidate]:
    """The candidates with the metric on test images, which only few have."""
    tested = PointRow.metrics[metric].as_float().is_not(None)
    rows = session.scalars(select(PointRow).where(PointRow.job_id == job_id, tested)).all()
    return [PlacedCandidate(row.position, point_of(row)) for row in rows]


def _read_front(session: Session, job_id: str, device: str) -> StoredFront:
    row = session.get(FrontRow, (job_id, device))
    return StoredFront(front_members(session, job_id, device), FrontFigures.of(row)) if row else StoredFront({})


def front_members(session: Session, job_id: str, device: str, after: int = -1) -> dict[Key, PlacedCandidate]:
    """The stored members of a front and of the baseline's, or those of them that changed after event ``after``."""
    same = and_(
        PointRow.job_id == FrontMemberRow.job_id,
        PointRow.origin == FrontMemberRow.origin,
        PointRow.arch_id == FrontMemberRow.arch_id,
    )
    of_front = (FrontMemberRow.job_id == job_id, FrontMemberRow.device == device)
    changed = (PointRow.job_id == job_id, PointRow.seq > after) if after >= 0 else ()
    rows = session.scalars(select(PointRow).join(FrontMemberRow, same).where(*of_front, *changed))
    return {(row.origin, row.arch_id): PlacedCandidate(row.position, point_of(row)) for row in rows}


def member_keys(session: Session, job_id: str, views: Iterable[str | None]) -> set[Key]:
    """The keys of the members of fronts and of their baselines; None stands for the one front of a search."""
    of_front = (FrontMemberRow.job_id == job_id, FrontMemberRow.device.in_([view or ALL_DEVICES for view in views]))
    return {
        (row[0], row[1])
        for row in session.execute(select(FrontMemberRow.origin, FrontMemberRow.arch_id).where(*of_front))
    }


def read_front(
    session: Session,
    job: Job,
    spec: SearchSpec,
    context: FrontContext,
    device: str,
    members: Collection[PlacedCandidate],
) -> Front:
    """The front on one device, or on ``ALL_DEVICES``, from its stored members and the baseline's."""
    row = session.get(FrontRow, (job.id, device))
    if row is None:
        return compute_front(spec, CandidateTable(), context, device=device or None)
    placed = sorted(members, key=lambda member: member.position)
    own_context = context_of_metrics(context, device, final=row.final, measured=row.measured)
    table = CandidateTable.of(member.candidate for member in placed)
    front = compute_front(spec, table, own_context, device=device or None)
    return replace(front, hypervolume=row.hypervolume, baseline_hypervolume=row.baseline_hypervolume)


def _write_front(session: Session, job: Job, update: FrontUpdate, placed: Collection[PlacedCandidate]) -> StoredFront:
    """Compute a front from candidates and write what has changed of it."""
    front = update.compute(placed)
    by_key = {member.candidate.key: member for member in placed}
    members = {c.key: by_key[c.key] for c in (*front.members, *front.baseline)}
    identity = {"job_id": job.id, "device": update.device}
    connection = session.connection()  # statements without objects, since most batches write some
    if removed := update.front.members.keys() - members.keys():
        connection.execute(_REMOVE_MEMBER, [{"job": job.id, "of": update.device, "o": o, "a": a} for o, a in removed])
    if new := members.keys() - update.front.members.keys():
        connection.execute(insert(_members), [{**identity, "origin": o, "arch_id": a} for o, a in sorted(new)])
    empty = 0.0 if front.reference and job.point_count else None
    figures = FrontFigures(
        size=len(front.members),
        verified=sum(candidate.status == "verified" for candidate in front.members),
        hypervolume=empty if front.hypervolume is None else front.hypervolume,
        baseline_hypervolume=empty if front.baseline_hypervolume is None else front.baseline_hypervolume,
        final=update.final,
        measured=update.measured,
    )
    if figures != update.front.figures:
        upsert(session, _fronts, {**identity, **vars(figures)})
    losses = MemberLosses.of(update.spec, front) if update.spec.fleet is None else None
    return StoredFront(members, figures, losses)
