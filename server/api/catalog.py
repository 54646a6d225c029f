"""What there is to choose from, and whether the service is well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import APIRouter

from nas.core import registry
from nas.core.arch import Arch
from nas.core.cells import CellGraph
from nas.core.errors import StorageError
from nas.core.ports import SearchSpace
from nas.core.relaxation import is_relaxed
from nas.schemas.candidates import CellEdgeSchema, CellSchema
from nas.schemas.service import HealthSchema, SpaceSchema, StrategySchema, WorkerSchema
from server.settings import Settings
from server.store.store import Store


def routes(settings: Settings, store: Store) -> APIRouter:
    """The routes of the catalogue."""
    router = APIRouter(tags=["catalogue"])

    @router.get("/health", summary="Is the service able to take and run searches?")
    def health() -> HealthSchema:
        """`degraded` when the database cannot be used or no worker is connected; `detail` says which."""
        kind, release = store.queries.database, version("hwnas")
        try:
            workers, queued, running = store.queries.counts(2 * settings.lease_seconds)
        except StorageError as error:
            return HealthSchema(
                status="degraded", version=release, database=kind, workers=0, queued=0, running=0, detail=str(error)
            )
        return HealthSchema(
            status="ok" if workers else "degraded",
            version=release,
            database=kind,
            workers=workers,
            queued=queued,
            running=running,
            detail="" if workers else "no worker is connected, so searches wait",
        )

    @router.get("/workers", summary="The workers that are connected")
    def workers() -> list[WorkerSchema]:
        """What their nodes have, and what of it is free."""
        return store.queries.workers(2 * settings.lease_seconds)

    @router.get("/spaces", summary="The search spaces")
    def spaces() -> list[SpaceSchema]:
        """Every registered search space with its presets."""
        found = [(name, registry.load("nas.search_spaces", name)) for name in registry.names("nas.search_spaces")]
        return [
            SpaceSchema(
                name=name,
                summary=_summary(build),
                presets=list(getattr(build, "presets", ())),
                cells=cell_views(getattr(build, "cells", ())),
            )
            for name, build in found
        ]

    @router.get("/strategies", summary="The search strategies")
    def strategies() -> list[StrategySchema]:
        """Every registered strategy with its parameters' defaults."""
        found = [(name, registry.load("nas.strategies", name)) for name in registry.names("nas.strategies")]
        return [StrategySchema(name=name, summary=_summary(s), params=_defaults(s)) for name, s in found]

    @router.get("/datasets", summary="The kinds of data sets")
    def datasets() -> list[str]:
        """The names that `data.name` of a spec can take."""
        return registry.names("nas.datasets")

    return router


def cell_views(cells: Iterable[CellGraph], chosen: Mapping[str, str] | None = None) -> list[CellSchema]:
    """Kinds of cells; with what a network has on its edges, by their names."""
    return [
        CellSchema(
            name=cell.name,
            nodes=list(cell.nodes),
            edges=[
                CellEdgeSchema(start=e.start, end=e.end, name=e.name, operation=(chosen or {}).get(e.name, ""))
                for e in cell.edges
            ],
            operations=list(cell.operations),
            inputs=cell.inputs,
        )
        for cell in cells
    ]


def cells_of(space: SearchSpace, arch: Arch) -> list[CellSchema]:
    """The cells of one network; none for a space that knows no cells."""
    cells = getattr(space, "cells", ())
    if not cells or not is_relaxed(space):
        return []
    canonical_G = space.canonical(np.array([arch.genes]))[0]
    relaxation, table_EO = space.relaxation, space.table(canonical_G)
    kept = [(name, row) for name, row in zip(relaxation.edges, table_EO, strict=True) if row.any()]
    return cell_views(cells, {name: relaxation.operations[int(row.argmax())] for name, row in kept})


def _summary(plugin: Any) -> str:
    return (plugin.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def _defaults(strategy: Any) -> dict[str, Any]:
    model = getattr(strategy, "params_model", None)
    return model().model_dump(mode="json") if model is not None else {}
