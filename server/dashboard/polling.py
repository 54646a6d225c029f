"""Pages that refresh themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from nicegui import Client as Page
from nicegui import background_tasks, ui

from nas.core.errors import HwnasError, NotFound
from server.dashboard.elements import div
from server.dashboard.layout import PageShell
from server.dashboard.service_calls import call_service

T = TypeVar("T")

ACTIVE_S, IDLE_S = 1.5, 8.0  # seconds between two refreshes while something runs, and otherwise
_SKELETON_AFTER_S = 0.7  # a slower first fetch shows a skeleton


class Poller(Generic[T]):
    """Fetch in a thread and draw, at once and then periodically: every ``active_s`` while the result ``is_active``.

    ``draw`` runs in the page's context and changes only what has changed. Create the poller after the page's elements
    and handlers, then ``await poller.start()`` last: a fast fetch makes the first paint complete, a slow one shows a
    skeleton first.
    """

    def __init__(
        self,
        shell: PageShell,
        fetch: Callable[[], T],
        draw: Callable[[T], None],
        is_active: Callable[[T], bool],
        active_s: float = ACTIVE_S,
    ) -> None:
        self._shell, self._fetch, self._draw, self._is_active = shell, fetch, draw, is_active
        self._page: Page = ui.context.client
        self._skeleton = div("stack").props('aria-label="loading" role="status"')
        with self._skeleton:
            for _ in range(3):
                div("skeleton")
        self._active_s = self._interval_s = active_s
        self._timer: ui.timer | None = None
        self._not_found = False
        self._refreshing = asyncio.Lock()

    async def start(self) -> None:
        """Fetch and draw for the first time, waiting a moment at most, then refresh periodically.

        Raises the errors of ``draw``, so that a broken page is an error and not a skeleton.
        """
        first = background_tasks.create(self.refresh(), name="first fetch")
        await asyncio.wait({first}, timeout=_SKELETON_AFTER_S)
        if first.done():
            first.result()
        if not self._not_found:  # a timer sends the page to the browser, so it comes last
            self._timer = ui.timer(self._interval_s, self.refresh, immediate=False)

    async def refresh(self) -> None:
        """Fetch and draw now."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            view = await call_service(self._fetch)
        except NotFound as error:
            self._not_found = True
            if self._timer is not None:
                self._timer.cancel()
            if not self._page.is_deleted:
                self._shell.show_not_found(str(error))
            return
        except HwnasError as error:
            if not self._page.is_deleted:
                self._skeleton.set_visibility(False)
                self._shell.show_problem(str(error))
            return
        if self._page.is_deleted:
            return
        with self._shell.content:
            self._shell.show_problem(None)
            self._skeleton.set_visibility(False)
            self._draw(view)
            self._interval_s = self._active_s if self._is_active(view) else IDLE_S
            if self._timer is not None:
                self._timer.interval = self._interval_s
