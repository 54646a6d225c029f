"""The job queue: which job can be claimed next, and why a queued job waits.

Among the jobs that fit the free resources, the order is ``nas.core.scheduling.fair_order``. A job that does not fit is
skipped, so a large job starts only after a node has become free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select, true
from sqlalchemy.orm import Session, aliased

from nas.core.lifecycle import LEASED
from nas.core.scheduling import NodeResources, QueuedJob, describe_largest, fair_order, fits, smallest_shortage
from nas.core.spec import ResourceSpec
from server.store.measurements import agent_wait_reasons, waits_for_agent
from server.store.models import Job, UrgentClaimRow, WorkerRow
from server.store.quotas import gpu_hours_used, limits_of

FAVOUR_INTERVAL_S = 30.0  # between two dry runs of one owner that go before all other jobs
LOOKAHEAD = 16  # oldest jobs of each owner that are considered for a claim
URGENT_LOOKAHEAD = 64  # oldest dry runs that are considered
WORKER_TIMEOUT_S = 60.0  # after this time without a heartbeat, the resources of a dispatcher are not counted


@dataclass(frozen=True)
class ClusterCapacity:
    """Resources of all live dispatchers: of every node in total and free. ``elastic``: nodes may be added."""

    workers: int
    nodes: tuple[NodeResources, ...]
    free: tuple[NodeResources, ...]
    elastic: bool


_LIVE_WORKERS = select(WorkerRow).where(WorkerRow.seen_at > bindparam("since"))


def cluster_capacity(session: Session, now: float) -> ClusterCapacity:
    """Sum up the live dispatchers."""
    rows = session.scalars(_LIVE_WORKERS, {"since": now - WORKER_TIMEOUT_S}).all()
    return ClusterCapacity(
        workers=len(rows),
        nodes=tuple(node for row in rows for node in row.nodes),
        free=tuple(node for row in rows for node in row.free),
        elastic=any(row.elastic or not row.nodes for row in rows),
    )


def claimable_jobs(session: Session, free: Sequence[NodeResources] | None, now: float) -> Iterator[str]:
    """Yield ids of queued jobs that fit one of the ``free`` nodes (None: any job), in scheduling order.

    Only the first jobs of each owner are read, from an index, however long the queue is.
    """
    columns = (Job.id, Job.owner, Job.priority, Job.created_at, Job.kind, Job.resources)
    first = select(*columns).where(Job.id.in_(_first_of_each_owner(session, now)))
    rows = {row.id: row for row in session.execute(first)}
    urgent = select(*columns).where(Job.kind == "dry_run", *_claimable(now))
    rows |= {row.id: row for row in session.execute(urgent.order_by(Job.created_at, Job.id).limit(URGENT_LOOKAHEAD))}
    running = running_by_owner(session)
    over_quota = _quota_wait_reasons(session, {row.owner for row in rows.values()}, running)
    for job in _favoured_once(session, fair_order(_queued_jobs(rows.values()), running), now):
        required = rows[job.id].resources
        if job.owner not in over_quota and (free is None or any(fits(required, n) for n in free)):
            yield job.id


def _favoured_once(session: Session, order: Sequence[QueuedJob], now: float) -> list[QueuedJob]:
    """Jobs in ``order``, but for dry runs of owners of whom one went before other jobs within ``FAVOUR_INTERVAL_S``:
    these come last, so that a stream of dry runs holds up nobody."""
    owners = {job.owner for job in order if job.urgent}
    recent = set(
        session.scalars(
            select(UrgentClaimRow.owner).where(
                UrgentClaimRow.owner.in_(owners), UrgentClaimRow.at > now - FAVOUR_INTERVAL_S
            )
        )
    )
    return sorted(order, key=lambda job: job.urgent and job.owner in recent)


def note_urgent_claim(session: Session, owner: str, now: float) -> None:
    """Store that a dry run of an owner went before other jobs."""
    session.merge(UrgentClaimRow(owner=owner, at=now))


def _claimable(now: float) -> tuple[ColumnElement[bool], ...]:
    return Job.status == "queued", ~waits_for_agent(), or_(Job.available_at.is_(None), Job.available_at <= now)


def _first_of_each_owner(session: Session, now: float) -> list[str]:
    """Ids of the first jobs in the queue of every owner, except dry runs.

    Owners are found by skipping from one to the next in the index of the queue.
    """
    owners = select(func.min(Job.owner).label("owner")).where(Job.status == "queued").cte("owners", recursive=True)
    following = select(func.min(Job.owner)).where(Job.status == "queued", Job.owner > owners.c.owner)
    owners = owners.union_all(select(following.scalar_subquery()).where(owners.c.owner.is_not(None)))
    ordered = select(Job.id).where(Job.owner == owners.c.owner, Job.kind != "dry_run", *_claimable(now))
    first = ordered.order_by(Job.precedence, Job.created_at, Job.id).limit(LOOKAHEAD).correlate(owners)
    if session.get_bind().dialect.name == "postgresql":
        of_owner = first.lateral("of_owner")
        return list(session.scalars(select(of_owner.c.id).select_from(owners.join(of_owner, true()))))
    job = aliased(Job)  # SQLite has no lateral joins, and reads the list of ids once for each owner
    return list(session.scalars(select(job.id).select_from(owners).join(job, job.id.in_(first))))


def wait_reasons(session: Session, jobs: Sequence[Job], now: float) -> dict[str, str]:
    """Describe by id what each queued job among ``jobs`` waits for, such as ``waiting for 1 GPU, position 3 of 12``."""
    queued = [job for job in jobs if job.status == "queued"]
    if not queued:
        return {}
    running = running_by_owner(session)
    positions = queue_positions(session, queued, running)
    over_quota = _quota_wait_reasons(session, {job.owner for job in queued}, running)
    capacity = cluster_capacity(session, now)
    reasons = agent_wait_reasons(session, [job.id for job in queued], now)
    for job in queued:
        if job.id in reasons:
            continue
        reason = _retry_wait_reason(job, now) or over_quota.get(job.owner)
        reason = reason or _resource_wait_reason(job.resources, capacity)
        position = f"position {positions.places.get(job.id, 1)} of {positions.length}"
        reasons[job.id] = f"{reason}, {position}" if reason else position
    return reasons


_QUEUE = (
    select(Job.id, Job.owner, Job.created_at)
    .where(Job.status == "queued", Job.kind != "dry_run", ~waits_for_agent())
    .order_by(Job.owner, Job.precedence, Job.created_at, Job.id)
)


_URGENT = (
    select(Job.id)
    .where(Job.status == "queued", Job.kind == "dry_run", ~waits_for_agent())
    .order_by(Job.created_at, Job.id)
)


@dataclass(frozen=True)
class QueuePositions:
    """The places of some jobs in the queue by id, from 1, and the ``length`` of the queue."""

    places: Mapping[str, int]
    length: int


def queue_positions(session: Session, jobs: Sequence[Job], running: Mapping[str, int]) -> QueuePositions:
    """The places of queued jobs in ``fair_order``; jobs that wait for an agent have none.

    The n-th job (from 0) of an owner with r running jobs takes turn r + n, and jobs of one turn go by age. So a place
    follows from the lengths of the owners' queues and from the jobs of the same turn, both read from the index.
    """
    urgent = session.scalars(_URGENT).all()
    places: dict[str, int] = {job_id: place for place, job_id in enumerate(urgent, start=1)}
    ages: dict[str, list[float]] = defaultdict(list)  # of each owner's queue, in its order
    ranks: list[tuple[str, str, int]] = []
    page_ids = {job.id for job in jobs}
    for job_id, owner, created_at in session.connection().execute(_QUEUE):
        if job_id in page_ids:
            ranks.append((job_id, owner, len(ages[owner])))
        ages[owner].append(created_at)
    for job_id, owner, rank in ranks:
        turn, age = running.get(owner, 0) + rank, (ages[owner][rank], owner)
        before = (_count_before(queue, turn - running.get(name, 0), name, age) for name, queue in ages.items())
        places[job_id] = len(urgent) + 1 + sum(before)
    return QueuePositions(places, len(urgent) + sum(map(len, ages.values())))


def _count_before(queue: Sequence[float], rank: int, owner: str, age: tuple[float, str]) -> int:
    """How many jobs of an owner's ``queue`` go before a job of that age that takes the turn of the queue's ``rank``-th
    job."""
    if rank < 0 or rank >= len(queue):
        return len(queue) if rank > 0 else 0
    return rank + ((queue[rank], owner) < age)


def _retry_wait_reason(job: Job, now: float) -> str:
    if job.available_at is None or job.available_at <= now:
        return ""
    return f"tries again in {job.available_at - now:.0f} s, after: {job.last_crash}"


_RUNNING = select(Job.owner, func.count()).where(Job.status.in_(LEASED)).group_by(Job.owner)


def running_by_owner(session: Session) -> dict[str, int]:
    """Count the leased jobs of each owner."""
    return {row[0]: row[1] for row in session.execute(_RUNNING)}


def capacity_shortage(required: ResourceSpec, capacity: ClusterCapacity) -> str | None:
    """Describe why no node can ever hold the job; None if one can, or if the nodes are not known."""
    if capacity.elastic or not capacity.nodes or any(fits(required, node) for node in capacity.nodes):
        return None
    largest, shortage = describe_largest(capacity.nodes), smallest_shortage(required, capacity.nodes)
    return f"expected at most {largest}, which the largest nodes have; got a request for {shortage}"


def is_over_quota(session: Session, owner: str) -> bool:
    """Whether a quota prevents another job of the owner from starting."""
    return bool(_quota_wait_reasons(session, {owner}, running_by_owner(session)))


def _quota_wait_reasons(session: Session, owners: set[str], running: Mapping[str, int]) -> dict[str, str]:
    """Describe by owner which quota prevents another job from starting."""
    reasons = {}
    for owner, limits in limits_of(session, owners).items():
        if limits.max_running is not None and running.get(owner, 0) >= limits.max_running:
            reasons[owner] = f"waiting for one of {owner}'s {running.get(owner, 0)} running jobs to end (its quota)"
        elif limits.gpu_hours is not None and (used := gpu_hours_used(session, owner)) >= limits.gpu_hours:
            reasons[owner] = f"{owner} has used {used:.3g} of {limits.gpu_hours:g} GPU-hours"
    return reasons


def _resource_wait_reason(required: ResourceSpec, capacity: ClusterCapacity) -> str:
    if not capacity.workers:
        return "no worker is connected"
    if capacity.nodes and not any(fits(required, node) for node in capacity.nodes):
        return f"waiting for a node with {smallest_shortage(required, capacity.nodes)}"
    if capacity.nodes and not any(fits(required, node) for node in capacity.free):
        return f"waiting for {smallest_shortage(required, capacity.free)}"
    return ""


def _queued_jobs(rows: Iterable[Any]) -> Iterator[QueuedJob]:
    for row in rows:
        yield QueuedJob(row.id, row.owner, row.priority, row.created_at, urgent=row.kind == "dry_run")
