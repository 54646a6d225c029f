"""The catalogue: registered plug-ins, connected workers, and the state of the service."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import numpy as np
from fastapi import APIRouter

from nas.core import registry
from nas.core.arch import Arch
from nas.core.cells import CellGraph
from nas.core.errors import StorageError
from nas.core.ports import SearchSpace, is_relaxed
from nas.core.runtimes import load_runtime, runtime_names
from nas.core.tasks import installed_tasks
from nas.schemas.service import HealthSchema, RuntimeSchema, SpaceSchema, StrategySchema, TaskSchema, WorkerSchema
from server.api.context import Context

router = APIRouter(tags=["catalogue"])


@router.get("/health", summary="Is the service able to take and run searches?")
def health(context: Context) -> HealthSchema:
    """`degraded` when the database cannot be used or no worker is connected; `detail` says which."""
    queries, release = context.store.queries, version("hwnas")
    try:
        workers, queued, running = queries.counts(context.heartbeat_limit_s)
    except StorageError as error:
        return HealthSchema(
            status="degraded",
            version=release,
            database=queries.database,
            workers=0,
            queued=0,
            running=0,
            detail=str(error),
        )
    return HealthSchema(
        status="ok" if workers else "degraded",
        version=release,
        database=queries.database,
        workers=workers,
        queued=queued,
        running=running,
        detail="" if workers else "no worker is connected, so searches wait",
    )


@router.get("/workers", summary="List connected workers")
def list_workers(context: Context) -> list[WorkerSchema]:
    """The connected workers with the resources of their nodes, total and free."""
    return context.store.queries.workers(context.heartbeat_limit_s)


@router.get("/spaces", summary="List search spaces")
def list_spaces() -> list[SpaceSchema]:
    """Every registered search space with its presets."""
    return [
        SpaceSchema(
            name=name,
            summary=space.summary,
            presets=list(space.presets),
            cells=list(space.cells),
            relaxed=space.relaxed,
            of_model=space.build is None,
        )
        for name in registry.names("nas.search_spaces")
        for space in [registry.load_space(name)]
    ]


@router.get("/strategies", summary="List search strategies")
def list_strategies() -> list[StrategySchema]:
    """Every registered strategy with its parameters' defaults."""
    return [
        StrategySchema(
            name=name,
            summary=strategy.summary,
            params=strategy.params_model().model_dump(mode="json"),
            relaxed_only=strategy.relaxed_only,
            model_only=strategy.model_only,
        )
        for name in registry.names("nas.strategies")
        for strategy in [registry.load_strategy(name)]
    ]


@router.get("/tasks", summary="List tasks")
def list_tasks() -> list[TaskSchema]:
    """Every registered task: what networks learn, and by what they are judged."""
    return [
        TaskSchema(
            name=task.name,
            summary=task.summary,
            objective=task.objective,
            quality=task.quality.title,
            unit=task.quality.unit,
            goal=task.quality.goal,
            labels=task.labels,
            outputs=task.outputs,
            of_model=task.parent_labels,
            metrics=[metric.name for metric in task.metrics],
        )
        for task in installed_tasks().values()
    ]


@router.get("/runtimes", summary="List runtimes")
def list_runtimes() -> list[RuntimeSchema]:
    """What can run networks on a device. Which of them a machine has installed is known there."""
    return [
        RuntimeSchema(name=name, summary=runtime.summary, requirement=runtime.requirement)
        for name in runtime_names()
        for runtime in [load_runtime(name)]
    ]


@router.get("/datasets", summary="List kinds of data sets")
def list_datasets() -> list[str]:
    """The valid values of `data.name` in a spec."""
    return registry.names("nas.datasets")


def cells_of(space: SearchSpace, arch: Arch) -> list[CellGraph]:
    """The cells of one architecture with its operations on their edges; empty for a space without cells."""
    cells = space.cells
    if not cells or not is_relaxed(space):
        return []
    canonical_G = space.canonical(np.array([arch.genes]))[0]
    relaxation, table_EO = space.relaxation, space.table(canonical_G)
    operation_by_edge = {
        edge: relaxation.operations[int(row_O.argmax())]
        for edge, row_O in zip(relaxation.edges, table_EO, strict=True)
        if row_O.any()
    }
    return [
        replace(cell, edges=tuple(replace(e, operation=operation_by_edge.get(e.name, "")) for e in cell.edges))
        for cell in cells
    ]
