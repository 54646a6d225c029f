"""Whose turn it is, what fits where, and what a waiting job is told. Pure functions; the store calls them."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nas.core.ports import Room
from nas.core.spec import ResourceSpec


@dataclass(frozen=True)
class Waiting:
    """A queued job. ``urgent`` ones (dry runs, which take seconds) go before all others."""

    id: str
    owner: str
    priority: int
    created_at: float
    urgent: bool = False


def fair_order(waiting: Iterable[Waiting], running: Mapping[str, int]) -> list[Waiting]:
    """The order in which jobs are served if nothing else ends: always one of the owner with the fewest running jobs,
    and of two such owners the one whose next job waits longer. Inside an owner, higher priority first, then age.

    ``running`` counts the running jobs by owner.
    """
    urgent: list[Waiting] = []
    queues: dict[str, list[Waiting]] = defaultdict(list)
    for job in waiting:
        (urgent if job.urgent else queues[job.owner]).append(job)
    for queue in queues.values():
        queue.sort(key=lambda job: (-job.priority, job.created_at, job.id), reverse=True)
    turns = [(running.get(owner, 0), queue[-1].created_at, owner) for owner, queue in queues.items()]
    heapq.heapify(turns)
    order = sorted(urgent, key=lambda job: (job.created_at, job.id))
    while turns:
        count, _, owner = heapq.heappop(turns)
        queue = queues[owner]
        order.append(queue.pop())
        if queue:
            heapq.heappush(turns, (count + 1, queue[-1].created_at, owner))
    return order


def fits(wanted: ResourceSpec, room: Room) -> bool:
    """Whether one node can hold the job."""
    return not lacking(wanted, room)


def lacking(wanted: ResourceSpec, room: Room) -> list[str]:
    """What a node lacks for the job, in words; nothing if it fits."""
    words = []
    if wanted.cpus > room.cpus:
        words.append(f"{wanted.cpus} CPU core{'s' if wanted.cpus > 1 else ''}")
    if wanted.gpus > room.gpus:
        words.append(f"{wanted.gpus} GPU{'s' if wanted.gpus > 1 else ''}")
    if wanted.memory_gb is not None and wanted.memory_gb > room.memory_gb:
        words.append(f"{wanted.memory_gb:g} GB of memory")
    words += [f"a node with the label {k}={v}" for k, v in wanted.labels.items() if room.labels.get(k) != v]
    return words


def nearest_lack(wanted: ResourceSpec, rooms: Sequence[Room]) -> str:
    """What the node that comes nearest still lacks, such as ``1 GPU and 8 GB of memory``; empty if one fits."""
    lacks = min((lacking(wanted, room) for room in rooms), key=len, default=["a node"])
    return " and ".join(lacks)


def largest(rooms: Sequence[Room]) -> str:
    """What the largest nodes have, in words."""
    if not rooms:
        return "no node"
    cpus, gpus, memory = (max(getattr(r, name) for r in rooms) for name in ("cpus", "gpus", "memory_gb"))
    return f"{cpus:g} CPU cores, {gpus:g} GPUs and {memory:.3g} GB of memory"
