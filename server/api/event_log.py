"""The event log of a job in an answer: a page of it, or a stream."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Depends, Query
from fastapi.sse import EventSourceResponse

from nas.schemas.jobs import EventPage
from server.api.access import CurrentPrincipal
from server.api.context import Context
from server.api.parameters import Accept, After, LastEventId


class EventLogRequest:
    """A request for the events of a job. Clients that accept ``text/event-stream`` get a stream, others a page."""

    def __init__(
        self,
        context: Context,
        principal: CurrentPrincipal,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
        accept: Accept = "",
        last_event_id: LastEventId = None,
    ) -> None:
        self._context = context
        self._principal = principal
        self._after = after if last_event_id is None else last_event_id
        self._limit = limit
        self._accept = accept

    def answer(self, job_id: str, kind: str | None = None) -> EventPage | EventSourceResponse:
        """The events of a job, optionally of one kind. Raises HTTPException 429 if too many streams are open."""
        context, principal = self._context, self._principal
        read = partial(context.store.queries.events, job_id, kind=kind)
        if "text/event-stream" not in self._accept:
            return read(self._after, self._limit)[0]
        client = principal.token_id or principal.address or ""
        is_admitted = partial(context.authorizer.still_admits, principal)
        return context.streams.response(job_id, read, self._after, client, is_admitted)


EventLog = Annotated[EventLogRequest, Depends()]
