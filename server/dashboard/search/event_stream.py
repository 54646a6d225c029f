"""The event log of a search, followed as a stream of server-sent events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from nas.core.errors import HwnasError
from nas.schemas.jobs import EventSchema

WatchEvents = Callable[[int, Callable[[], bool]], Iterator[EventSchema]]


class EventStream:
    """Follow a log in a thread of its own; another thread takes what has arrived.

    ``watch(after, stop)`` yields the events after a number until the job ends or ``stop()`` is true.
    """

    def __init__(self, watch: WatchEvents) -> None:
        self._watch = watch
        self._events: deque[EventSchema] = deque()
        self._error: HwnasError | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether events can still arrive."""
        return self._thread is not None and self._thread.is_alive()

    def open(self, after: int) -> None:
        """Start to follow the events after a number."""
        self._thread = threading.Thread(target=self._run, args=(after,), name="event stream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end at the next sign of life of the service, at most 15 seconds from now."""
        self._stopped.set()

    def take(self) -> list[EventSchema]:
        """The events that have arrived since the last call. Raises the error that ended the stream, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return [self._events.popleft() for _ in range(len(self._events))]

    def _run(self, after: int) -> None:
        try:
            for event in self._watch(after, self._stopped.is_set):
                self._events.append(event)
        except HwnasError as error:
            self._error = error
