"""Validate JSON before it is stored: events of workers, which are not trusted, and specs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from pydantic import JsonValue

from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.events import EncodedEvent, Evaluated, Event, Progress, StatusChanged, decode
from nas.core.jobs import JobSpec
from nas.core.metrics import metric_info
from server.store.database import JsonText

MAX_EVENTS = 10_000  # of one append
MAX_EVENT_BYTES = 16 * 1024 * 1024  # of one event as JSON
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # as JSON writes it; PostgreSQL cannot store it


def validate_events(events: Sequence[EncodedEvent]) -> tuple[list[JsonText], list[Event]]:
    """Return the events as JSON text to store, and decoded. Raises InvalidInput if they are malformed, too many, too
    large, or status events."""
    if len(events) > MAX_EVENTS:
        raise InvalidInput(f"expected at most {MAX_EVENTS} events in one batch, got {len(events)}")
    texts = [_to_json(event) for event in events]
    return texts, [_decode(text) for text in texts]


def dump_spec(spec: JobSpec) -> dict[str, JsonValue]:
    """Return the spec as JSON. Raises InvalidSpec for text that a database cannot store."""
    try:
        record: dict[str, JsonValue] = spec.model_dump(mode="json")
        text = json.dumps(record, allow_nan=False)
        json.dumps(record, ensure_ascii=False).encode()
    except ValueError as error:
        raise InvalidSpec(f"the spec cannot be stored as JSON: {error}") from error
    if _NUL.search(text):
        raise InvalidSpec("the spec contains a NUL character, which cannot be stored")
    return record


def _to_json(event: EncodedEvent) -> JsonText:
    """Serialise an event. Drops values of progress that are not finite; elsewhere they raise InvalidInput."""
    body = dict(event)
    if body.get("kind") == Progress.kind:
        body["values"] = {k: v for k, v in body.get("values", {}).items() if math.isfinite(v)}
    try:
        text = json.dumps(body, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"a {body.get('kind')} event cannot be stored as JSON: {error}") from error
    if len(text) > MAX_EVENT_BYTES:
        raise InvalidInput(
            f"expected an event of at most {MAX_EVENT_BYTES} bytes, got {len(text)} ({body.get('kind')})"
        )
    return JsonText(_NUL.sub(r"\1", text) if "\\u0000" in text else text)


def _decode(text: str) -> Event:
    event = decode(json.loads(text))
    if isinstance(event, StatusChanged):
        raise InvalidInput("workers do not set the status: expected any other event, got a status event")
    if isinstance(event, Evaluated):
        for name in {name for candidate in event.candidates for name in candidate.metrics}:
            metric_info(name)
    return event
