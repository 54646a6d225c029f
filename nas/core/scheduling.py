"""Fair scheduling, resource fit, and wait reasons. Pure functions; the store and the dispatcher call them."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nas.core.cascade_spec import CascadeSpec
from nas.core.model_spec import ModelSpec
from nas.core.spec import DeviceSpec, ResourceSpec, SearchSpec


@dataclass(frozen=True)
class NodeResources:
    """Resources of one cluster node, in total or free, and its labels."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class QueuedJob:
    """A queued job. ``urgent`` jobs (dry runs, which take seconds) go before all others."""

    id: str
    owner: str
    priority: int
    created_at: float
    urgent: bool = False


def fair_order(queued: Iterable[QueuedJob], running: Mapping[str, int]) -> list[QueuedJob]:
    """Order jobs by fair share: next is a job of the owner with the fewest running jobs; between equal owners, the one
    whose next job is older. Within an owner, higher priority first, then age.

    ``running`` counts the running jobs by owner. Assumes that no running job ends.
    """
    urgent: list[QueuedJob] = []
    queues: dict[str, list[QueuedJob]] = defaultdict(list)
    for job in queued:
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


def required_resources(spec: SearchSpec | DeviceSpec | ModelSpec | CascadeSpec) -> ResourceSpec:
    """Resources of a job: as its spec says; one core for each measuring thread of an onboarding, and for a cascade."""
    match spec:
        case DeviceSpec():
            return ResourceSpec(cpus=spec.threads)
        case CascadeSpec():
            return ResourceSpec()
        case _:
            return spec.resources


def fits(required: ResourceSpec, node: NodeResources) -> bool:
    """Whether one node can hold the job."""
    return not missing_resources(required, node)


def missing_resources(required: ResourceSpec, node: NodeResources) -> list[str]:
    """Describe each resource that the node lacks for the job; empty if the job fits."""
    missing = []
    if required.cpus > node.cpus:
        missing.append(f"{required.cpus} CPU core{'s' if required.cpus > 1 else ''}")
    if required.gpus > node.gpus:
        missing.append(f"{required.gpus} GPU{'s' if required.gpus > 1 else ''}")
    if required.memory_gb is not None and required.memory_gb > node.memory_gb:
        missing.append(f"{required.memory_gb:g} GB of memory")
    missing += [f"a node with the label {k}={v}" for k, v in required.labels.items() if node.labels.get(k) != v]
    return missing


def smallest_shortage(required: ResourceSpec, nodes: Sequence[NodeResources]) -> str:
    """Describe what the closest node lacks, such as ``1 GPU and 8 GB of memory``; empty if the job fits."""
    missing = min((missing_resources(required, node) for node in nodes), key=len, default=["a node"])
    return " and ".join(missing)


def describe_largest(nodes: Sequence[NodeResources]) -> str:
    """Describe the largest amount of each resource on any node."""
    if not nodes:
        return "no node"
    cpus, gpus = max(n.cpus for n in nodes), max(n.gpus for n in nodes)
    memory_gb = max(n.memory_gb for n in nodes)
    plural = "" if cpus == 1 else "s", "" if gpus == 1 else "s"
    return f"{cpus:g} CPU core{plural[0]}, {gpus:g} GPU{plural[1]} and {memory_gb:.3g} GB of memory"
