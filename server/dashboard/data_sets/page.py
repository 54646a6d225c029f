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
from server.dashboard.actions import DATA_SETS, Action, ActionBar
from server.dashboard.data_sets.list_page import pixels_text
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
        refused = problem_view("The service refused")
        actions = ActionBar(client, shell, _leave, refused.show, DATA_SETS)
        unusable = problem_view("Searches would refuse it")

        async def check() -> None:
            await _check(client, shell, name, unusable.show)
            await poller.refresh()

        header = MemoizedView(functools.partial(_draw_header, actions, check))
        content = MemoizedView(_draw_content, "stack")

        def draw(snapshot: DataSnapshot) -> None:
            header.show(snapshot.data, snapshot.may_change)
            content.show(snapshot.data, snapshot.samples_png)

        poller = Poller(shell, fetch, draw, lambda _: False)
        await poller.start()


async def _leave(_: Action) -> None:
    ui.navigate.to("/data")


async def _check(client: Client, shell: PageShell, name: str, show_refusal: Callable[[str | None], None]) -> None:
    """Read the data set again, and say what has become of it."""
    with shell.content:
        try:
            checked = await call_service(client.check_data, name)
        except HwnasError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        show_refusal("\n".join(checked.problems) or None)
        ui.notify(_verdict(checked), type="warning" if checked.problems or checked.changed else "positive")


def _verdict(result: DataCheckSchema) -> str:
    if result.problems:
        return "Searches would refuse it"
    return {True: "It has changed", False: "It is unchanged", None: "It was read in part only"}[result.changed]


def _draw_header(
    actions: ActionBar, check: Callable[[], Awaitable[None]], data: NamedDataSchema, may_change: bool
) -> None:
    breadcrumbs(("Data", "/data"), (data.name, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(data.name)
        div("grow")
        if may_change:
            ui.button("Check again", icon="fact_check", on_click=check).props("outline no-caps")
            actions.draw({data.name: None})
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
