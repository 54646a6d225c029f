"""What the status of a search means for its owner, what happens next, and its past statuses. No drawing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nas.core.events import StatusChanged
from nas.core.lifecycle import JobStatus
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.elements import Tone
from server.dashboard.front_text import CONCLUSION_TITLES
from server.dashboard.search.view_model import LoggedEvent


@dataclass(frozen=True)
class StatusExplanation:
    """A notice about a status."""

    tone: Tone
    title: str
    message: str


@dataclass(frozen=True)
class StatusPeriod:
    """A search had a ``status`` for ``seconds`` (None: until now). ``by`` is empty if the service changed it."""

    begins_at: datetime
    status: JobStatus
    by: str
    reason: str
    seconds: float | None


def explain(search: SearchSchema) -> StatusExplanation | None:
    """Why the search has its status and what happens next; None where the rest of the page shows it."""
    continuation = "It continues from its last checkpoint." if search.attempts else ""
    reason = formatting.sentence(search.error or "")
    match search.status:
        case "queued":
            waiting = formatting.sentence(search.waiting or "it starts as soon as a worker is free")
            return StatusExplanation("info", "Waiting for a worker", f"{waiting} {continuation}".strip())
        case "pausing":
            return StatusExplanation(
                "info",
                "Pausing",
                "The worker finishes and saves the result that it is working on, so that nothing is lost, and is then "
                "released. Resume to cancel the pause.",
            )
        case "paused":
            return StatusExplanation(
                "warn",
                "This search is paused",
                "It occupies no worker, and all results are saved. Resume puts it back into the queue; it continues "
                "from its last checkpoint.",
            )
        case "quarantined":
            return StatusExplanation(
                "bad",
                "This search is quarantined",
                f"Its worker stopped too often before any progress was saved, so it is not retried automatically. "
                f"{reason or 'No reason was recorded.'} Once the cause is fixed, retry continues from its last "
                f"checkpoint.",
            )
        case "failed":
            return StatusExplanation("bad", "This search failed", reason or "No reason was recorded.")
        case "cancelled":
            return StatusExplanation(
                "warn", "This search was cancelled", "Its results until then are saved. Retry continues from there."
            )
        case "succeeded" if search.conclusions:
            messages = " ".join(formatting.sentence(c.message) for c in search.conclusions)
            return StatusExplanation("warn", CONCLUSION_TITLES[search.conclusions[0].code], messages)
        case _:
            return None


def status_periods(changes: Sequence[LoggedEvent[StatusChanged]]) -> tuple[StatusPeriod, ...]:
    """The statuses of a search, newest first."""
    ends_at = [*(change.at for change in changes[1:]), None]
    periods = [
        StatusPeriod(
            begins_at=change.at,
            status=change.event.after,
            by=change.event.by,
            reason=change.event.reason,
            seconds=None if end is None else (end - change.at).total_seconds(),
        )
        for change, end in zip(changes, ends_at, strict=True)
    ]
    return tuple(reversed(periods))


def last_interruption(changes: Sequence[LoggedEvent[StatusChanged]]) -> str:
    """Why the search last lost its worker without having ended; empty if it never did."""
    events = [change.event for change in reversed(changes)]
    lost = (e for e in events if e.before == "running" and e.after in ("queued", "quarantined"))
    return next((e.reason for e in lost), "")
