"""Placement: choose the cluster node on which a job runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.core.scheduling import NodeResources, fits
from nas.core.spec import ResourceSpec


@dataclass(frozen=True)
class Node:
    """A cluster node by the cluster's id for it, with its total and its free resources."""

    id: str
    total: NodeResources
    free: NodeResources


def subtract_reserved(nodes: Iterable[Node], reserved: Mapping[str, Sequence[ResourceSpec]]) -> list[Node]:
    """Return the nodes without the resources of our own running jobs (by node id), since the cluster's report of free
    resources lags behind."""
    out = []
    for node in nodes:
        total, free, requirements = node.total, node.free, reserved.get(node.id, ())
        available = replace(
            free,
            cpus=min(free.cpus, total.cpus - sum(r.cpus for r in requirements)),
            gpus=min(free.gpus, total.gpus - sum(r.gpus for r in requirements)),
            memory_gb=min(free.memory_gb, total.memory_gb - sum(r.memory_gb or 0.0 for r in requirements)),
        )
        out.append(replace(node, free=available))
    return out


def choose_node(required: ResourceSpec, nodes: Iterable[Node], avoid: Collection[str] = ()) -> Node | None:
    """Return the node to run on, or None if the job fits nowhere. A node in ``avoid``, or one with GPUs or labels that
    the job does not need, is chosen only if no other node fits."""
    fitting = [node for node in nodes if fits(required, node.free)]
    if not fitting:
        return None
    return min(
        fitting,
        key=lambda n: (
            n.id in avoid,
            n.total.gpus if not required.gpus else 0,
            len(n.total.labels),
            -n.free.cpus,
            n.id,
        ),
    )
