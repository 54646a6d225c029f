"""On which node of a cluster a job runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.core.ports import Lease, Room
from nas.core.queueing import fits
from nas.core.spec import ResourceSpec


@dataclass(frozen=True)
class Node:
    """A node by the cluster's name for it: what it has, and what is left of that."""

    id: str
    total: Room
    free: Room


def wanted(lease: Lease) -> ResourceSpec:
    """What a job takes: a search says so in its spec, a device takes as many cores as it measures with."""
    spec = lease.spec["spec"]
    if "resources" in spec:
        return ResourceSpec.model_validate(spec["resources"])
    return ResourceSpec(cpus=spec.get("threads", 1))


def less(nodes: Iterable[Node], taken: Mapping[str, Sequence[ResourceSpec]]) -> list[Node]:
    """The nodes with what we took of each set aside, since a cluster's own books lag behind."""
    out = []
    for node in nodes:
        total, free, ours = node.total, node.free, taken.get(node.id, ())
        left = replace(
            free,
            cpus=min(free.cpus, total.cpus - sum(w.cpus for w in ours)),
            gpus=min(free.gpus, total.gpus - sum(w.gpus for w in ours)),
            memory_gb=min(free.memory_gb, total.memory_gb - sum(w.memory_gb or 0.0 for w in ours)),
        )
        out.append(replace(node, free=left))
    return out


def place(want: ResourceSpec, nodes: Iterable[Node], shunned: Collection[str] = ()) -> Node | None:
    """The node to run on, or None: not one of ``shunned`` if another will do, and none with GPUs or labels that the job
    has no use for while a plainer one is free."""
    fitting = [node for node in nodes if fits(want, node.free)]
    if not fitting:
        return None
    return min(
        fitting,
        key=lambda n: (n.id in shunned, n.total.gpus if not want.gpus else 0, len(n.total.labels), -n.free.cpus, n.id),
    )
