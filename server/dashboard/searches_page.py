"""``/``: every search, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from nicegui import ui

from nas.client import Client
from nas.core.views import FrontView, SearchView
from server.dashboard import words
from server.dashboard.frame import Live, Part, badge, bar, code, div, framed, heading, text

_STATUSES = ("all", "running", "queued", "succeeded", "failed", "cancelled")
_STEP = 25  # searches shown at first, and added by each "more"
_FRONTS = 5  # fronts asked for in one refresh, so that the list is not kept waiting
FIRST_STEPS = "nas devices add\nnas submit"


@dataclass
class _Chosen:
    """What one open page shows."""

    status: str
    limit: int


async def searches_page(client: Client, status: str) -> None:
    """The list, refreshed while anything runs; ``status`` filters."""
    state = _Chosen(status if status in _STATUSES else "all", _STEP)
    best: dict[tuple[str, int], str] = {}  # finished searches do not change: their front is asked for once

    def fetch() -> tuple[list[SearchView], bool]:
        chosen = None if state.status == "all" else state.status
        items: list[SearchView] = []
        cursor: str | None = None
        while len(items) < state.limit:
            page = client.searches(status=chosen, limit=_STEP, cursor=cursor)
            items += page.items
            cursor = page.next
            if cursor is None:
                break
        for s in [s for s in items if _unknown(s)][:_FRONTS]:
            best[s.id, s.last_event] = _best(client.front(s.id))
        return items, cursor is not None

    def _unknown(s: SearchView) -> bool:
        return s.status == "succeeded" and (s.id, s.last_event) not in best

    with framed(client, "Searches", "/") as frame:
        with div("flow"):
            heading("Searches").classes("grow")
            ui.button("New search", icon="add", on_click=lambda: ui.navigate.to("/submit")).props("no-caps unelevated")
        with div("flow"):
            chips = ui.toggle(list(_STATUSES), value=state.status).props(
                "no-caps unelevated dense padding='4px 12px' toggle-color=primary aria-label='filter by status'"
            )
        rows: dict[str, Part] = {}
        listing = Part(lambda ids, chosen: _draw_list(ids, chosen, rows))
        more = ui.button("Show more").props("flat no-caps")
        more.set_visibility(False)

        def draw(result: tuple[list[SearchView], bool]) -> None:
            searches, has_more = result
            ids = tuple(s.id for s in searches)
            listing.show(ids, state.status)
            now = datetime.now(UTC)
            for s in searches:
                rows[s.id].show(s, words.age(s.created_at, now), best.get((s.id, s.last_event), ""))
            more.set_visibility(has_more)

        refresher = Live(frame, fetch, draw, lambda r: any(not words.is_over(s) or _unknown(s) for s in r[0]))

        async def choose() -> None:
            state.status = chips.value
            ui.navigate.history.replace("/" if chips.value == "all" else f"/?status={chips.value}")
            await refresher.refresh()

        async def extend() -> None:
            state.limit += _STEP
            await refresher.refresh()

        chips.on_value_change(choose)
        more.on_click(extend)
        await refresher.start()


def _best(front: FrontView) -> str:
    """The best accuracy on a front, with the name that tells its kind."""
    axis = next((o for o in front.objectives if o.objective == "accuracy"), None)
    if axis is None or not front.points:
        return ""
    top = max(p.metrics[axis.metric].value for p in front.points)
    return f"{words.quantity(top, axis.unit)} {axis.label.lower()}"


def _draw_list(ids: tuple[str, ...], status: str, rows: dict[str, Part]) -> None:
    rows.clear()
    if not ids:
        _draw_empty(status)
        return
    with div("card flush"):
        with div("lrow head"):
            for name in ("Search", "Progress", "Front", "Verified", "Hypervolume", "Created"):
                text(name)
        for i in ids:
            rows[i] = Part(_draw_row)


def _draw_empty(status: str) -> None:
    with div("card empty"):
        if status != "all":
            heading(f"No {status} searches", 2)
            ui.link("Show all searches", "/")
            return
        heading("No searches yet", 2)
        text("Two commands to begin: measure this machine, then search for networks that are fast on it.", "muted")
        code(FIRST_STEPS)
        ui.button("Fill in a form instead", on_click=lambda: ui.navigate.to("/submit")).props("no-caps unelevated")


def _draw_row(search: SearchView, age: str, best: str) -> None:
    with ui.link(target=f"/searches/{search.id}").classes("lrow"):
        with div():
            with div("flow"):
                text(search.spec.name, "name", "span")
                badge(search.status)
            with div("small muted"):
                text(f"{search.spec.data.name} · {search.spec.device}" + (f" · {best}" if best else ""))
        with div("small"):
            _draw_progress(search)
        with div("num"):
            text("Front", "cap")
            text(str(search.front_size) if search.front_size else words.NONE)
        with div("num"):
            text("Verified", "cap")
            text(str(search.verified) if search.verified else words.NONE)
        with div():
            text("Hypervolume", "cap")
            _draw_versus(search)
        with div("small muted num"):
            text("Created", "cap")
            text(age)


def _draw_progress(search: SearchView) -> None:
    stage = words.active_stage(search)
    if search.status == "failed":
        text((search.error or "failed").splitlines()[0][:140]).style("color: var(--c-bad)")
    elif search.status == "running" and stage is not None:
        number = next(i for i, s in enumerate(search.stages) if s.name == stage.name) + 1
        eta = f", about {words.duration(search.eta_s)} left" if search.eta_s is not None else ""
        text(f"{stage.name} ({number} of {len(search.stages)}){eta}")
        bar(words.fraction(stage))
    elif search.status == "queued":
        text("waiting for a worker", "muted")
    elif search.finished_at is not None and search.started_at is not None:
        text(f"{search.evaluations} evaluated", "num")
        text(f"in {words.duration((search.finished_at - search.started_at).total_seconds())}", "muted")


def _draw_versus(search: SearchView) -> None:
    """Search over baseline as two bars, told apart by pattern as well."""
    if search.hypervolume is None:
        text(words.NONE, "muted")
        return
    with div("versus num"):
        bar(search.hypervolume, "search")
        text(words.share(search.hypervolume))
        if search.baseline_hypervolume is not None:
            bar(search.baseline_hypervolume, "random")
            text(words.share(search.baseline_hypervolume), "muted")
        ui.tooltip(f"Search {words.share(search.hypervolume)}, random {words.share(search.baseline_hypervolume)}")
