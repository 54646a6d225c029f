"""The events of a search that its page shows: changes of status, readings, and refits of the predictor."""

from __future__ import annotations

from collections.abc import Sequence

from nas.client import Client
from nas.core.events import Refitted, StatusChanged, Traced, decode
from nas.schemas.jobs import EventSchema
from server.dashboard.search.view_model import LoggedEvent

_PAGE_SIZE = 1000


class EventHistory:
    """The part of a log up to event number ``last``."""

    def __init__(self) -> None:
        self.last = 0
        self.status_changes: tuple[LoggedEvent[StatusChanged], ...] = ()
        self.traces: tuple[Traced, ...] = ()
        self.refits: tuple[LoggedEvent[Refitted], ...] = ()

    def read(self, client: Client, search_id: str, last: int) -> None:
        """Read the events up to number ``last`` that are not known yet. Raises the errors of the client."""
        events = [
            event
            for kind in (StatusChanged.kind, Traced.kind, Refitted.kind)
            for event in _events(client, search_id, self.last, kind)
            if event.seq <= last
        ]
        self.last = max(self.last, last)
        self._add(events)

    def append(self, events: Sequence[EventSchema]) -> None:
        """Add events that follow ``last``; earlier ones are known already."""
        new = [event for event in events if event.seq > self.last]
        self.last = max((event.seq for event in new), default=self.last)
        self._add(new)

    def _add(self, events: Sequence[EventSchema]) -> None:
        for event in events:
            if event.body["kind"] not in (StatusChanged.kind, Traced.kind, Refitted.kind):
                continue
            match decode(event.body):
                case StatusChanged() as change:
                    self.status_changes += (LoggedEvent(event.at, change),)
                case Traced() as trace:
                    self.traces += (trace,)
                case Refitted() as refit:
                    self.refits += (LoggedEvent(event.at, refit),)


def _events(client: Client, search_id: str, after: int, kind: str) -> list[EventSchema]:
    events: list[EventSchema] = []
    while True:
        page = client.events(search_id, events[-1].seq if events else after, _PAGE_SIZE, kind)
        events += page.items
        if len(page.items) < _PAGE_SIZE:
            return events
