"""One attempt at a claimed job: append the events of the running job to the log until the job or its lease ends.

Independent of Ray and the database: a running job is anything that yields events, and the clock is an argument.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.core.errors import StorageError
from nas.core.events import (
    Checkpoint,
    EncodedEvent,
    Evaluated,
    Exported,
    Measured,
    Progress,
    StageFinished,
    Warned,
    encode,
)
from nas.core.jobs import AppendOutcome, Lease, LeaseToken

log = logging.getLogger(__name__)

EventBatch = list[EncodedEvent]
AttemptStatus = Literal["succeeded", "failed", "crashed", "unstored", "stopped", "parked", "lost"]

DURABLE = frozenset(e.kind for e in (Checkpoint, Evaluated, Measured, Exported, StageFinished))
MAX_EVENTS, MAX_BYTES = 500, 2**20  # of one append; a single event may be larger
MIN_INTERVAL_S = 0.1  # between two appends of one job
PROGRESS_INTERVAL_S = 0.25  # between two appends if only progress is pending
POLL_S = 1.0  # longest time that a job is waited for at once
RETRY_S = 1.0  # between two tries while the database is unavailable
HANG_S = 3600.0  # a worker that is silent for longer has its attempt ended
START_TIMEOUT_S = 120.0  # a job that has not started by then is released


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended. ``unstored``: something could not be stored or read, so the job is tried again later;
    ``stopped``: the job returns to the queue; ``parked``: the store has parked the job; ``lost``: the lease belongs to
    another process or has expired."""

    status: AttemptStatus
    message: str | None = None


class RunningJob(Protocol):
    """A job on the cluster. ``has_started`` becomes true when its worker process runs it."""

    @property
    def has_started(self) -> bool: ...
    def poll(self, timeout_s: float) -> EventBatch | AttemptOutcome | None:
        """Wait up to ``timeout_s`` for more events or the outcome; None on timeout."""

    def kill(self) -> None:
        """End the job if it still runs. Returns when its process has ended, or after a short timeout."""

    def dump_stacks(self) -> str:
        """Return the stacks of the worker process, for the log."""


class EventSink(Protocol):
    """The part of a job store that appends events."""

    def append(
        self, lease: LeaseToken, batch: int, events: Sequence[EncodedEvent], seconds: float
    ) -> AppendOutcome: ...


