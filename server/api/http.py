"""The HTTP server's own limits: what is refused before there is a request to look at."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.api.limits import MAX_BODY, MAX_HEADERS, MAX_URL
from server.settings import Settings

CONNECTIONS = 2048


class Impatient(H11Protocol):
    """Closes connections whose request's head does not arrive within ``head_s``. h11 bounds the head's size."""

    head_s = math.inf
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and has to say something."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """The client says something."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        unsaid = self.conn.their_state is h11.IDLE
        if unsaid and self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self.transport.close)
        elif not unsaid and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """How the service is served."""
    protocol = type("Protocol", (Impatient,), {"head_s": settings.request_seconds})
    return uvicorn.Config(
        app,
        http=protocol,
        h11_max_incomplete_event_size=MAX_URL + 2 * MAX_HEADERS,
        ws_max_size=MAX_BODY,
        limit_concurrency=CONNECTIONS + settings.streams,
        server_header=False,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
        timeout_graceful_shutdown=2,
    )
