"""The connected workers with the resources of their nodes."""

from __future__ import annotations

from nas.core.scheduling import NodeResources
from nas.schemas.service import WorkerSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text
from server.dashboard.service.usage import draw_usage


def draw_workers(workers: tuple[WorkerSchema, ...]) -> None:
    """A bar for each resource of each node."""
    with div("card stack workers"):
        heading("Workers", 2)
        if not workers:
            text("No worker is connected: searches wait in the queue. Start one with: nas serve, or nas dispatch.")
        for worker in workers:
            _draw_worker(worker)


def _draw_worker(worker: WorkerSchema) -> None:
    with div("stack tight"):
        with div("flow"):
            text(worker.name, "strong", "span")
            slots = f"{formatting.counted(worker.slots, 'search', 'searches')} at a time"
            text(slots + (", can add nodes" if worker.elastic else ""), "small muted", "span")
        reports_free = len(worker.free) == len(worker.nodes)
        for i, node in enumerate(worker.nodes):
            _draw_node(node, worker.free[i] if reports_free else None)


def _draw_node(node: NodeResources, free: NodeResources | None) -> None:
    """The resources in use and in all; in all only, if it is not known what is ``free``."""
    used = None if free is None else (node.cpus - free.cpus, node.gpus - free.gpus, node.memory_gb - free.memory_gb)
    used_cpus, used_gpus, used_memory_gb = used or (None, None, None)
    with div("node"):
        for name, amount, total, unit in (
            ("CPUs", used_cpus, node.cpus, ""),
            ("GPUs", used_gpus, node.gpus, ""),
            ("Memory", used_memory_gb, node.memory_gb, "GB"),
        ):
            if total:
                draw_usage(name, amount, total, unit)
    if node.labels:
        text(", ".join(f"{k}: {v}" for k, v in node.labels.items()), "small muted mono")
