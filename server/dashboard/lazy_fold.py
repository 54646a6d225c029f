"""A folded part of a page whose content is read when its reader opens it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import events

from nas.core.errors import HwnasError
from server.dashboard.elements import div, notice, text


class LazyFold:
    """``draw`` reads the service and fills ``body``; an error of the service is shown in place of its content, under
    ``missing``. It is called at each opening, and by ``redraw``."""

    def __init__(self, title: str, draw: Callable[[], Awaitable[None]], missing: str = "Nothing to show yet") -> None:
        self._draw, self._missing = draw, missing
        self.is_open = False
        with div("fold", "details") as fold:
            text(title, tag="summary")
            self.body = div("stack")
        fold.on("toggle", self._toggle, js_handler="(event) => emit(event.target.open)")

    async def redraw(self) -> None:
        """Draw again."""
        try:
            await self._draw()
        except HwnasError as error:
            self.body.clear()
            with self.body:
                notice("info", self._missing, str(error))

    async def _toggle(self, event: events.GenericEventArguments) -> None:
        self.is_open = bool(event.args)
        if self.is_open:
            await self.redraw()
