"""``/models``: the reader's models, and a form to add one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import shorten

from nicegui import ui

from nas.client import Client
from nas.schemas.user_models import UserModelSchema
from server.dashboard import formatting
from server.dashboard.elements import badge, div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.models.add_form import ModelForm
from server.dashboard.models.report_card import shape_text
from server.dashboard.polling import Poller

_LONGEST = 160  # characters of an error in the list


@dataclass(frozen=True)
class ModelsSnapshot:
    """The reader's models, and the names of data sets and of devices that measure."""

    models: list[UserModelSchema]
    data_sets: tuple[str, ...]
    devices: tuple[str, ...]


async def models_page(client: Client) -> None:
    """All models, and a form to add one."""

    def fetch() -> ModelsSnapshot:
        devices = (d.name for d in client.devices() if d.profile is not None and d.profile.measurable)
        names = (*client.datasets(), *(data.name for data in client.data_sets()))
        return ModelsSnapshot(client.models(), names, tuple(devices))

    with page_layout(client, "Models", "/models") as shell:
        heading("Models")
        text(
            "A model is a trained network of yours. A search over it finds smaller versions that meet a latency on a "
            "device.",
            "muted",
        )
        listing = MemoizedView(_draw_models)
        form = ModelForm(client)
        offer = MemoizedView(form.offer)

        def draw(snapshot: ModelsSnapshot) -> None:
            listing.show(snapshot.models)
            offer.show(snapshot.data_sets, snapshot.devices)

        def is_active(snapshot: ModelsSnapshot) -> bool:
            return any(formatting.is_moving(model) for model in snapshot.models)

        await Poller(shell, fetch, draw, is_active).start()


def _draw_models(models: list[UserModelSchema]) -> None:
    if not models:
        with div("card empty"):
            heading("No models yet", 2)
            text("Add one with the form below.", "muted")
        return
    with div("card flush"):
        for model in models:
            with ui.link(target=f"/models/{model.name}").classes("lrow"):
                _draw_model(model)


def _draw_model(model: UserModelSchema) -> None:
    with div():
        with div("flow"):
            text(model.name, "name", "span")
            badge(model.status)
        text(f"{model.spec.source.label}; owner {model.owner}", "small muted")
    with div("small"):
        if model.error:
            text(shorten(model.error.splitlines()[0], _LONGEST, placeholder=" …")).style("color: var(--c-bad)")
        elif model.status == "queued":
            text(model.waiting or "waiting for a worker", "muted")
        elif model.finished_at is not None:
            text(f"added {formatting.age(model.finished_at, datetime.now(UTC))}", "muted")
    summary = model.summary
    if summary is None:
        return
    with div("small num").style("grid-column: span 2"):
        text(f"{formatting.count(summary.parameters)} parameters")
        if summary.input_shape is not None:
            text(shape_text(summary.input_shape), "muted")
    with div("small num").style("grid-column: span 2"):
        text(f"{formatting.counted(summary.groups, 'group')} may be narrowed")
        text(f"{formatting.counted(summary.blocks, 'block')} may be skipped", "muted")