class AttemptRunner:
    """Runs one attempt. ``lease_deadline`` is when the lease expires by ``clock``; appends renew the lease, and so may
    whoever sets it. ``on_silence`` is called once for every silence of ``stuck_seconds``; a silence of ``hang_seconds``
    ends the attempt, with the stacks of the worker in the log."""

    def __init__(
        self,
        event_log: EventSink,
        lease: Lease,
        job: RunningJob,
        *,
        lease_deadline: float,
        lease_seconds: float,
        stuck_seconds: float,
        hang_seconds: float = HANG_S,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        on_silence: Callable[[], None],
    ) -> None:
        self._event_log = event_log
        self._lease = lease
        self._job = job
        self.lease_deadline = lease_deadline
        self._lease_seconds = lease_seconds
        self._poll_s = min(POLL_S, lease_seconds / 3)
        self._stuck_seconds = stuck_seconds
        self._hang_seconds = hang_seconds
        self._clock = clock
        self._sleep = sleep
        self._on_silence = on_silence
        self._pending: EventBatch = []
        self._pending_bytes = 0  # without progress
        self._unconfirmed: EventBatch | None = None  # a batch without a response: it may be written or not
        self._batch = 0
        self._outcome: AttemptOutcome | None = None  # of the job; its last events may still be pending
        self._heard_at = self._appended_at = self._claimed_at = clock()
        self._database_down = self._silence_reported = False
        self._stage = _last_stage(lease.events, "")
        self._stop_at: float | None = None
        self._aborted = threading.Event()
        self._abort_outcome = AttemptOutcome("lost")

    def stop(self, grace_s: float) -> None:
        """End as ``stopped`` after the next durable result, or after ``grace_s``. Thread-safe."""
        self._stop_at = self._clock() + grace_s

    def abort(self, status: AttemptStatus, message: str) -> None:
        """End with this outcome and write nothing more. Thread-safe."""
        self._abort_outcome = AttemptOutcome(status, message)
        self._aborted.set()

    def run(self) -> AttemptOutcome:
        """Run until the job ends, its lease ends, or the attempt is stopped. Raises InvalidInput for malformed
        events."""
        while not self._aborted.is_set():
            due_s = self._next_append_at() - self._clock()
            if self._outcome is None and (overdue := self._overdue()) is not None:
                return overdue
            if due_s <= 0:
                if (outcome := self._append()) is not None:
                    return outcome
            elif self._outcome is not None or self._is_full():
                self._heard_at = self._clock()  # not silent: the job was not polled
                self._sleep(due_s)
            else:
                self._receive(self._job.poll(min(due_s, self._poll_s)))
        return self._abort_outcome

    def _overdue(self) -> AttemptOutcome | None:
        """How an attempt ends that has waited too long: for its start, for news, or for the renewal of its lease."""
        now = self._clock()
        if not self._job.has_started and self._stop_at is not None:
            return AttemptOutcome("stopped")
        if not self._job.has_started and now - self._claimed_at >= START_TIMEOUT_S:
            return AttemptOutcome("stopped", f"its node did not start it within {START_TIMEOUT_S:g} s")
        if self._job.has_started and now - self._heard_at >= self._hang_seconds:
            reason = f"no news from its worker for {self._hang_seconds:g} s"
            log.error("job %s: %s, so its attempt ends: %s", self._lease.job_id, reason, self._job.dump_stacks())
            return AttemptOutcome("crashed", reason)
        if self._next_append_at() == math.inf and now >= self.lease_deadline:
            return AttemptOutcome("lost", "its lease could not be renewed")
        return None

    def _next_append_at(self) -> float:
        if self._database_down:
            return self._appended_at + RETRY_S
        if self._outcome is not None or self._pending_bytes:
            return self._appended_at + MIN_INTERVAL_S
        due = self._appended_at + PROGRESS_INTERVAL_S if self._pending or self._unconfirmed else math.inf
        return due if self._stop_at is None else min(due, max(self._stop_at, self._appended_at + MIN_INTERVAL_S))

    def _is_full(self) -> bool:
        """Whether the job has to wait (backpressure): it is not polled until the log has taken the pending events."""
        return len(self._pending) >= MAX_EVENTS or self._pending_bytes >= MAX_BYTES

    def _receive(self, message: EventBatch | AttemptOutcome | None) -> None:
        if isinstance(message, AttemptOutcome):
            self._outcome = message
        elif message is not None:
            self._heard_at, self._silence_reported = self._clock(), False
            self._stage = _last_stage(message, self._stage)
            self._pending = coalesce_progress([*self._pending, *message])
            self._pending_bytes += encoded_size(message)
        elif not self._silence_reported and self._clock() - self._heard_at >= self._stuck_seconds:
            self._silence_reported = True
            text = f"no news from the worker for {self._stuck_seconds:g} s; the service's log shows what it is doing"
            warning = encode(Warned(self._stage, text))
            self._pending.append(warning)
            self._pending_bytes += encoded_size([warning])
            self._on_silence()

    def _append(self) -> AttemptOutcome | None:
        if self._unconfirmed is None:
            self._unconfirmed, self._pending = split_batch(self._pending)
            self._pending_bytes = encoded_size(self._pending)
            self._batch += 1
        began = self._appended_at = self._clock()
        try:
            answer = self._event_log.append(self._lease, self._batch, self._unconfirmed, self._lease_seconds)
        except StorageError as error:
            return self._retry_later(error)
        durable = any(event["kind"] in DURABLE for event in self._unconfirmed)
        self._unconfirmed, self.lease_deadline, self._database_down = None, began + self._lease_seconds, False
        if answer == "lost":
            return AttemptOutcome("lost")
        if answer == "stop":
            return AttemptOutcome("parked")
        if self._outcome is not None and not self._pending:
            return self._outcome
        if self._stop_at is not None and (durable or not self._job.has_started or self._clock() >= self._stop_at):
            return AttemptOutcome("stopped")
        return None

    def _retry_later(self, error: StorageError) -> AttemptOutcome | None:
        now = self._appended_at = self._clock()
        if now >= self.lease_deadline or (self._stop_at is not None and now >= self._stop_at):
            return AttemptOutcome("lost", f"its events could not be stored before its lease ended: {error}")
        if not self._database_down:
            log.warning("job %s: its events cannot be stored, retrying: %s", self._lease.job_id, error)
        self._database_down = True
        return None


def coalesce_progress(events: EventBatch) -> EventBatch:
    """Drop progress events that are followed by newer progress of the same stage."""
    newest = {e["stage"]: i for i, e in enumerate(events) if e["kind"] == Progress.kind}
    return [e for i, e in enumerate(events) if e["kind"] != Progress.kind or newest[e["stage"]] == i]


def split_batch(events: EventBatch) -> tuple[EventBatch, EventBatch]:
    """Split into the longest prefix that one append takes (at least one event), and the remaining events."""
    count = size_bytes = 0
    for event in events[:MAX_EVENTS]:
        size_bytes += encoded_size([event])
        if count and size_bytes > MAX_BYTES:
            break
        count += 1
    return events[:count], events[count:]


def encoded_size(events: EventBatch) -> int:
    """Size in bytes as JSON, without progress, since newer progress replaces it."""
    return sum(len(json.dumps(event)) for event in events if event["kind"] != Progress.kind)


def _last_stage(events: Sequence[EncodedEvent], default: str) -> str:
    return next((str(e["stage"]) for e in reversed(events) if "stage" in e), default)
