"""The REST service: its routes, its limits, and its description."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI

from server.api import administration, agents, catalog, devices, errors, figures, health, searches, tables
from server.api.access import Gate, Guard
from server.api.limits import Limits
from server.api.links import describe_links
from server.api.sse import Streams
from server.settings import Settings
from server.store.store import Store

_ABOUT = """Hardware-aware neural architecture search: submit a search, watch its events, read its Pareto front of
networks whose latency was measured on the device, download each as a model that runs on its own.

Every error is a `ErrorSchema`: a stable `code` and a message that says what was expected."""


def create_app(settings: Settings, store: Store, streams: Streams | None = None) -> FastAPI:
    """The service over a store. It runs no searches itself; a dispatcher does."""
    app = FastAPI(
        title="hwnas",
        version=version("hwnas"),
        description=_ABOUT,
        responses=errors.responses(422),
        redoc_url=None,
    )
    errors.install(app)
    guard = Guard(settings, store)
    streams = streams or Streams(settings.streams, settings.streams // 8 if guard.closed else settings.streams)
    app.add_middleware(Limits, body_s=settings.request_seconds)  # what is added last sees a request first
    app.add_middleware(Gate, guard=guard)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(guard)], responses=errors.responses(401, 403))
    v1.include_router(catalog.routes(settings, store))
    v1.include_router(searches.routes(settings, store, streams))
    v1.include_router(devices.routes(settings, store, streams))
    v1.include_router(agents.routes(store))
    v1.include_router(tables.routes(store))
    v1.include_router(administration.routes(store))
    app.include_router(v1)
    counted = figures.Figures(store, streams)
    app.add_middleware(figures.Timed, figures=counted)
    app.include_router(health.routes(settings, store, guard, counted))
    describe_links(app)
    return app
