"""The dependencies of the routes, looked up from the application that serves the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from server.api.access import Authorizer
from server.api.metrics import PrometheusMetrics
from server.api.sse import EventStreams
from server.probes import Probe
from server.settings import Settings
from server.store.store import Store


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a readiness check that ran to its end."""

    detail: str
    ok: bool


@dataclass(frozen=True)
class ApiContext:
    """All that routes depend on. ``probes`` run the readiness checks by name."""

    settings: Settings
    store: Store
    streams: EventStreams
    authorizer: Authorizer
    metrics: PrometheusMetrics
    probes: Mapping[str, Probe[CheckResult]]

    @property
    def heartbeat_limit_s(self) -> float:
        """Seconds without a heartbeat after which a worker no longer counts as connected."""
        return 2 * self.settings.lease_seconds


def attach_context(app: FastAPI, context: ApiContext) -> None:
    """Make ``context`` available to the routes of ``app``."""
    app.state.context = context


async def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


async def _store(request: Request) -> Store:
    return (await _context(request)).store


Context = Annotated[ApiContext, Depends(_context)]
CurrentStore = Annotated[Store, Depends(_store)]
