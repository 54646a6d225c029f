"""The REST service: its routes, its limits, and its description."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api import administration, catalog, devices, errors, health, searches
from server.api.access import Gate, Guard
from server.api.sse import Streams
from server.settings import Settings
from server.store.store import Store

MAX_BODY = 1024 * 1024
_ABOUT = """Hardware-aware neural architecture search: submit a search, watch its events, read its Pareto front of
networks whose latency was measured on the device, download each as a model that runs on its own.

Every error is a `ProblemView`: a stable `code` and a message that says what was expected."""


def create_app(settings: Settings, store: Store, streams: Streams | None = None) -> FastAPI:
    """The service over a store. It runs no searches itself; a dispatcher does."""
    app = FastAPI(title="hwnas", version=version("hwnas"), description=_ABOUT, responses=errors.responses(422))
    errors.install(app)
    app.add_middleware(BodyLimit, limit=MAX_BODY)
    streams = streams or Streams()
    app.add_middleware(Gate, settings=settings)
    guard = Guard(settings, store)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(guard)], responses=errors.responses(401, 403))
    v1.include_router(catalog.routes(settings, store))
    v1.include_router(searches.routes(settings, store, streams))
    v1.include_router(devices.routes(settings, store, streams))
    v1.include_router(administration.routes(store))
    app.include_router(v1)
    figures = health.Figures(store, streams)
    app.add_middleware(health.Timed, figures=figures)
    app.include_router(health.routes(settings, store, streams, guard, figures))
    return app


class BodyLimit:
    """Refuses bodies of requests to ``/v1`` beyond ``limit`` bytes, announced or not, with 413."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is received."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(413, f"the request's body is larger than {self._limit} bytes")
            return message

        await self._app(scope, counted, send)
