"""The header of a search's page: its name and status, its owner, and its actions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nicegui import ui

from nas.client import Client
from nas.core.lifecycle import JobStatus
from nas.core.spoken_names import spoken_name
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.actions import Action, ActionBar
from server.dashboard.dialogs import priority_dialog
from server.dashboard.elements import badge, breadcrumbs, div, heading, text
from server.dashboard.layout import PageShell
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.permissions import may_submit
from server.dashboard.search.fork_dialog import can_fork, fork_dialog
from server.dashboard.search.view_model import RelatedSearch, SearchSnapshot
from server.dashboard.service_calls import call_service


@dataclass(frozen=True)
class _HeaderState:
    """What the header depends on. It is drawn again when one of these changes, so that no button moves under a
    click."""

    status: JobStatus
    priority: int
    attempts: int
    can_fork: bool
    may_submit: bool
    parent: RelatedSearch | None


class SearchHeader:
    """Title, facts and actions. ``refresh`` reads the search again."""

    def __init__(self, client: Client, shell: PageShell, refresh: Callable[[], Awaitable[None]]) -> None:
        self._client, self._shell, self._refresh = client, shell, refresh
        self._search: SearchSchema | None = None
        self._view = MemoizedView(self._draw)
        self._problem = problem_view("The service refused")
        self._actions = ActionBar(client, shell, self._after_action, self._problem.show)

    def show(self, snapshot: SearchSnapshot) -> None:
        """Draw the header of a search."""
        search = self._search = snapshot.search
        allowed = may_submit(snapshot.principal)
        self._view.show(
            _HeaderState(search.status, search.priority, search.attempts, can_fork(search), allowed, snapshot.parent)
        )

    def _draw(self, state: _HeaderState) -> None:
        search = self._search
        assert search is not None
        breadcrumbs(("Searches", "/"), (search.spec.name, ""))
        with div("flow").style("margin-top: .35rem"):
            heading(search.spec.name)
            badge(search.status)
            div("grow")
            if state.may_submit:
                self._draw_actions(search, state.can_fork)
        with div("flow small muted").style("margin-top: .4rem"):
            text(spoken_name(search.id), "spoken", "span")
            text(search.id, "mono", "span")
            text(f"{search.spec.strategy.name} in {search.spec.space.name} on {search.spec.data.name}", tag="span")
            for name in search.spec.devices:
                ui.link(f"device {name}", f"/devices/{name}")
            if search.fleet:
                worst_case = None in search.spec.views
                text("one front, for the worst case" if worst_case else "a front for each device", tag="span")
            text(f"created {formatting.age(search.created_at, datetime.now(UTC))}", tag="span")
            text(f"owner {search.owner}", tag="span")
            self._draw_priority(search, state.may_submit)
            if search.attempts > 1:
                text(f"attempt {search.attempts}", tag="span")
            if state.parent is not None:
                relation = "forked from" if search.parent else "on the supernet of"
                ui.link(f"{relation} {state.parent.name}", f"/searches/{state.parent.id}")

    def _draw_actions(self, search: SearchSchema, forkable: bool) -> None:
        if forkable:
            ui.button("Fork", icon="call_split", on_click=self._fork).props("outline no-caps").tooltip(
                "A new search on the same trained supernet"
            )
        if forkable and search.status == "succeeded":
            ui.button(
                "Reuse supernet", icon="content_copy", on_click=lambda: ui.navigate.to(f"/submit?supernet={search.id}")
            ).props("outline no-caps")
        self._actions.draw({search.id: search.status})

    def _draw_priority(self, search: SearchSchema, may_change: bool) -> None:
        if may_change and not formatting.is_over(search):
            ui.button(f"priority {search.priority}", icon="swap_vert", on_click=self._set_priority).props(
                'flat dense no-caps size=sm padding="0 4px" aria-label="change priority"'
            )
        elif search.priority:
            text(f"priority {search.priority}", tag="span")

    async def _after_action(self, action: Action) -> None:
        if action.verb == "delete":
            ui.navigate.to("/")
        else:
            await self._refresh()

    async def _fork(self) -> None:
        assert self._search is not None
        await fork_dialog(self._client, self._shell, self._search)

    async def _set_priority(self) -> None:
        search = self._search
        assert search is not None

        async def send(priority: int) -> None:
            await call_service(self._client.set_priority, search.id, priority)
            await self._refresh()

        with self._shell.content:
            priority_dialog(search.owner, search.priority, send)
