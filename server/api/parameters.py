"""Parameters and responses that several routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query

from nas.schemas.common import ErrorSchema
from server.api.errors import OpenApiResponses

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=120,
        description="Any text. A repeated request with the same key and spec returns the result of the first.",
    ),
]
Cursor = Annotated[str | None, Query(max_length=400, description="`next` of the previous page")]
After = Annotated[int, Query(ge=0, le=2**31 - 1, description="Only events with a greater number")]
Accept = Annotated[str, Header(include_in_schema=False)]
LastEventId = Annotated[
    int | None, Header(alias="Last-Event-ID", ge=0, le=2**31 - 1, description="Of a stream: overrides `after`")
]

EVENT_RESPONSES: OpenApiResponses = {
    200: {
        "description": "A page of events; or a stream of events if `Accept` contains `text/event-stream`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    404: {"model": ErrorSchema, "description": "Not Found"},
    429: {"model": ErrorSchema, "description": "Too many streams are open"},
}
