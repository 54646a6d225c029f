"""The event log of a job as server-sent events, read from the store when the job has changed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from fastapi import HTTPException
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from nas.core.lifecycle import JobStatus
from nas.schemas.jobs import EventPage

PAGE_SIZE = 500
MIN_INTERVAL_S = 0.2  # between two reads of one stream
KEEPALIVE_S = 15.0  # after so long without events, a comment keeps proxies from closing the connection
RETRY_MS = 1000  # clients reconnect after this
ADMISSION_S = 5.0  # so often, a stream asks whether its client's token still holds

ReadEvents = Callable[[int, int], tuple[EventPage, JobStatus | None]]
"""(after, limit) -> the events after a number, and the job's status if it has ended with them."""
WaitForChange = Callable[[float], Awaitable[bool]]
"""Waits until the job has changed since the last call; False if it has not within so many seconds."""
IsAdmitted = Callable[[], bool]
"""Whether the client may still read the stream: its token is neither revoked nor expired."""


class Changes(Protocol):
    """Tells in other threads when jobs change, as ``server.store.changes.JobChanges``."""

    def subscribed(self, job_id: str, notify: Callable[[], None]) -> AbstractContextManager[None]: ...


class EventStreams:
    """Opens event streams, at most ``limit`` at a time and ``per_client`` for one client."""

    def __init__(self, changes: Changes, limit: int = 512, per_client: int | None = None) -> None:
        self._changes = changes
        self._clients: Counter[str] = Counter()
        self._lock = threading.Lock()  # routes run in several threads
        self._limit = limit
        self._per_client = limit if per_client is None else max(1, per_client)

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._clients.total()

    def response(
        self, job_id: str, read: ReadEvents, after: int, client: str, is_admitted: IsAdmitted
    ) -> EventSourceResponse:
        """A stream of a job's events after number ``after``, which counts as open from now on until the response has
        ended. Raises HTTPException 429 if too many streams are open."""
        self._reserve(client)
        events = self._events(job_id, read, after, is_admitted)
        return _CountedResponse(events, release=lambda: self._release(client))

    async def _events(self, job_id: str, read: ReadEvents, after: int, is_admitted: IsAdmitted) -> AsyncIterator[bytes]:
        with changes_of(self._changes, job_id) as wait:
            async for chunk in stream_events(read, after, wait, is_admitted):
                yield chunk

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


@contextmanager
def changes_of(changes: Changes, job_id: str) -> Iterator[WaitForChange]:
    """Waiting for changes of a job in the running event loop; two calls return at least ``MIN_INTERVAL_S`` apart."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    returned_at = time.monotonic()

    def notify() -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(changed.set)

    async def wait(seconds: float) -> bool:
        nonlocal returned_at
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()
        await asyncio.sleep(max(0.0, returned_at + MIN_INTERVAL_S - time.monotonic()))
        returned_at = time.monotonic()
        has_changed = changed.is_set()
        changed.clear()
        return has_changed

    with changes.subscribed(job_id, notify):
        yield wait


async def stream_events(
    read: ReadEvents,
    after: int,
    wait: WaitForChange,
    is_admitted: IsAdmitted = lambda: True,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[bytes]:
    """Server-sent events after number ``after``; an ``end`` event once the job has ended and all were sent.

    The stream breaks off without it when the client is no longer admitted; its reconnection is then refused.
    """
    yield format_sse_event(retry=RETRY_MS)
    quiet_s, checked_at, has_changed = 0.0, clock(), True
    while True:
        if has_changed:
            page, final_status = await run_in_threadpool(read, after, PAGE_SIZE)
            for item in page.items:
                yield format_sse_event(data_str=item.model_dump_json(), id=str(item.seq))
            after = page.last
            if final_status is not None:
                yield format_sse_event(data_str=json.dumps({"status": final_status}), event="end")
                return
            quiet_s = 0.0 if page.items else quiet_s
            if len(page.items) >= PAGE_SIZE:
                continue
        has_changed = await wait(ADMISSION_S)
        if not has_changed or clock() - checked_at >= ADMISSION_S:
            if not await run_in_threadpool(is_admitted):
                return
            checked_at = clock()
        quiet_s += 0.0 if has_changed else ADMISSION_S
        if quiet_s >= KEEPALIVE_S:
            yield KEEPALIVE_COMMENT
            quiet_s, has_changed = 0.0, True  # read once more, should a notification be lost
