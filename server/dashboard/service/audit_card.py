"""The audit trail for administrators: every action with its time, principal and target."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from nicegui import ui

from nas.client import Client
from nas.schemas.administration import AuditPage, AuditRecordSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text
from server.dashboard.memoized_view import MemoizedView

_PAGE_SIZE = 15
_SEARCH_ID = re.compile("[0-9a-f]{32}")
_ALL_OWNERS = "all owners"


class AuditCard:
    """Pages of the trail, of all owners or one. ``refresh`` reads the service again."""

    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        self._refresh = refresh
        self._owner: str | None = None
        self._cursors: list[str | None] = [None]
        self._view = MemoizedView(self._draw)

    def fetch(self, client: Client) -> AuditPage:
        """The present page, for the selected owner."""
        return client.audit(_PAGE_SIZE, self._cursors[-1], self._owner)

    def show(self, page: AuditPage, owners: tuple[str, ...]) -> None:
        """Draw a page; ``owners`` can be selected."""
        self._view.show(page, owners, self._owner, len(self._cursors))

    def _draw(self, page: AuditPage, owners: tuple[str, ...], owner: str | None, number: int) -> None:
        with div("card stack audit"):
            with div("flow"):
                heading("Audit trail", 2).classes("grow")
                ui.select(
                    [_ALL_OWNERS, *owners],
                    value=owner or _ALL_OWNERS,
                    label="Owner",
                    on_change=lambda e: self._select_owner(e.value),
                ).props("outlined dense options-dense").classes("owner")
            if not page.items:
                text("No actions yet." if owner is None else f"No actions of {owner} yet.", "muted")
                return
            with div("scroll"), div("plain", "table"):
                with div("", "tr"):
                    for name in ("Time", "Owner", "Action", "Target", "Address"):
                        text(name, tag="th")
                for record in page.items:
                    _draw_record(record)
            if page.next is not None or number > 1:
                with div("flow"):
                    newer = ui.button("Newer", icon="chevron_left", on_click=self._newer).props("flat no-caps")
                    newer.set_enabled(number > 1)
                    text(f"Page {number}", "small muted num")
                    older = ui.button("Older", on_click=lambda: self._older(page)).props(
                        "flat no-caps icon-right=chevron_right"
                    )
                    older.set_enabled(page.next is not None)

    async def _select_owner(self, owner: str) -> None:
        self._owner = None if owner == _ALL_OWNERS else owner
        self._cursors = [None]
        await self._refresh()

    async def _older(self, page: AuditPage) -> None:
        self._cursors.append(page.next)
        await self._refresh()

    async def _newer(self) -> None:
        self._cursors.pop()
        await self._refresh()


def _draw_record(record: AuditRecordSchema) -> None:
    with div("", "tr"):
        text(formatting.moment(record.at), "num whole", "td")
        with div("", "td"):
            text(record.owner)
            if record.token:
                text(f"token {record.token}", "small muted mono")
        text(record.action, tag="td")
        with div("", "td"):
            if _SEARCH_ID.fullmatch(record.target) and "delete" not in record.action:
                ui.link(record.target[:12], f"/searches/{record.target}").classes("mono small")
            else:
                text(record.target, "mono small")
            if record.detail:
                text(_detail(record.detail), "small muted")
        text(record.address or formatting.MISSING, "small muted", "td")


def _detail(detail: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in detail.items() if value is not None)
