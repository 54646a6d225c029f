"""The head of a search's page: its name and state, whose it is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nicegui import ui

from nas.client import Client
from nas.core.access import Principal
from nas.core.lifecycle import JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.dialogs import ending
from server.dashboard.elements import badge, breadcrumbs, div, heading, text
from server.dashboard.layout import PageShell
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.search.fork_dialog import can_fork, fork_dialog
from server.dashboard.search.view_model import Relative, Shown
from server.dashboard.search_actions import Action, ActionBar
from server.dashboard.service_calls import call_service


def may_submit(me: PrincipalSchema) -> bool:
    """Whether the reader may change searches."""
    return Principal(me.owner, frozenset(me.scopes)).may("submit")


@dataclass(frozen=True)
class _Shown:
    """What the head depends on: it is drawn again when one of these has changed, so no click meets a moving button."""

    status: JobStatus
    priority: int
    attempts: int
    forkable: bool
    allowed: bool
    parent: Relative | None


class Head:
    """Title, facts and actions. ``refresh`` looks at the search again."""

    def __init__(self, client: Client, shell: PageShell, refresh: Callable[[], Awaitable[None]]) -> None:
        self._client, self._shell, self._refresh = client, shell, refresh
        self._search: SearchSchema | None = None
        self._part = MemoizedView(self._draw)
        self._trouble = problem_view("The service refused")
        self._bar = ActionBar(client, shell, self._acted, self._trouble.show)

    def show(self, shown: Shown) -> None:
        """Draws the head of what the page shows."""
        s = self._search = shown.search
        self._part.show(
            _Shown(s.status, s.priority, s.attempts, can_fork(s), may_submit(shown.me), shown.parent),
        )

    def _draw(self, shown: _Shown) -> None:
        search = self._search
        assert search is not None
        breadcrumbs(("Searches", "/"), (search.spec.name, ""))
        with div("flow").style("margin-top: .35rem"):
            heading(search.spec.name)
            badge(search.status)
            div("grow")
            if shown.allowed:
                self._draw_actions(search, shown.forkable)
        with div("flow small muted").style("margin-top: .4rem"):
            text(search.id, "mono", "span")
            text(f"{search.spec.strategy.name} in {search.spec.space.name} on {search.spec.data.name}", tag="span")
            for name in search.spec.devices:
                ui.link(f"device {name}", f"/devices/{name}")
            if search.fleet:
                shared = None in search.spec.views
                text("one front, for the worst case" if shared else "a front for each device", tag="span")
            text(f"created {formatting.age(search.created_at, datetime.now(UTC))}", tag="span")
            text(f"owner {search.owner}", tag="span")
            self._draw_priority(search, shown.allowed)
            if search.attempts > 1:
                text(f"attempt {search.attempts}", tag="span")
            if shown.parent is not None:
                what = "forked from" if search.parent else "on the supernet of"
                ui.link(f"{what} {shown.parent.name}", f"/searches/{shown.parent.id}")

    def _draw_actions(self, search: SearchSchema, forkable: bool) -> None:
        if forkable:
            ui.button("Fork", icon="call_split", on_click=self._fork).props("outline no-caps").tooltip(
                "A new search on the same trained supernet"
            )
        if forkable and search.status == "succeeded":
            ui.button(
                "Reuse supernet", icon="content_copy", on_click=lambda: ui.navigate.to(f"/submit?supernet={search.id}")
            ).props("outline no-caps")
        self._bar.draw({search.id: search.status})

    def _draw_priority(self, search: SearchSchema, allowed: bool) -> None:
        if allowed and not formatting.is_over(search):
            ui.button(f"priority {search.priority}", icon="swap_vert", on_click=self._prioritise).props(
                'flat dense no-caps size=sm padding="0 4px" aria-label="change priority"'
            )
        elif search.priority:
            text(f"priority {search.priority}", tag="span")

    async def _acted(self, action: Action) -> None:
        if action.verb == "delete":
            ui.navigate.to("/")
        else:
            await self._refresh()

    async def _fork(self) -> None:
        assert self._search is not None
        await fork_dialog(self._client, self._shell, self._search)

    async def _prioritise(self) -> None:
        search = self._search
        assert search is not None
        with self._shell.content:
            with ui.dialog() as dialog, div("card stack"):
                heading("Priority", 2)
                text(
                    f"Among the searches of {search.owner}, higher goes first; others are not affected.", "muted small"
                )
                number = ui.number("From -100 to 100", value=search.priority, min=-100, max=100, precision=0)
                number.props("outlined dense")

                async def send() -> None:
                    await call_service(self._client.set_priority, search.id, int(number.value or 0))
                    await self._refresh()

                ending(dialog, "Set priority", send)
            dialog.open()
