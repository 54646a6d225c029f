"""``/``: every search, newest first."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from nicegui import ui

from nas.client import Client
from nas.core.lifecycle import STATUSES, JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.actions import Action, ActionBar
from server.dashboard.compare_links import MOST_SEARCHES, searches_url
from server.dashboard.elements import code_block, div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.permissions import may_submit
from server.dashboard.polling import Poller
from server.dashboard.searches.rows import best_quality, draw_row

_PAGE_SIZE = 25
_FRONTS_PER_REFRESH = 5  # so that the list does not wait for all of them
_ALL_STATUSES = "all"
_ALL_OWNERS = "all owners"
FIRST_STEPS = "nas devices add\nnas submit"


@dataclass
class _ListState:
    """The filters of an open list, the cursors of its present page and those before it, and the selected searches."""

    status: str
    owner: str | None
    cursors: list[str | None] = field(default_factory=lambda: [None])
    next_cursor: str | None = None
    selected: dict[str, JobStatus] = field(default_factory=dict)

    def to_first_page(self) -> None:
        """Return to the first page, with nothing selected."""
        self.cursors = [None]
        self.selected.clear()


@dataclass(frozen=True)
class _ListSnapshot:
    """A page of searches. ``owners``: all of them for an administrator, otherwise none."""

    searches: tuple[SearchSchema, ...]
    next_cursor: str | None
    principal: PrincipalSchema
    owners: tuple[str, ...]


async def searches_page(client: Client, status: str, owner: str) -> None:
    """The list, refreshed while any search runs; ``status`` and ``owner`` filter."""
    await SearchList(client, status, owner).open()


class SearchList:
    """One open list."""

    def __init__(self, client: Client, status: str, owner: str) -> None:
        self._client = client
        self._state = _ListState(status if status in STATUSES else _ALL_STATUSES, owner or None)
        self._best: dict[tuple[str, int], str] = {}  # by search and last event: a finished front does not change
        self._rows: dict[str, MemoizedView[[SearchSchema, str, str, str]]] = {}
        self._statuses: dict[str, JobStatus] = {}
        self._principal: PrincipalSchema | None = None
        self._owners: tuple[str, ...] = ()

    async def open(self) -> None:
        """Draw the page and keep it up to date."""
        state = self._state
        with page_layout(self._client, "Searches", "/") as shell:
            with div("flow"):
                heading("Searches").classes("grow")
                ui.button("New search", icon="add", on_click=lambda: ui.navigate.to("/submit")).props(
                    "no-caps unelevated"
                )
            with div("flow"):
                statuses = ui.toggle([_ALL_STATUSES, *STATUSES], value=state.status).props(
                    "no-caps unelevated dense padding='4px 12px' toggle-color=primary aria-label='filter by status'"
                )
                self._owner_box = div("part")
            self._selection = MemoizedView(self._draw_selection)
            self._problem = problem_view("The service refused")
            self._actions = ActionBar(self._client, shell, self._after_action, self._problem.show)
            self._listing = MemoizedView(self._draw_list)
            with div("flow") as pager:
                newer = ui.button("Newer", icon="chevron_left", on_click=self._newer).props("flat no-caps")
                page_number = text("", "small muted num")
                older = ui.button("Older", on_click=self._older).props("flat no-caps icon-right=chevron_right")
            pager.set_visibility(False)

            def draw(snapshot: _ListSnapshot) -> None:
                self._show(snapshot)
                pager.set_visibility(snapshot.next_cursor is not None or len(state.cursors) > 1)
                newer.set_enabled(len(state.cursors) > 1)
                older.set_enabled(snapshot.next_cursor is not None)
                page_number.text = f"Page {len(state.cursors)}"

            async def select_status() -> None:
                state.status = statuses.value
                await self._restart()

            statuses.on_value_change(select_status)
            self._poller = Poller(shell, self._fetch, draw, self._is_active)
            await self._poller.start()

    def _fetch(self) -> _ListSnapshot:
        state, client = self._state, self._client
        if self._principal is None:
            self._principal = client.me()
            self._owners = tuple(q.owner for q in client.quotas()) if "admin" in self._principal.scopes else ()
        status = None if state.status == _ALL_STATUSES else state.status
        page = client.searches(status=status, limit=_PAGE_SIZE, cursor=state.cursors[-1], owner=state.owner)
        for search in [s for s in page.items if self._needs_front(s)][:_FRONTS_PER_REFRESH]:
            self._best[search.id, search.last_event] = best_quality(client.front(search.id))
        return _ListSnapshot(tuple(page.items), page.next, self._principal, self._owners)

    def _is_active(self, snapshot: _ListSnapshot) -> bool:
        return any(formatting.is_moving(s) or self._needs_front(s) for s in snapshot.searches)

    def _needs_front(self, search: SearchSchema) -> bool:
        return search.status == "succeeded" and (search.id, search.last_event) not in self._best

    def _show(self, snapshot: _ListSnapshot) -> None:
        state = self._state
        state.next_cursor = snapshot.next_cursor
        if len(snapshot.owners) > 1 and not self._owner_box.default_slot.children:
            with self._owner_box:
                ui.select(
                    [_ALL_OWNERS, *snapshot.owners],
                    value=state.owner if state.owner in snapshot.owners else _ALL_OWNERS,
                    label="Owner",
                    on_change=lambda e: self._select_owner(e.value),
                ).props("outlined dense options-dense").classes("owner")
        self._statuses = {s.id: s.status for s in snapshot.searches}
        state.selected = {i: self._statuses[i] for i in state.selected if i in self._statuses}
        self._listing.show(tuple(self._statuses), may_submit(snapshot.principal))
        now = datetime.now(UTC)
        for search in snapshot.searches:
            owner = "" if search.owner == snapshot.principal.owner else search.owner
            best = self._best.get((search.id, search.last_event), "")
            self._rows[search.id].show(search, formatting.age(search.created_at, now), best, owner)
        self._selection.show(dict(state.selected))

    async def _restart(self) -> None:
        state = self._state
        state.to_first_page()
        filters = {"status": state.status if state.status != _ALL_STATUSES else None, "owner": state.owner}
        query = urlencode({k: v for k, v in filters.items() if v is not None})
        ui.navigate.history.replace(f"/?{query}" if query else "/")
        await self._poller.refresh()

    async def _select_owner(self, owner: str) -> None:
        self._state.owner = None if owner == _ALL_OWNERS else owner
        await self._restart()

    async def _older(self) -> None:
        if self._state.next_cursor is not None:
            self._state.cursors.append(self._state.next_cursor)
            self._state.selected.clear()
            await self._poller.refresh()

    async def _newer(self) -> None:
        if len(self._state.cursors) > 1:
            self._state.cursors.pop()
            self._state.selected.clear()
            await self._poller.refresh()

    async def _after_action(self, _: Action) -> None:
        self._state.selected.clear()
        self._listing.invalidate()
        await self._poller.refresh()

    def _select(self, search_id: str, is_selected: bool) -> None:
        selected = self._state.selected
        selected.pop(search_id, None)
        if is_selected:
            selected[search_id] = self._statuses[search_id]
        self._selection.show(dict(selected))

    def _draw_selection(self, selected: dict[str, JobStatus]) -> None:
        if not selected:
            return
        with div("card flow selection"):
            text(f"{len(selected)} selected", "strong grow")
            if 2 <= len(selected) <= MOST_SEARCHES:
                ui.button(
                    "Compare", icon="compare_arrows", on_click=lambda: ui.navigate.to(searches_url(selected))
                ).props("outline no-caps")
            self._actions.draw(selected)

    def _draw_list(self, ids: tuple[str, ...], is_selectable: bool) -> None:
        self._rows.clear()
        if not ids:
            _draw_empty(self._state.status, self._state.owner)
            return
        line_class = "line markable" if is_selectable else "line"
        with div("card flush"):
            with div(line_class):
                if is_selectable:
                    div()
                with div("lrow head"):
                    for name in ("Search", "Progress", "Front", "Verified", "Hypervolume", "Created"):
                        text(name)
            for i in ids:
                with div(line_class):
                    if is_selectable:
                        self._draw_checkbox(i)
                    self._rows[i] = MemoizedView(draw_row)

    def _draw_checkbox(self, search_id: str) -> None:
        is_selected = search_id in self._state.selected
        ui.checkbox(value=is_selected, on_change=lambda e: self._select(search_id, e.value)).props(
            'dense aria-label="select this search"'
        )


def _draw_empty(status: str, owner: str | None) -> None:
    with div("card empty"):
        if status != _ALL_STATUSES or owner is not None:
            of_owner = "" if owner is None else f" of {owner}"
            heading(f"No {'' if status == _ALL_STATUSES else status + ' '}searches{of_owner}", 2)
            ui.link("Show all searches", "/")
            return
        heading("No searches yet", 2)
        text("Two commands to begin: measure this machine, then search for architectures that are fast on it.", "muted")
        code_block(FIRST_STEPS)
        ui.button("Fill in a form instead", on_click=lambda: ui.navigate.to("/submit")).props("no-caps unelevated")
