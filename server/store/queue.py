"""The job queue: which job can be claimed next, and why a queued job waits.

Among the jobs that fit the free resources, the order is ``nas.core.scheduling.fair_order``. A job that does not fit is
skipped, so a large job starts only after a node has become free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nas.core.lifecycle import LEASED
from nas.core.scheduling import NodeResources, QueuedJob, describe_largest, fair_order, fits, smallest_shortage
from nas.core.spec import ResourceSpec
from server.store.measurements import agent_wait_reasons, waits_for_agent
from server.store.models import Job, UrgentClaimRow, WorkerRow
from server.store.quotas import gpu_hours_used, limits_of

FAVOUR_INTERVAL_S = 30.0  # between two dry runs of one owner that go before all other jobs
LOOKAHEAD = 16  # oldest jobs of each owner that are considered for a claim
WORKER_TIMEOUT_S = 60.0  # after this time without a heartbeat, the resources of a dispatcher are not counted


@dataclass(frozen=True)
class ClusterCapacity:
    """Resources of all live dispatchers: of every node in total and free. ``elastic``: nodes may be added."""

    workers: int
    nodes: tuple[NodeResources, ...]
    free: tuple[NodeResources, ...]
    elastic: bool


def cluster_capacity(session: Session, now: float) -> ClusterCapacity:
    """Sum up the live dispatchers."""
    rows = session.scalars(select(WorkerRow).where(WorkerRow.seen_at > now - WORKER_TIMEOUT_S)).all()
    return ClusterCapacity(
        workers=len(rows),
        nodes=tuple(NodeResources(**record) for row in rows for record in row.nodes),
        free=tuple(NodeResources(**record) for row in rows for record in row.free),
        elastic=any(row.elastic or not row.nodes for row in rows),
    )


def claimable_jobs(session: Session, free: Sequence[NodeResources] | None, now: float) -> Iterator[str]:
    """Yield ids of queued jobs that fit one of the ``free`` nodes (None: any job), in scheduling order."""
    rank = func.row_number().over(
        partition_by=(Job.owner, Job.kind == "dry_run"), order_by=(Job.priority.desc(), Job.created_at, Job.id)
    )
    columns = (Job.id, Job.owner, Job.priority, Job.created_at, Job.kind, Job.resources, rank.label("rank"))
    ranked = select(*columns).where(Job.status == "queued", ~waits_for_agent()).subquery()
    rows = {row.id: row for row in session.execute(select(ranked).where(ranked.c.rank <= LOOKAHEAD))}
    running = running_by_owner(session)
    over_quota = _quota_wait_reasons(session, {row.owner for row in rows.values()}, running)
    for job in _favoured_once(session, fair_order(_queued_jobs(rows.values()), running), now):
        required = stored_resources(rows[job.id].resources)
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


def wait_reasons(session: Session, jobs: Sequence[Job], now: float) -> dict[str, str]:
    """Describe by id what each queued job among ``jobs`` waits for, such as ``waiting for 1 GPU, position 3 of 12``."""
    queued = [job for job in jobs if job.status == "queued"]
    if not queued:
        return {}
    columns = (Job.id, Job.owner, Job.priority, Job.created_at, Job.kind)
    rows = session.execute(select(*columns).where(Job.status == "queued", ~waits_for_agent())).all()
    running = running_by_owner(session)
    order = [job.id for job in fair_order(_queued_jobs(rows), running)]
    positions = {job_id: i for i, job_id in enumerate(order, start=1)}
    over_quota = _quota_wait_reasons(session, {job.owner for job in queued}, running)
    capacity = cluster_capacity(session, now)
    reasons = agent_wait_reasons(session, [job.id for job in queued], now)
    for job in queued:
        if job.id in reasons:
            continue
        reason = over_quota.get(job.owner) or _resource_wait_reason(stored_resources(job.resources), capacity)
        position = f"position {positions.get(job.id, 1)} of {len(order)}"
        reasons[job.id] = f"{reason}, {position}" if reason else position
    return reasons


def running_by_owner(session: Session) -> dict[str, int]:
    """Count the leased jobs of each owner."""
    query = select(Job.owner, func.count()).where(Job.status.in_(LEASED)).group_by(Job.owner)
    return {row[0]: row[1] for row in session.execute(query)}


def stored_resources(record: Mapping[str, Any]) -> ResourceSpec:
    """Parse the ``resources`` column. Jobs of before this column have an empty record, which means one core."""
    return ResourceSpec.model_validate(record)


def capacity_shortage(required: ResourceSpec, capacity: ClusterCapacity) -> str | None:
    """Describe why no node can ever hold the job; None if one can, or if the nodes are not known."""
    if capacity.elastic or not capacity.nodes or any(fits(required, node) for node in capacity.nodes):
        return None
    largest, shortage = describe_largest(capacity.nodes), smallest_shortage(required, capacity.nodes)
    return f"expected at most {largest}, which the largest nodes have; got a request for {shortage}"


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
