"""The HTTP server and its limits on connections and request heads, before there is a request to check."""

from __future__ import annotations

import asyncio
import math

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.api.limits import MAX_BODY, MAX_HEADERS, MAX_URL
from server.settings import Settings

MAX_CONNECTIONS = 2048


class HeaderTimeoutProtocol(H11Protocol):
    """Closes connections whose request head does not arrive within ``head_timeout_s``. h11 bounds the head's size."""

    head_timeout_s = math.inf
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer: a client has connected."""
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timer once a request head is complete."""
        super().data_received(data)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer: the client has disconnected."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _update_timer(self) -> None:
        awaiting_head = self.conn.their_state is h11.IDLE
        if awaiting_head and self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout_s, self.transport.close)
        elif not awaiting_head and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The configuration of uvicorn for the service."""
    protocol = type("Protocol", (HeaderTimeoutProtocol,), {"head_timeout_s": settings.request_seconds})
    return uvicorn.Config(
        app,
        http=protocol,
        h11_max_incomplete_event_size=MAX_URL + 2 * MAX_HEADERS,
        ws_max_size=MAX_BODY,
        limit_concurrency=MAX_CONNECTIONS + settings.streams,
        server_header=False,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
        timeout_graceful_shutdown=2,
    )
