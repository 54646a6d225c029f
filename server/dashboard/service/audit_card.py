"""The audit trail for administrators: who did what, and when."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from nas.client import Client
from nas.schemas.administration import AuditPage, AuditRecordSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text
from server.dashboard.memoized_view import MemoizedView

_STEP = 15  # records on a page
_SEARCH = re.compile("[0-9a-f]{32}")
_EVERYBODY = "everybody"


class AuditCard:
    """Pages of the trail, of everybody or one owner. ``refresh`` looks at the service again."""

    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        self._refresh = refresh
        self._owner: str | None = None
        self._cursors: list[str | None] = [None]
        self._part = MemoizedView(self._draw)

    def fetch(self, client: Client) -> AuditPage:
        """The chosen page."""
        return client.audit(_STEP, self._cursors[-1], self._owner)

    def show(self, page: AuditPage, owners: tuple[str, ...]) -> None:
        """Draws a page; ``owners`` may be chosen from."""
        self._part.show(page, owners, self._owner, len(self._cursors))

    def _draw(self, page: AuditPage, owners: tuple[str, ...], owner: str | None, number: int) -> None:
        with div("card stack audit"):
            with div("flow"):
                heading("Audit trail", 2).classes("grow")
                ui.select(
                    [_EVERYBODY, *owners],
                    value=owner or _EVERYBODY,
                    label="Owner",
                    on_change=lambda e: self._choose(e.value),
                ).props("outlined dense options-dense").classes("owner")
            if not page.items:
                text("Nothing was done yet." if owner is None else f"{owner} did nothing yet.", "muted")
                return
            with div("scroll"), div("plain", "table"):
                with div("", "tr"):
                    for name in ("When", "Who", "Did", "To", "From"):
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

    async def _choose(self, owner: str) -> None:
        self._owner = None if owner == _EVERYBODY else owner
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
            if _SEARCH.fullmatch(record.target) and "delete" not in record.action:
                ui.link(record.target[:12], f"/searches/{record.target}").classes("mono small")
            else:
                text(record.target, "mono small")
            if record.detail:
                text(_detail(record.detail), "small muted")
        text(record.address or formatting.MISSING, "small muted", "td")


def _detail(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in detail.items() if value is not None)
