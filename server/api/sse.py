"""Events as they happen: the log of a job as server-sent events, read from the store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from nas.core.access import Principal
from nas.schemas.jobs import EventPage

PAGE = 500
POLL_S = 0.25
QUIET_S = 15.0  # a comment after so long without events keeps proxies from closing the connection

Read = Callable[[int], tuple[EventPage, str | None]]
Sleep = Callable[[float], Awaitable[None]]


class Streams:
    """Opens event streams, at most ``limit`` at a time and ``per_client`` for one of them."""

    def __init__(self, limit: int = 512, per_client: int | None = None, sleep: Sleep = asyncio.sleep) -> None:
        self._clients: Counter[str] = Counter()
        self._limit = limit
        self._per_client = limit if per_client is None else max(1, per_client)
        self._sleep = sleep

    @property
    def open(self) -> int:
        """How many are open."""
        return self._clients.total()

    def response(self, read: Read, after: int, client: str) -> StreamingResponse:
        """A stream of what ``read`` finds after a number. Raises HTTPException 429 when too many are open."""
        if self.open >= self._limit:
            raise HTTPException(429, f"{self._limit} event streams are open already; close one or ask again later")
        if self._clients[client] >= self._per_client:
            raise HTTPException(429, f"{self._per_client} event streams of yours are open already; close one")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._counted(read, after, client), media_type="text/event-stream", headers=headers)

    async def _counted(self, read: Read, after: int, client: str) -> AsyncIterator[str]:
        self._clients[client] += 1
        try:
            async for text in stream(read, after, self._sleep):
                yield text
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


async def stream(read: Read, after: int, sleep: Sleep) -> AsyncIterator[str]:
    """Server-sent events after number ``after``; an ``end`` event once the job is over and all were sent."""
    yield "retry: 1000\n\n"
    quiet_s = 0.0
    while True:
        page, ended = await run_in_threadpool(read, after)
        for item in page.items:
            yield f"id: {item.seq}\ndata: {item.model_dump_json()}\n\n"
        after = page.last
        if ended is not None:
            yield f"event: end\ndata: {json.dumps({'status': ended})}\n\n"
            return
        if page.items:
            quiet_s = 0.0
        if len(page.items) < PAGE:
            await sleep(POLL_S)
            quiet_s += POLL_S
        if quiet_s >= QUIET_S:
            yield ": still here\n\n"
            quiet_s = 0.0


def events(
    streams: Streams,
    read: Callable[[int, int], tuple[EventPage, str | None]],
    accept: str,
    after: int,
    limit: int,
    by: Principal,
) -> EventPage | StreamingResponse:
    """A page of events, or a stream of them for whoever accepts ``text/event-stream``."""
    if "text/event-stream" in accept:
        return streams.response(lambda n: read(n, PAGE), after, by.token_id or by.address or "")
    return read(after, limit)[0]
