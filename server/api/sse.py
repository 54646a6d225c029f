"""The event log of a job as server-sent events, read from the store."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import HTTPException
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from nas.core.access import Principal
from nas.core.lifecycle import JobStatus
from nas.schemas.jobs import EventPage

PAGE_SIZE = 500
POLL_S = 0.25
KEEPALIVE_S = 15.0  # after so long without events, a comment keeps proxies from closing the connection
RETRY_MS = 1000  # clients reconnect after this
ADMISSION_S = 5.0  # so often, a stream asks whether its client's token still holds

ReadEvents = Callable[[int, int], tuple[EventPage, JobStatus | None]]
"""(after, limit) -> the events after a number, and the job's status if it has ended with them."""
Sleep = Callable[[float], Awaitable[None]]
IsAdmitted = Callable[[], bool]
"""Whether the client may still read the stream: its token is neither revoked nor expired."""


class EventStreams:
    """Opens event streams, at most ``limit`` at a time and ``per_client`` for one client."""

    def __init__(self, limit: int = 512, per_client: int | None = None, sleep: Sleep = asyncio.sleep) -> None:
        self._clients: Counter[str] = Counter()
        self._lock = threading.Lock()  # routes run in several threads
        self._limit = limit
        self._per_client = limit if per_client is None else max(1, per_client)
        self._sleep = sleep

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._clients.total()

    def response(self, read: ReadEvents, after: int, client: str, is_admitted: IsAdmitted) -> EventSourceResponse:
        """A stream of the events after number ``after``, which counts as open from now on until the response has
        ended. Raises HTTPException 429 if too many streams are open."""
        self._reserve(client)
        return _CountedResponse(
            stream_events(read, after, self._sleep, is_admitted), release=lambda: self._release(client)
        )

    def _reserve(self, client: str) -> None:
        with self._lock:
            if self.open >= self._limit:
                raise HTTPException(429, f"{self._limit} event streams are open already; close one or retry later")
            if self._clients[client] >= self._per_client:
                raise HTTPException(429, f"{self._per_client} of your event streams are open already; close one")
            self._clients[client] += 1

    def _release(self, client: str) -> None:
        with self._lock:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class _CountedResponse(EventSourceResponse):
    """A stream that calls ``release`` once it has ended, however it ends."""

    def __init__(self, chunks: AsyncIterator[bytes], release: Callable[[], None]) -> None:
        # nginx must not buffer a stream
        super().__init__(chunks, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


async def stream_events(
    read: ReadEvents, after: int, sleep: Sleep, is_admitted: IsAdmitted = lambda: True
) -> AsyncIterator[bytes]:
    """Server-sent events after number ``after``; an ``end`` event once the job has ended and all were sent.

    The stream breaks off without it when the client is no longer admitted; its reconnection is then refused.
    """
    yield format_sse_event(retry=RETRY_MS)
    quiet_s, unchecked_s = 0.0, 0.0
    while True:
        if unchecked_s >= ADMISSION_S:
            if not await run_in_threadpool(is_admitted):
                return
            unchecked_s = 0.0
        page, final_status = await run_in_threadpool(read, after, PAGE_SIZE)
        for item in page.items:
            yield format_sse_event(data_str=item.model_dump_json(), id=str(item.seq))
        after = page.last
        if final_status is not None:
            yield format_sse_event(data_str=json.dumps({"status": final_status}), event="end")
            return
        if page.items:
            quiet_s = 0.0
        if len(page.items) < PAGE_SIZE:
            await sleep(POLL_S)
            quiet_s += POLL_S
        unchecked_s += POLL_S
        if quiet_s >= KEEPALIVE_S:
            yield KEEPALIVE_COMMENT
            quiet_s = 0.0


def page_or_stream(
    streams: EventStreams,
    read: ReadEvents,
    accept: str,
    after: int,
    limit: int,
    principal: Principal,
    is_admitted: IsAdmitted,
) -> EventPage | EventSourceResponse:
    """A page of events, or a stream of events for clients that accept ``text/event-stream``."""
    if "text/event-stream" in accept:
        return streams.response(read, after, principal.token_id or principal.address or "", is_admitted)
    return read(after, limit)[0]
