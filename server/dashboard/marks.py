"""Stars and notes on searches and candidates, to look at and to change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError
from nas.schemas.marks import MarkBody, MarkSchema
from server.dashboard.dialogs import dialog_buttons
from server.dashboard.elements import div, heading, text
from server.dashboard.service_calls import call_service

NO_MARK = MarkBody()


def mark_of(marks: Iterable[MarkSchema], arch: str | None) -> MarkBody:
    """The mark of a candidate, or of the search itself (None)."""
    return next((mark for mark in marks if mark.arch == arch), NO_MARK)


class MarkEditor:
    """A star to toggle and a note to write. ``changed`` is called after the service has stored a change."""

    def __init__(
        self,
        client: Client,
        search_id: str,
        arch: str | None,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._client, self._search_id, self._arch, self._changed = client, search_id, arch, changed
        self._mark = NO_MARK
        with div("flow marks") as self._box:
            self._star = ui.button(on_click=self._toggle).props("flat round dense size=sm")
            self._note = ui.button("Note", icon="edit_note", on_click=self._open).props("flat dense no-caps size=sm")
            self._text = text("", "note", "span")
        self._draw()

    def show(self, mark: MarkBody, *, editable: bool = True) -> None:
        """Draw a mark, if it is another one. ``editable``: whether the reader may change it."""
        for button in (self._star, self._note):
            button.set_enabled(editable)
        if (mark.starred, mark.note) != (self._mark.starred, self._mark.note):
            self._mark = MarkBody(starred=mark.starred, note=mark.note)
            self._draw()

    def _draw(self) -> None:
        starred = self._mark.starred
        label = "remove the star" if starred else "star"
        self._star.props(
            f'icon={"star" if starred else "star_border"} aria-label="{label}" '
            f'aria-pressed="{str(starred).lower()}" color={"amber-9" if starred else "grey-7"}'
        )
        self._text.set_text(self._mark.note)
        self._text.set_visibility(bool(self._mark.note))

    async def _toggle(self) -> None:
        try:
            await self._send(self._mark.model_copy(update={"starred": not self._mark.starred}))
        except HwnasError as error:
            ui.notify(str(error), type="negative")

    def _open(self) -> None:
        with self._box, ui.dialog() as dialog, div("card stack"):
            heading("Note", 2)
            note = ui.textarea("Note", value=self._mark.note).props("outlined autogrow maxlength=4000")

            async def send() -> None:
                await self._send(self._mark.model_copy(update={"note": note.value or ""}))

            dialog_buttons(dialog, "Save", send)
        dialog.open()

    async def _send(self, body: MarkBody) -> None:
        stored = await call_service(self._client.set_mark, self._search_id, body, self._arch)
        self.show(stored)
        if self._changed is not None:
            await self._changed()
