"""The history of a search, and the searches that were forked from it."""

from __future__ import annotations

from nicegui import ui

from nas.core.events import StatusChanged
from server.dashboard import formatting
from server.dashboard.elements import badge, div, heading, text
from server.dashboard.search.status_text import StatusPeriod, last_interruption, status_periods
from server.dashboard.search.view_model import LoggedEvent, RelatedSearch

_NEWEST = 12  # earlier ones are folded


def draw_history(changes: tuple[LoggedEvent[StatusChanged], ...], attempts: int, busy_seconds: float | None) -> None:
    """Every status with its time, duration, principal and reason; newest first."""
    if not changes:
        return
    periods = status_periods(changes)
    with div("card stack history"):
        heading("History", 2)
        _draw_attempts(attempts, busy_seconds, last_interruption(changes))
        with div("timeline", "ol"):
            for period in periods[:_NEWEST]:
                _draw_period(period)
        if len(periods) > _NEWEST:
            with div("fold", "details"):
                text(formatting.counted(len(periods) - _NEWEST, "earlier change"), tag="summary")
                with div("timeline", "ol"):
                    for period in periods[_NEWEST:]:
                        _draw_period(period)


def _draw_attempts(attempts: int, busy_seconds: float | None, interruption: str) -> None:
    if attempts:
        busy = f", {formatting.duration(busy_seconds)} on workers" if busy_seconds else ""
        text(f"{formatting.counted(attempts, 'attempt')}{busy}", "small muted")
    if interruption:
        text(f"Last interruption: {formatting.sentence(interruption)}", "small")


def _draw_period(period: StatusPeriod) -> None:
    with div(f"change {period.status}", "li"):
        with div("flow tight"):
            badge(period.status)
            if period.seconds is not None:
                text(f"for {formatting.duration(period.seconds)}", "small muted", "span")
            if period.by:
                text(f"by {period.by}", "small", "span")
        if period.reason:
            text(formatting.sentence(period.reason), "small")
        text(formatting.moment(period.begins_at), "small muted num")


def draw_children(children: tuple[RelatedSearch, ...]) -> None:
    """Links to the searches that were forked from this one."""
    if not children:
        return
    with div("card stack children"):
        heading("Forked from this search", 2)
        for child in children:
            with div("flow"):
                ui.link(child.name, f"/searches/{child.id}")
                badge(child.status)
