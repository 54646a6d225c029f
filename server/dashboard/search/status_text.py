"""What the status of a search means for its owner, and what happens next. No drawing here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.schemas.jobs import EventSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting

Tone = Literal["bad", "warn", "good", "info"]


@dataclass(frozen=True)
class Explanation:
    """A notice about a status."""

    tone: Tone
    title: str
    message: str


@dataclass(frozen=True)
class Change:
    """A search became ``after``, ``by`` somebody or by the service (empty), and stayed so for ``seconds`` (None: till
    now)."""

    at: str
    after: str
    by: str
    reason: str
    seconds: float | None


def explain(search: SearchSchema) -> Explanation | None:
    """Why the search is in its state and what happens next; None where the page says it by itself."""
    again = "It goes on from its last checkpoint." if search.attempts else ""
    reason = formatting.sentence(search.error or "")
    match search.status:
        case "queued":
            waiting = formatting.sentence(search.waiting or "it starts as soon as a worker is free")
            return Explanation("info", "Waiting for a worker", f"{waiting} {again}".strip())
        case "pausing":
            return Explanation(
                "info",
                "Pausing",
                "It works until its next result is saved, so that nothing is lost, and then frees its worker. "
                "Resume to let it go on without a stop.",
            )
        case "paused":
            return Explanation(
                "warn",
                "This search is paused",
                "It holds no worker, and everything found so far is kept. Resume puts it back into the queue, and it "
                "goes on from its last checkpoint.",
            )
        case "quarantined":
            return Explanation(
                "bad",
                "This search is quarantined",
                f"Its worker stopped too often before any progress was saved, so it is not tried again by itself. "
                f"{reason or 'No reason was recorded.'} Once the cause is mended, retry goes on from its last "
                f"checkpoint.",
            )
        case "failed":
            return Explanation("bad", "This search failed", reason or "No reason was recorded.")
        case "cancelled":
            return Explanation(
                "warn", "This search was cancelled", "What it found until then is kept. Retry goes on from there."
            )
        case _:
            return None


def changes(events: list[EventSchema]) -> tuple[Change, ...]:
    """The statuses a search went through, newest first."""
    ends = [e.at for e in events[1:]]
    return tuple(
        Change(
            at=formatting.moment(event.at),
            after=event.body["after"],
            by=event.body.get("by", ""),
            reason=event.body.get("reason", ""),
            seconds=(ends[i] - event.at).total_seconds() if i < len(ends) else None,
        )
        for i, event in reversed(list(enumerate(events)))
    )


def last_interruption(events: list[EventSchema]) -> str:
    """Why the search last lost its worker without having ended, or nothing if it never did."""
    lost = [e for e in events if e.body.get("before") == "running" and e.body["after"] in ("queued", "quarantined")]
    return next((e.body.get("reason", "") for e in reversed(lost)), "")
