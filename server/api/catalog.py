"""What there is to choose from, and whether the service is well."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter

from nas.core import registry
from nas.core.errors import StorageError
from nas.core.views import HealthView, SpaceView, StrategyView, WorkerView
from server.settings import Settings
from server.store.store import Store


def routes(settings: Settings, store: Store) -> APIRouter:
    """The routes of the catalogue."""
    router = APIRouter(tags=["catalogue"])

    @router.get("/health", summary="Is the service able to take and run searches?")
    def health() -> HealthView:
        """`degraded` when the database cannot be used or no worker is connected; `detail` says which."""
        kind, release = store.queries.database, version("hwnas")
        try:
            workers, queued, running = store.queries.counts(2 * settings.lease_seconds)
        except StorageError as error:
            return HealthView(
                status="degraded", version=release, database=kind, workers=0, queued=0, running=0, detail=str(error)
            )
        return HealthView(
            status="ok" if workers else "degraded",
            version=release,
            database=kind,
            workers=workers,
            queued=queued,
            running=running,
            detail="" if workers else "no worker is connected, so searches wait",
        )

    @router.get("/workers", summary="The workers that are connected")
    def workers() -> list[WorkerView]:
        """What their nodes have, and what of it is free."""
        return store.queries.workers(2 * settings.lease_seconds)

    @router.get("/spaces", summary="The search spaces")
    def spaces() -> list[SpaceView]:
        """Every registered search space with its presets."""
        found = [(name, registry.load("nas.search_spaces", name)) for name in registry.names("nas.search_spaces")]
        return [
            SpaceView(name=name, summary=_summary(build), presets=list(getattr(build, "presets", ())))
            for name, build in found
        ]

    @router.get("/strategies", summary="The search strategies")
    def strategies() -> list[StrategyView]:
        """Every registered strategy with its parameters' defaults."""
        found = [(name, registry.load("nas.strategies", name)) for name in registry.names("nas.strategies")]
        return [StrategyView(name=name, summary=_summary(s), params=_defaults(s)) for name, s in found]

    @router.get("/datasets", summary="The kinds of data sets")
    def datasets() -> list[str]:
        """The names that `data.name` of a spec can take."""
        return registry.names("nas.datasets")

    return router


def _summary(plugin: Any) -> str:
    return (plugin.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def _defaults(strategy: Any) -> dict[str, Any]:
    model = getattr(strategy, "params_model", None)
    return model().model_dump(mode="json") if model is not None else {}
