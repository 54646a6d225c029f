"""REST schemas of jobs (searches and device onboardings), their stages and events."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from nas.core.event_text import LogLevel
from nas.core.lifecycle import JobStatus


class StageSchema(BaseModel):
    """One stage of a job: ``done`` of ``total`` units, ``seconds`` spent, ``values`` such as a loss. ``eta_s``: seconds
    until it ends, None until they can be estimated."""

    name: str
    status: Literal["waiting", "running", "finished"]
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0
    eta_s: float | None = None
    values: dict[str, float] = {}
    message: str = ""
    result: dict[str, Any] = {}


class JobSchema(BaseModel):
    """What searches and device onboardings have in common.

    ``waiting`` is what a queued job waits for, such as "waiting for 1 GPU, position 3 of 12". ``busy_seconds`` is the
    total time that workers spent on it. ``eta_s``: seconds until the job ends, estimated from the rate of its running
    stage and, for those that wait, from what a dry run or an earlier search of the same work has shown, at the pace
    measured since; None where no waiting stage is known so. ``untimed_stages`` names the stages of which no time is
    known and which no ``eta_s`` counts.
    """

    id: str
    status: JobStatus
    owner: str = "local"
    priority: int = 0
    waiting: str | None = None
    busy_seconds: float = 0.0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    error: str | None = None
    stages: list[StageSchema] = []
    warnings: list[str] = []
    eta_s: float | None = None
    untimed_stages: list[str] = []
    last_event: int = 0


class EventSchema(BaseModel):
    """An event with its number in the search's log; ``body`` is ``nas.core.events.encode``'s record."""

    seq: int
    at: datetime
    body: dict[str, Any]


class LogLine(BaseModel):
    """An event in words."""

    seq: int
    at: datetime
    level: LogLevel
    text: str


class LogPage(BaseModel):
    """Lines of a log after an event's number, oldest first. ``last`` is the number to continue from."""

    items: list[LogLine]
    last: int


class EventPage(BaseModel):
    """Events after a number, oldest first. ``last`` is the number to continue from."""

    items: list[EventSchema]
    last: int
