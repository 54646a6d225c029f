"""``/data/{name}``: one data set with the account of its images, its classes, and a picture of them."""

from __future__ import annotations

import base64
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nicegui import ui

from nas.client import Client
from nas.core.access import Principal
from nas.core.errors import HwnasError
from nas.schemas.named_data import DataCheckSchema, NamedDataSchema
from server.dashboard.data_sets.list_page import pixels_text
from server.dashboard.dialogs import confirm
from server.dashboard.elements import breadcrumbs, definition_list, div, heading, notice, text
from server.dashboard.layout import PageShell, page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller
from server.dashboard.search.data_card import draw_data
from server.dashboard.service_calls import call_service


@dataclass(frozen=True)
class DataSnapshot:
    """A data set, a picture of its images, and whether the reader may change it."""

    data: NamedDataSchema
    samples_png: bytes
    may_change: bool


async def data_set_page(client: Client, name: str) -> None:
    """One data set."""

    def fetch() -> DataSnapshot:
        data, me = client.data_set(name), client.me()
        reader = Principal(me.owner, frozenset(me.scopes))
        may_change = reader.has_scope("submit") and reader.may_change(data.owner)
        return DataSnapshot(data, client.data_samples(name) if data.samples else b"", may_change)

    with page_layout(client, name, "/data") as shell:
        refused = problem_view("Searches would refuse it")
        actions = DataActions(client, shell, name, refused, lambda: poller.refresh())
        header = MemoizedView(functools.partial(_draw_header, actions))
        content = MemoizedView(_draw_content, "stack")

        def draw(snapshot: DataSnapshot) -> None:
            header.show(snapshot.data, snapshot.may_change)
            content.show(snapshot.data, snapshot.samples_png)

        poller = Poller(shell, fetch, draw, lambda _: False)
        await poller.start()


class DataActions:
    """What the owner can do with a data set. ``refresh`` reads the service again."""

    def __init__(
        self,
        client: Client,
        shell: PageShell,
        name: str,
        refused: MemoizedView[[str | None]],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._client, self._shell, self._name, self._refused = client, shell, name, refused
        self._refresh = refresh

    def draw(self) -> None:
        """The buttons."""
        ui.button("Check again", icon="fact_check", on_click=self._check).props("outline no-caps")
        ui.button("Delete", icon="delete_outline", on_click=self._delete).props("outline no-caps color=negative")

    async def _check(self) -> None:
        with self._shell.content:
            try:
                result = await call_service(self._client.check_data, self._name)
            except HwnasError as error:
                ui.notify(str(error), type="negative", multi_line=True)
                return
            self._refused.show("\n".join(result.problems) or None)
            ui.notify(_verdict(result), type="warning" if result.problems or result.changed else "positive")
        await self._refresh()

    async def _delete(self) -> None:
        with self._shell.content:
            warning = "The name is removed, and what was uploaded for it unless a search has read it."
            if not await confirm(f"Delete data set {self._name}?", warning, "Delete data set"):
                return
            try:
                await call_service(_delete, self._client, self._name)
            except HwnasError as error:
                ui.notify(str(error), type="negative", multi_line=True)
                return
            ui.navigate.to("/data")


def _delete(client: Client, name: str) -> bool:
    client.delete_data(name)
    return True


def _verdict(result: DataCheckSchema) -> str:
    if result.problems:
        return "Searches would refuse it"
    return {True: "It has changed", False: "It is unchanged", None: "It was read in part only"}[result.changed]


def _draw_header(actions: DataActions, data: NamedDataSchema, may_change: bool) -> None:
    breadcrumbs(("Data", "/data"), (data.name, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(data.name)
        div("grow")
        if may_change:
            actions.draw()
    text(f"{data.data.name}; owner {data.owner}", "small muted")


def _draw_content(data: NamedDataSchema, samples_png: bytes) -> None:
    with div("card stack"):
        heading("Source", 2)
        params = ", ".join(f"{key}={value}" for key, value in data.data.params.items())
        rows = [("Path", data.data.path or "part of the installation"), ("Task", data.data.task)]
        definition_list([*rows, ("Images", pixels_text(data)), ("Parameters", params or "none")])
    if data.incomplete:
        notice("info", "Not read in full", data.incomplete)
    draw_data(data.account)
    if samples_png:
        with div("card stack"):
            heading("Images", 2)
            text("Training images, a row for each of the first classes.", "small muted")
            picture = ui.element("img").props(f'alt="Training images of data set {data.name}"')
            picture.props(f"src=data:image/png;base64,{base64.b64encode(samples_png).decode()}").style(
                "max-width: 100%"
            )
