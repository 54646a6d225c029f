"""The log of a search, in words."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from nas.core.event_text import describe_record, level_of
from nas.schemas.jobs import EventSchema, LogLine, LogPage
from server.api.context import CurrentStore
from server.api.errors import responses
from server.api.parameters import After

router = APIRouter(tags=["searches"])
_PAGE = 500


@router.get("/searches/{id}/logs", summary="The log of a search", responses=responses(404))
def get_logs(
    id: str, store: CurrentStore, after: After = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 500
) -> LogPage:
    """What happened, in words: changes of status, stages, warnings, errors, measurements and exported models. The
    events themselves, with all values, are under `/events`."""
    job_id, lines = store.queries.search_job(id), list[LogLine]()
    while events := store.queries.events(job_id, after, _PAGE)[0].items:
        for event in events:
            after = event.seq
            lines += _lines(event)
            if len(lines) == limit:
                return LogPage(items=lines, last=after)
    return LogPage(items=lines, last=after)


def _lines(event: EventSchema) -> list[LogLine]:
    text = describe_record(event.body)
    return [LogLine(seq=event.seq, at=event.at, level=level_of(event.body), text=text)] if text is not None else []
