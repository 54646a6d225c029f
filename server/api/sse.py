"""The event log of a job as server-sent events, read from the store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import HTTPException
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from nas.core.access import Principal
from nas.core.lifecycle import JobStatus
from nas.schemas.jobs import EventPage

PAGE_SIZE = 500
POLL_S = 0.25
KEEPALIVE_S = 15.0  # after so long without events, a comment keeps proxies from closing the connection
RETRY_MS = 1000  # clients reconnect after this

ReadEvents = Callable[[int, int], tuple[EventPage, JobStatus | None]]
"""(after, limit) -> the events after a number, and the job's status if it has ended with them."""
Sleep = Callable[[float], Awaitable[None]]


class EventStreams:
    """Opens event streams, at most ``limit`` at a time and ``per_client`` for one client."""

    def __init__(self, limit: int = 512, per_client: int | None = None, sleep: Sleep = asyncio.sleep) -> None:
        self._clients: Counter[str] = Counter()
        self._limit = limit
        self._per_client = limit if per_client is None else max(1, per_client)
        self._sleep = sleep

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._clients.total()

    def response(self, read: ReadEvents, after: int, client: str) -> EventSourceResponse:
        """A stream of the events after number ``after``. Raises HTTPException 429 if too many streams are open."""
        if self.open >= self._limit:
            raise HTTPException(429, f"{self._limit} event streams are open already; close one or retry later")
        if self._clients[client] >= self._per_client:
            raise HTTPException(429, f"{self._per_client} of your event streams are open already; close one")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx must not buffer a stream
        return EventSourceResponse(self._counted(read, after, client), headers=headers)

    async def _counted(self, read: ReadEvents, after: int, client: str) -> AsyncIterator[bytes]:
        self._clients[client] += 1
        try:
            async for chunk in stream_events(read, after, self._sleep):
                yield chunk
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


async def stream_events(read: ReadEvents, after: int, sleep: Sleep) -> AsyncIterator[bytes]:
    """Server-sent events after number ``after``; an ``end`` event once the job has ended and all were sent."""
    yield format_sse_event(retry=RETRY_MS)
    quiet_s = 0.0
    while True:
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
        if quiet_s >= KEEPALIVE_S:
            yield KEEPALIVE_COMMENT
            quiet_s = 0.0


def page_or_stream(
    streams: EventStreams, read: ReadEvents, accept: str, after: int, limit: int, principal: Principal
) -> EventPage | EventSourceResponse:
    """A page of events, or a stream of events for clients that accept ``text/event-stream``."""
    if "text/event-stream" in accept:
        return streams.response(read, after, principal.token_id or principal.address or "")
    return read(after, limit)[0]
