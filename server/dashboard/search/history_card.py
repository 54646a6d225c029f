"""The history of a search, and the searches that came of it."""

from __future__ import annotations

from nicegui import ui

from nas.schemas.jobs import EventSchema
from server.dashboard import formatting
from server.dashboard.elements import badge, div, heading, text
from server.dashboard.search.status_text import Change, changes, last_interruption
from server.dashboard.search.view_model import Relative

_NEWEST = 12  # changes shown at once; the rest is folded away


def draw_timeline(events: tuple[EventSchema, ...], attempts: int, busy_seconds: float | None) -> None:
    """Every status with when, for how long, by whom and why; newest first."""
    if not events:
        return
    found = changes(list(events))
    with div("card stack history"):
        heading("History", 2)
        _draw_attempts(attempts, busy_seconds, last_interruption(list(events)))
        with div("timeline", "ol"):
            for change in found[:_NEWEST]:
                _draw_change(change)
        if len(found) > _NEWEST:
            with div("fold", "details"):
                text(f"{formatting.counted(len(found) - _NEWEST, 'earlier change')}", tag="summary")
                with div("timeline", "ol"):
                    for change in found[_NEWEST:]:
                        _draw_change(change)


def _draw_attempts(attempts: int, busy_seconds: float | None, interruption: str) -> None:
    if attempts:
        worked = f", {formatting.duration(busy_seconds)} of work" if busy_seconds else ""
        text(f"{formatting.counted(attempts, 'attempt')}{worked}", "small muted")
    if interruption:
        text(f"Last interruption: {formatting.sentence(interruption)}", "small")


def _draw_change(change: Change) -> None:
    with div(f"change {change.after}", "li"):
        with div("flow tight"):
            badge(change.after)
            if change.seconds is not None:
                text(f"for {formatting.duration(change.seconds)}", "small muted", "span")
            if change.by:
                text(f"by {change.by}", "small", "span")
        if change.reason:
            text(formatting.sentence(change.reason), "small")
        text(change.at, "small muted num")


def draw_family(children: tuple[Relative, ...]) -> None:
    """Links to the searches that were forked from this one."""
    if not children:
        return
    with div("card stack children"):
        heading("Forked from this search", 2)
        for child in children:
            with div("flow"):
                ui.link(child.name, f"/searches/{child.id}")
                badge(child.status)
