"""Commands that print the event log of a search: as records for programs, and in words for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from nas.client import Client
from nas.core.event_text import describe_record
from nas.schemas.jobs import EventSchema
from server.cli.device_options import SearchId
from server.cli.options import Connection, service_command

AfterOption = Annotated[int, typer.Option(min=0, help="Only events with a greater number.")]
FollowOption = Annotated[bool, typer.Option("--follow", help="Go on until the search has ended.")]
_PAGE = 500


@service_command
def events(
    service: Connection,
    search_id: SearchId,
    kind: Annotated[str | None, typer.Option(help="Only events of this kind, such as status or warned.")] = None,
    after: AfterOption = 0,
    follow: FollowOption = False,
) -> None:
    """Print the event log of a search, one JSON record on a line, oldest first.

    Example: `nas events SEARCH --kind warned`
    """
    with service.connect() as nas:
        for item in _log(nas, search_id, after, follow):
            if kind is None or item.body["kind"] == kind:
                sys.stdout.write(json.dumps(item.model_dump(mode="json")) + "\n")


@service_command
def logs(
    service: Connection,
    search_id: SearchId,
    after: AfterOption = 0,
    follow: FollowOption = False,
) -> None:
    """Print what happened in a search, in words: changes of status, stages, warnings and errors.

    Example: `nas logs SEARCH --follow`
    """
    with service.connect() as nas:
        for item in _log(nas, search_id, after, follow):
            text = describe_record(item.body)
            if text is not None:
                sys.stdout.write(f"{item.at:%Y-%m-%d %H:%M:%S}  {text}\n")


def _log(nas: Client, search_id: str, after: int, follow: bool) -> Iterator[EventSchema]:
    """The events after a number: those there are, or all until the search has ended."""
    if follow:
        yield from nas.watch(search_id, after)
        return
    while page := nas.events(search_id, after, _PAGE).items:
        yield from page
        after = page[-1].seq
