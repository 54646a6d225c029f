"""``/data``: the reader's data sets, and forms to upload one and to name one that lies on the service's machine."""

from __future__ import annotations

from datetime import UTC, datetime

from nicegui import ui

from nas.client import Client
from nas.schemas.named_data import NamedDataSchema
from server.dashboard import formatting
from server.dashboard.data_sets.add_form import DataForm
from server.dashboard.elements import div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller


async def data_sets_page(client: Client) -> None:
    """All data sets, and a form to add one."""
    with page_layout(client, "Data", "/data") as shell:
        heading("Data")
        text(
            "A data set is added once and named in searches. What becomes of each of its images is told at once.",
            "muted",
        )
        listing = MemoizedView(_draw_list)
        DataForm(client)
        await Poller(shell, client.data_sets, listing.show, lambda _: False).start()


def _draw_list(data_sets: list[NamedDataSchema]) -> None:
    if not data_sets:
        with div("card empty"):
            heading("No data sets yet", 2)
            text("Upload a zip file of images in folders of their classes with the form below.", "muted")
        return
    with div("card flush"):
        for data in data_sets:
            with ui.link(target=f"/data/{data.name}").classes("lrow"):
                _draw_row(data)


def _draw_row(data: NamedDataSchema) -> None:
    with div():
        text(data.name, "name", "span")
        text(f"{data.data.name}; owner {data.owner}", "small muted")
    with div("small"):
        text(f"checked {formatting.age(data.checked_at, datetime.now(UTC))}", "muted")
    with div("small num").style("grid-column: span 2"):
        text(f"{formatting.count(data.account.inputs)} images" if data.account is not None else "not read in full")
        text(pixels_text(data), "muted")
    with div("small num").style("grid-column: span 2"):
        text(formatting.counted(data.shape.classes, "class", "classes"))
        if data.account is not None and data.account.skipped_count:
            text(f"{data.account.skipped_count} skipped", "muted")


def pixels_text(data: NamedDataSchema) -> str:
    """The size of the images."""
    kind = "grey" if data.shape.channels == 1 else "colour"
    return f"{data.shape.width} x {data.shape.height}, {kind}"
