"""The queue as rows: what can be claimed next, and why a job waits.

Among jobs that fit into what is free now, the order is ``nas.core.queueing.fair_order``; one that does not fit is
passed over, so a big job starts when a node has drained, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nas.core.lifecycle import LEASED
from nas.core.ports import Room
from nas.core.queueing import Waiting, fair_order, fits, largest, nearest_lack
from nas.core.spec import ResourceSpec
from server.store.measurements import waiting_for_agents, waits
from server.store.models import Job, WorkerRow
from server.store.quotas import gpu_hours_used, limits_of

AHEAD = 16  # jobs of each owner that are looked at for one that fits
SEEN_S = 60.0  # a dispatcher that was not heard of for longer is not counted on


@dataclass(frozen=True)
class Cluster:
    """What the live dispatchers have: rooms of all nodes, and what is free of them; ``elastic`` if nodes may come."""

    workers: int
    nodes: tuple[Room, ...]
    free: tuple[Room, ...]
    elastic: bool


def cluster(session: Session, now: float) -> Cluster:
    """The live dispatchers taken together."""
    rows = session.scalars(select(WorkerRow).where(WorkerRow.seen_at > now - SEEN_S)).all()
    return Cluster(
        workers=len(rows),
        nodes=tuple(Room(**room) for row in rows for room in row.nodes),
        free=tuple(Room(**room) for row in rows for room in row.free),
        elastic=any(row.elastic or not row.nodes for row in rows),
    )


def candidates(session: Session, free: Sequence[Room] | None) -> Iterator[str]:
    """Ids of queued jobs that may start now, in the order in which they should."""
    turn = func.row_number().over(
        partition_by=(Job.owner, Job.kind == "dry_run"), order_by=(Job.priority.desc(), Job.created_at, Job.id)
    )
    columns = (Job.id, Job.owner, Job.priority, Job.created_at, Job.kind, Job.resources, turn.label("turn"))
    ranked = select(*columns).where(Job.status == "queued", ~waits()).subquery()
    rows = {row.id: row for row in session.execute(select(ranked).where(ranked.c.turn <= AHEAD))}
    running = running_by_owner(session)
    held = set(_held_back(session, {row.owner for row in rows.values()}, running))
    for job in fair_order(map(_waiting, rows.values()), running):
        wanted = resources_of(rows[job.id].resources)
        if (job.urgent or job.owner not in held) and (free is None or any(fits(wanted, room) for room in free)):
            yield job.id


def waiting_texts(session: Session, jobs: Sequence[Job], now: float) -> dict[str, str]:
    """What each of the queued ones among ``jobs`` waits for, such as ``waiting for 1 GPU, position 3 of 12``."""
    queued = [job for job in jobs if job.status == "queued"]
    if not queued:
        return {}
    columns = (Job.id, Job.owner, Job.priority, Job.created_at, Job.kind)
    rows = session.execute(select(*columns).where(Job.status == "queued", ~waits())).all()
    elsewhere = waiting_for_agents(session, [job.id for job in queued], now)
    running = running_by_owner(session)
    order = [job.id for job in fair_order(map(_waiting, rows), running)]
    place = {job_id: i for i, job_id in enumerate(order, start=1)}
    held = _held_back(session, {job.owner for job in queued}, running)
    there = cluster(session, now)
    texts = dict(elsewhere)
    for job in queued:
        if job.id in elsewhere:
            continue
        reason = held.get(job.owner) or _reason(resources_of(job.resources), there)
        position = f"position {place.get(job.id, 1)} of {len(order)}"
        texts[job.id] = f"{reason}, {position}" if reason else position
    return texts


def running_by_owner(session: Session) -> dict[str, int]:
    """How many jobs of each owner have a lease."""
    query = select(Job.owner, func.count()).where(Job.status.in_(LEASED)).group_by(Job.owner)
    return {row[0]: row[1] for row in session.execute(query)}


def resources_of(record: Mapping[str, Any]) -> ResourceSpec:
    """What a job takes; jobs from before this was kept take one core."""
    return ResourceSpec.model_validate(record)


def impossible(wanted: ResourceSpec, there: Cluster) -> str | None:
    """Why no node could ever hold the job, or None: one could, or nobody knows."""
    if there.elastic or not there.nodes or any(fits(wanted, room) for room in there.nodes):
        return None
    lacks = nearest_lack(wanted, there.nodes)
    return f"expected at most {largest(there.nodes)}, which the largest nodes have; got a request for {lacks}"


def _held_back(session: Session, owners: set[str], running: Mapping[str, int]) -> dict[str, str]:
    """Owners whose quota lets nothing start now, and the reason in words."""
    held = {}
    for owner, limits in limits_of(session, owners).items():
        if limits.max_running is not None and running.get(owner, 0) >= limits.max_running:
            held[owner] = f"waiting for one of {owner}'s {running.get(owner, 0)} running searches to end (its quota)"
        elif limits.gpu_hours is not None and (used := gpu_hours_used(session, owner)) >= limits.gpu_hours:
            held[owner] = f"{owner} has used {used:.3g} of {limits.gpu_hours:g} GPU-hours"
    return held


def _reason(wanted: ResourceSpec, there: Cluster) -> str:
    if not there.workers:
        return "no worker is connected"
    if there.nodes and not any(fits(wanted, room) for room in there.nodes):
        return f"waiting for a node with {nearest_lack(wanted, there.nodes)}"
    if there.nodes and not any(fits(wanted, room) for room in there.free):
        return f"waiting for {nearest_lack(wanted, there.free)}"
    return ""


def _waiting(row: Any) -> Waiting:
    return Waiting(row.id, row.owner, row.priority, row.created_at, urgent=row.kind == "dry_run")
