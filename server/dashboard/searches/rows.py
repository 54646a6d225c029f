"""The row of a search in the list."""

from __future__ import annotations

from nicegui import ui

from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.elements import badge, div, progress_bar, text
from server.dashboard.front_text import CONCLUSION_TITLES


def best_quality(front: FrontSchema) -> str:
    """The best quality on a front, with the label that says its kind; empty for an empty front."""
    if not front.members:
        return ""
    axis = front.quality
    best = axis.best(c.metrics[axis.metric].value for c in front.members)
    return f"{formatting.quantity(best, axis.unit)} {axis.label.lower()}"


def draw_row(search: SearchSchema, age: str, best: str, owner: str) -> None:
    """``best``: its best quality, ``owner``: empty for the reader's own searches."""
    with ui.link(target=f"/searches/{search.id}").classes("lrow"):
        with div():
            with div("flow"):
                if search.starred:
                    text("★", "star", "span").props('role="img" aria-label="starred"')
                text(search.spec.name, "name", "span")
                badge(search.status)
            with div("small muted"):
                priority = f"priority {search.priority}" if search.priority else ""
                details = (search.spoken_name, search.spec.data.name, search.spec.device, owner, priority, best)
                text(" · ".join(d for d in details if d))
                if search.note:
                    text(search.note, "note")
        with div("small"):
            _draw_progress(search)
        with div("num"):
            text("Front", "cap")
            text(str(search.front_size) if search.front_size else formatting.MISSING)
        with div("num"):
            text("Verified", "cap")
            text(str(search.verified) if search.verified else formatting.MISSING)
        with div():
            text("Hypervolume", "cap")
            _draw_hypervolumes(search)
        with div("small muted num"):
            text("Created", "cap")
            text(age)


def _draw_progress(search: SearchSchema) -> None:
    stage = formatting.active_stage(search)
    if search.status in ("failed", "quarantined"):
        text((search.error or search.status).splitlines()[0][:140]).style("color: var(--c-bad)")
    elif search.status in ("running", "pausing", "paused") and stage is not None:
        number = next(i for i, s in enumerate(search.stages) if s.name == stage.name) + 1
        text(f"{stage.name} ({number} of {len(search.stages)})")
        if time_left := formatting.time_left(search):
            text(time_left, "muted")
        progress_bar(formatting.fraction(stage))
        if search.status == "pausing":
            text("until its next result is saved", "muted")
    elif search.status == "queued":
        text(search.waiting or "waiting for a worker", "muted")
    elif search.status == "paused":
        text("before its first stage", "muted")
    elif search.finished_at is not None and search.started_at is not None:
        text(f"{formatting.counted(search.evaluations, 'candidate')} evaluated", "num")
        for conclusion in search.conclusions:
            text(CONCLUSION_TITLES[conclusion.code].lower()).style("color: var(--c-bad)")
        text(f"in {formatting.duration((search.finished_at - search.started_at).total_seconds())}", "muted")


def _draw_hypervolumes(search: SearchSchema) -> None:
    """Search over baseline as two bars, distinguished by pattern as well as by colour."""
    if search.hypervolume is None:
        text(formatting.MISSING, "muted")
        return
    search_text = formatting.share(search.hypervolume)
    baseline_text = formatting.share(search.baseline_hypervolume)
    with div("versus num"):
        progress_bar(search.hypervolume, "search")
        text(search_text)
        if search.baseline_hypervolume is not None:
            progress_bar(search.baseline_hypervolume, "random")
            text(baseline_text, "muted")
        ui.tooltip(f"Search {search_text}, random {baseline_text}")
