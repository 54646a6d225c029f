"""The log of a search, read when its reader opens it and while it stays open."""

from __future__ import annotations

from html import escape

from nicegui import events, ui

from nas.client import Client
from nas.core.errors import HwnasError
from nas.schemas.jobs import LogLine
from server.dashboard.elements import div, text
from server.dashboard.polling import ACTIVE_S
from server.dashboard.service_calls import call_service

_SHOWN = 2000  # lines; the newest


class LogCard:
    """A folded card. ``nas logs`` prints the same."""

    def __init__(self, client: Client, search_id: str) -> None:
        self._client, self._search_id = client, search_id
        self._last, self._lines = 0, list[LogLine]()
        with div("card"), div("fold", "details") as fold:
            text("Log", tag="summary")
            self._problem = text("", "small").style("color: var(--c-bad)")
            self._body = div("code log mono", "pre").props('tabindex="0" role="log" aria-label="log of the search"')
            with self._body:
                self._html = ui.html("", sanitize=False)
        self._timer: ui.timer | None = None  # one from the start would send the page before it is drawn
        fold.on("toggle", self._toggle, js_handler="(event) => emit(event.target.open)")

    async def _toggle(self, event: events.GenericEventArguments) -> None:
        is_open = bool(event.args)
        if self._timer is None and is_open:
            with self._body:
                self._timer = ui.timer(2 * ACTIVE_S, self._read, immediate=False)
        if self._timer is not None:
            self._timer.active = is_open
        if is_open:
            await self._read()

    async def _read(self) -> None:
        try:
            page = await call_service(self._client.logs, self._search_id, self._last)
        except HwnasError as error:
            self._problem.set_text(str(error))
            return
        self._problem.set_text("")
        self._last = page.last
        if page.items or not self._lines:
            self._lines = [*self._lines, *page.items][-_SHOWN:]
            self._html.set_content("".join(map(_line_html, self._lines)) or "Nothing has happened yet.")


def _line_html(line: LogLine) -> str:
    return f'<div class="log-{line.level}"><i>{line.at:%Y-%m-%d %H:%M:%S}</i>  {escape(line.text)}</div>'
