"""Following one claimed job: what its task yields is appended to the log until the job ends or the lease is over.

Knows neither Ray nor the database: a task is anything that yields events, and time is an argument.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nas.core.errors import StorageError
from nas.core.events import Checkpoint, Evaluated, Exported, Measured, Progress, StageFinished, Warned, encode
from nas.core.ports import Lease, Verdict

log = logging.getLogger(__name__)

Records = list[dict[str, Any]]
How = Literal["succeeded", "failed", "crashed", "stopped", "parked", "lost"]

DURABLE = frozenset(e.kind for e in (Checkpoint, Evaluated, Measured, Exported, StageFinished))
MAX_EVENTS, MAX_BYTES = 500, 2**20  # of one append; a single event may be larger
URGENT_S = 0.1  # appends of one job are never closer than this,
CALM_S = 0.25  # and those that bring progress alone no closer than this
LISTEN_S = 1.0  # how soon a silent job hears that it was cancelled
RETRY_S = 1.0  # between two tries while the database is away
START_S = 120.0  # a task that has not begun by then is given back


@dataclass(frozen=True)
class Ended:
    """How an attempt ended. ``stopped``: it goes on later, at once; ``parked``: when somebody says so; ``lost``: this
    process has no say in it any more."""

    how: How
    message: str | None = None


class Task(Protocol):
    """A job that runs somewhere, once its node has ``begun`` it."""

    @property
    def begun(self) -> bool: ...
    def next(self, seconds: float) -> Records | Ended | None:
        """Waits up to ``seconds`` for more events, or the end."""

    def kill(self) -> None:
        """Ends it, if it has not ended by itself. Comes back once it does nothing any more, or soon."""

    def dump(self) -> str:
        """Where it is at the moment, for the log."""


class Appends(Protocol):
    """The part of a job store that keeps events."""

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> Verdict: ...


class Follower:
    """One attempt at a job. ``held_until`` is when the lease ends unless it is renewed, by ``clock``."""

    def __init__(
        self,
        jobs: Appends,
        lease: Lease,
        task: Task,
        *,
        held_until: float,
        lease_seconds: float,
        stuck_seconds: float,
        clock: Callable[[], float],
        pause: Callable[[float], object],
        stuck: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._lease = lease
        self._task = task
        self.held_until = held_until
        self._lease_seconds = lease_seconds
        self._listen_s = min(LISTEN_S, lease_seconds / 3)
        self._stuck_seconds = stuck_seconds
        self._clock = clock
        self._pause = pause
        self._stuck = stuck
        self._waiting: Records = []
        self._bytes = 0  # of what waits, progress aside
        self._sending: Records | None = None  # written already or not: the answer is not there
        self._batch = 0
        self._ended: Ended | None = None
        self._heard = self._tried = self._claimed = clock()
        self._away = self._told = False
        self._stage = next((str(e["stage"]) for e in reversed(lease.events) if "stage" in e), "")
        self._leave_at: float | None = None
        self._given_up = threading.Event()
        self._why = Ended("lost")

    def leave(self, seconds: float) -> None:
        """Ends as ``stopped`` after the next durable result, or ``seconds`` from now. For another thread."""
        self._leave_at = self._clock() + seconds

    def give_up(self, how: How, message: str) -> None:
        """Ends in this way, writing nothing more. For another thread."""
        self._why = Ended(how, message)
        self._given_up.set()

    def run(self) -> Ended:
        """Follows the task to its end, the lease's, or this process's. Raises InvalidInput for events that are none."""
        while not self._given_up.is_set():
            due = self._due() - self._clock()
            if not self._task.begun and self._clock() - self._claimed >= START_S and self._ended is None:
                return Ended("stopped", f"its node has not begun it within {START_S:g} s")
            if due <= 0:
                if (ended := self._append()) is not None:
                    return ended
            elif self._ended is not None or self._is_full():
                self._heard = self._clock()  # nobody listened
                self._pause(due)
            else:
                self._hear(self._task.next(min(due, self._listen_s)))
        return self._why

    def _due(self) -> float:
        if self._away:
            return self._tried + RETRY_S
        if self._ended is not None or self._bytes:
            return self._tried + URGENT_S
        soon = self._tried + (CALM_S if self._waiting else self._listen_s)
        return soon if self._leave_at is None else min(soon, max(self._leave_at, self._tried + URGENT_S))

    def _is_full(self) -> bool:
        """Then the task has to wait: what it yields is not taken until the log has taken what there is."""
        return len(self._waiting) >= MAX_EVENTS or self._bytes >= MAX_BYTES

    def _hear(self, found: Records | Ended | None) -> None:
        if isinstance(found, Ended):
            self._ended = found
        elif found is not None:
            self._heard, self._told = self._clock(), False
            self._stage = next((str(e["stage"]) for e in reversed(found) if "stage" in e), self._stage)
            self._waiting = coalesce([*self._waiting, *found])
            self._bytes += size(found)
        elif not self._told and self._clock() - self._heard >= self._stuck_seconds:
            self._told = True
            text = f"no news from the worker for {self._stuck_seconds:g} s; the service's log shows what it is doing"
            warning = encode(Warned(self._stage, text))
            self._waiting.append(warning)
            self._bytes += size([warning])
            self._stuck()

    def _append(self) -> Ended | None:
        if self._sending is None:
            self._sending, self._waiting = split(self._waiting)
            self._bytes = size(self._waiting)
            self._batch += 1
        began = self._tried = self._clock()
        try:
            verdict = self._jobs.append(self._lease, self._batch, self._sending, self._lease_seconds)
        except StorageError as error:
            return self._retry_later(error)
        durable = any(event["kind"] in DURABLE for event in self._sending)
        self._sending, self.held_until, self._away = None, began + self._lease_seconds, False
        if verdict == "lost":
            return Ended("lost")
        if verdict == "stop":
            return Ended("parked")
        if self._ended is not None and not self._waiting:
            return self._ended
        if self._leave_at is not None and (durable or not self._task.begun or self._clock() >= self._leave_at):
            return Ended("stopped")
        return None

    def _retry_later(self, error: StorageError) -> Ended | None:
        now = self._tried = self._clock()
        if now >= self.held_until or (self._leave_at is not None and now >= self._leave_at):
            return Ended("lost", f"its events could not be kept before its lease ended: {error}")
        if not self._away:
            log.warning("job %s: its events cannot be kept, trying again: %s", self._lease.job_id, error)
        self._away = True
        return None


def coalesce(events: Records) -> Records:
    """The events without progress that later progress of the same stage replaces."""
    newest = {e["stage"]: i for i, e in enumerate(events) if e["kind"] == Progress.kind}
    return [e for i, e in enumerate(events) if e["kind"] != Progress.kind or newest[e["stage"]] == i]


def split(events: Records) -> tuple[Records, Records]:
    """As many events from the front as one append takes, at least one, and the rest."""
    taken = length = 0
    for event in events[:MAX_EVENTS]:
        length += size([event])
        if taken and length > MAX_BYTES:
            break
        taken += 1
    return events[:taken], events[taken:]


def size(events: Records) -> int:
    """Bytes as JSON of the events that stay; progress does not, since newer progress replaces it."""
    return sum(len(json.dumps(event)) for event in events if event["kind"] != Progress.kind)
