"""``/``: every search, newest first."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from nicegui import ui

from nas.client import Client
from nas.core.lifecycle import STATUSES, JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.elements import badge, code_block, div, heading, progress_bar, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller
from server.dashboard.search.header import may_submit
from server.dashboard.search_actions import ActionBar, SearchAction

_STEP = 25  # searches on a page
_FRONTS = 5  # fronts asked for in one refresh, so that the list is not kept waiting
_ALL = "all"
_EVERYBODY = "everybody"
FIRST_STEPS = "nas devices add\nnas submit"


@dataclass
class _Chosen:
    """What one open page shows: ``cursors`` lead to its present page, and to those before it."""

    status: str
    owner: str | None
    cursors: list[str | None] = field(default_factory=lambda: [None])
    following: str | None = None
    marked: dict[str, JobStatus] = field(default_factory=dict)

    def rewind(self) -> None:
        """Back to the first page, with nothing marked."""
        self.cursors = [None]
        self.marked.clear()


@dataclass(frozen=True)
class _Listed:
    """One look at the list. ``owners`` are those an administrator may choose from."""

    searches: tuple[SearchSchema, ...]
    following: str | None
    me: PrincipalSchema
    owners: tuple[str, ...]


async def searches_page(client: Client, status: str, owner: str) -> None:
    """The list, refreshed while anything runs; ``status`` and ``owner`` filter."""
    await SearchList(client, status, owner).open()


class SearchList:
    """One open list."""

    def __init__(self, client: Client, status: str, owner: str) -> None:
        self._client = client
        self._state = _Chosen(status if status in STATUSES else _ALL, owner or None)
        self._best: dict[tuple[str, int], str] = {}  # finished searches do not change: their front is asked for once
        self._rows: dict[str, MemoizedView[[SearchSchema, str, str, str]]] = {}
        self._statuses: dict[str, JobStatus] = {}
        self._me: PrincipalSchema | None = None
        self._owners: tuple[str, ...] = ()

    async def open(self) -> None:
        """Draws the page and keeps it fresh."""
        state = self._state
        with page_layout(self._client, "Searches", "/") as shell:
            with div("flow"):
                heading("Searches").classes("grow")
                ui.button("New search", icon="add", on_click=lambda: ui.navigate.to("/submit")).props(
                    "no-caps unelevated"
                )
            with div("flow"):
                chips = ui.toggle([_ALL, *STATUSES], value=state.status).props(
                    "no-caps unelevated dense padding='4px 12px' toggle-color=primary aria-label='filter by status'"
                )
                self._owner_box = div("part")
            self._selection = MemoizedView(self._draw_selection)
            self._trouble = problem_view("The service refused")
            self._bar = ActionBar(self._client, shell, self._acted, self._trouble.show)
            self._listing = MemoizedView(self._draw_list)
            with div("flow") as pager:
                newer = ui.button("Newer", icon="chevron_left", on_click=self._newer).props("flat no-caps")
                page = text("", "small muted num")
                older = ui.button("Older", on_click=self._older).props("flat no-caps icon-right=chevron_right")
            pager.set_visibility(False)

            def draw(listed: _Listed) -> None:
                self._show(listed)
                pager.set_visibility(listed.following is not None or len(state.cursors) > 1)
                newer.set_enabled(len(state.cursors) > 1)
                older.set_enabled(listed.following is not None)
                page.text = f"Page {len(state.cursors)}"

            self._live = Poller(
                shell,
                self._fetch,
                draw,
                lambda listed: any(formatting.is_moving(s) or self._unknown(s) for s in listed.searches),
            )

            async def choose() -> None:
                state.status = chips.value
                await self._restart()

            chips.on_value_change(choose)
            await self._live.start()

    def _fetch(self) -> _Listed:
        state, client = self._state, self._client
        if self._me is None:
            self._me = client.me()
            self._owners = tuple(q.owner for q in client.quotas()) if "admin" in self._me.scopes else ()
        chosen = None if state.status == _ALL else state.status
        page = client.searches(status=chosen, limit=_STEP, cursor=state.cursors[-1], owner=state.owner)
        for s in [s for s in page.items if self._unknown(s)][:_FRONTS]:
            self._best[s.id, s.last_event] = _best(client.front(s.id))
        return _Listed(tuple(page.items), page.next, self._me, self._owners)

    def _unknown(self, s: SearchSchema) -> bool:
        return s.status == "succeeded" and (s.id, s.last_event) not in self._best

    def _show(self, listed: _Listed) -> None:
        state = self._state
        state.following = listed.following
        if len(listed.owners) > 1 and not self._owner_box.default_slot.children:
            with self._owner_box:
                ui.select(
                    [_EVERYBODY, *listed.owners],
                    value=state.owner if state.owner in listed.owners else _EVERYBODY,
                    label="Owner",
                    on_change=lambda e: self._choose_owner(e.value),
                ).props("outlined dense options-dense").classes("owner")
        self._statuses = {s.id: s.status for s in listed.searches}
        state.marked = {i: self._statuses[i] for i in state.marked if i in self._statuses}
        self._listing.show(tuple(self._statuses), may_submit(listed.me))
        now = datetime.now(UTC)
        for s in listed.searches:
            mine = s.owner == listed.me.owner
            best = self._best.get((s.id, s.last_event), "")
            self._rows[s.id].show(s, formatting.age(s.created_at, now), best, "" if mine else s.owner)
        self._selection.show(dict(state.marked))

    async def _restart(self) -> None:
        state = self._state
        state.rewind()
        query = {"status": state.status if state.status != _ALL else None, "owner": state.owner}
        given = urlencode({k: v for k, v in query.items() if v is not None})
        ui.navigate.history.replace(f"/?{given}" if given else "/")
        await self._live.refresh()

    async def _choose_owner(self, owner: str) -> None:
        self._state.owner = None if owner == _EVERYBODY else owner
        await self._restart()

    async def _older(self) -> None:
        if self._state.following is not None:
            self._state.cursors.append(self._state.following)
            self._state.marked.clear()
            await self._live.refresh()

    async def _newer(self) -> None:
        if len(self._state.cursors) > 1:
            self._state.cursors.pop()
            self._state.marked.clear()
            await self._live.refresh()

    async def _acted(self, _: SearchAction) -> None:
        self._state.marked.clear()
        self._listing.invalidate()
        await self._live.refresh()

    def _mark(self, search_id: str, on: bool) -> None:
        marked = self._state.marked
        marked.pop(search_id, None)
        if on:
            marked[search_id] = self._statuses[search_id]
        self._selection.show(dict(marked))

    def _draw_selection(self, marked: dict[str, JobStatus]) -> None:
        if not marked:
            return
        with div("card flow selection"):
            text(f"{len(marked)} chosen", "strong grow")
            self._bar.draw(marked)

    def _draw_list(self, ids: tuple[str, ...], markable: bool) -> None:
        self._rows.clear()
        if not ids:
            _draw_empty(self._state.status, self._state.owner)
            return
        with div("card flush"):
            with div("line" + (" markable" if markable else "")):
                if markable:
                    div()
                with div("lrow head"):
                    for name in ("Search", "Progress", "Front", "Verified", "Hypervolume", "Created"):
                        text(name)
            for i in ids:
                with div("line" + (" markable" if markable else "")):
                    if markable:
                        self._draw_mark(i)
                    self._rows[i] = MemoizedView(_draw_row)

    def _draw_mark(self, search_id: str) -> None:
        marked = search_id in self._state.marked
        ui.checkbox(value=marked, on_change=lambda e: self._mark(search_id, e.value)).props(
            'dense aria-label="choose this search"'
        )


def _best(front: FrontSchema) -> str:
    """The best accuracy on a front, with the name that tells its kind."""
    axis = next((o for o in front.objectives if o.objective == "accuracy"), None)
    if axis is None or not front.points:
        return ""
    top = max(p.metrics[axis.metric].value for p in front.points)
    return f"{formatting.quantity(top, axis.unit)} {axis.label.lower()}"


def _draw_empty(status: str, owner: str | None) -> None:
    with div("card empty"):
        if status != _ALL or owner is not None:
            of = "" if owner is None else f" of {owner}"
            heading(f"No {'' if status == _ALL else status + ' '}searches{of}", 2)
            ui.link("Show all searches", "/")
            return
        heading("No searches yet", 2)
        text("Two commands to begin: measure this machine, then search for networks that are fast on it.", "muted")
        code_block(FIRST_STEPS)
        ui.button("Fill in a form instead", on_click=lambda: ui.navigate.to("/submit")).props("no-caps unelevated")


def _draw_row(search: SearchSchema, age: str, best: str, owner: str) -> None:
    with ui.link(target=f"/searches/{search.id}").classes("lrow"):
        with div():
            with div("flow"):
                text(search.spec.name, "name", "span")
                badge(search.status)
            with div("small muted"):
                priority = f"priority {search.priority}" if search.priority else ""
                known = (search.spec.data.name, search.spec.device, owner, priority, best)
                text(" · ".join(k for k in known if k))
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
            _draw_versus(search)
        with div("small muted num"):
            text("Created", "cap")
            text(age)


def _draw_progress(search: SearchSchema) -> None:
    stage = formatting.active_stage(search)
    if search.status in ("failed", "quarantined"):
        text((search.error or search.status).splitlines()[0][:140]).style("color: var(--c-bad)")
    elif search.status in ("running", "pausing", "paused") and stage is not None:
        number = next(i for i, s in enumerate(search.stages) if s.name == stage.name) + 1
        eta = f", about {formatting.duration(search.eta_s)} left" if search.eta_s is not None else ""
        text(f"{stage.name} ({number} of {len(search.stages)}){eta}")
        progress_bar(formatting.fraction(stage))
        if search.status == "pausing":
            text("until its next result is saved", "muted")
    elif search.status == "queued":
        text(search.waiting or "waiting for a worker", "muted")
    elif search.status == "paused":
        text("before it began", "muted")
    elif search.finished_at is not None and search.started_at is not None:
        text(f"{search.evaluations} evaluated", "num")
        text(f"in {formatting.duration((search.finished_at - search.started_at).total_seconds())}", "muted")


def _draw_versus(search: SearchSchema) -> None:
    """Search over baseline as two bars, told apart by pattern as well."""
    if search.hypervolume is None:
        text(formatting.MISSING, "muted")
        return
    with div("versus num"):
        progress_bar(search.hypervolume, "search")
        text(formatting.share(search.hypervolume))
        if search.baseline_hypervolume is not None:
            progress_bar(search.baseline_hypervolume, "random")
            text(formatting.share(search.baseline_hypervolume), "muted")
        ui.tooltip(
            f"Search {formatting.share(search.hypervolume)}, random {formatting.share(search.baseline_hypervolume)}"
        )
