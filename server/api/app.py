"""The REST service: routes, middleware and the OpenAPI description."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI

from server.api import (
    administration,
    agent_files,
    agents,
    candidates,
    cascades,
    catalog,
    decisions,
    devices,
    errors,
    health,
    logs,
    named_data,
    onboardings,
    scaling,
    searches,
    tables,
    user_models,
    waterline,
)
from server.api.access import Authorizer, RequestGuardMiddleware
from server.api.context import ApiContext, attach_context
from server.api.limits import RequestLimitMiddleware
from server.api.metrics import PrometheusMetrics, RequestMetricsMiddleware
from server.api.openapi import complete_description
from server.api.sse import EventStreams
from server.help import add_api_pages, add_help
from server.probes import Probe
from server.settings import Settings
from server.store.store import Store

_ABOUT = """Hardware-aware neural architecture search: submit a search, follow its events, read its Pareto front of
candidates whose latency was measured on the device, and download each as a model that runs on its own.

Every error is an `ErrorSchema`: a stable `code`, and a message that says what was expected."""
STREAM_SHARE = 8  # where tokens are required, one client may open this fraction of all event streams


def create_app(settings: Settings, store: Store, streams: EventStreams | None = None) -> FastAPI:
    """The service over a store. It runs no searches itself; a dispatcher does."""
    app = FastAPI(
        title="hwnas",
        version=version("hwnas"),
        description=_ABOUT,
        responses=errors.responses(422),
        docs_url=None,  # see ``add_api_pages``
        redoc_url=None,
    )
    errors.install(app)
    authorizer = Authorizer(settings, store)
    per_client = settings.streams // STREAM_SHARE if authorizer.tokens_required else settings.streams
    streams = streams or EventStreams(store.changes, settings.streams, per_client)
    metrics = PrometheusMetrics(store, streams)
    probes = {name: Probe(name, check) for name, check in health.readiness_checks(settings, store).items()}
    attach_context(app, ApiContext(settings, store, streams, authorizer, metrics, probes))
    app.add_middleware(RequestLimitMiddleware, body_s=settings.request_seconds)  # the last one added runs first
    app.add_middleware(RequestGuardMiddleware, authorizer=authorizer)
    app.add_middleware(RequestMetricsMiddleware, metrics=metrics)
    v1 = APIRouter(dependencies=[Depends(authorizer)], responses=errors.responses(401, 403))
    for routes in (
        *(catalog, searches, candidates, waterline, scaling, cascades, decisions, logs, devices),
        *(onboardings, agents, tables, named_data, user_models, administration),
    ):
        v1.include_router(routes.router)
    app.include_router(v1, prefix="/v1")  # a prefix of the router's own would have all routes prepared twice
    app.include_router(health.router)
    app.include_router(agent_files.router)
    add_api_pages(app)
    add_help(app)
    complete_description(app)
    return app
