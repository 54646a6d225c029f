"""``/devices``: the machines that latency is measured on, and a form to add one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from nicegui import ui

from nas.client import Client
from nas.schemas.agents import AgentSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.service import SpaceSchema
from server.dashboard import formatting
from server.dashboard.devices.add_form import AddForm
from server.dashboard.devices.device_text import agent_text, processor_text, runtime_text
from server.dashboard.elements import badge, div, heading, progress_bar, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller

_REFRESH_S = 3.0


@dataclass(frozen=True)
class DevicesSnapshot:
    """All devices and agents, and what the form offers."""

    devices: list[DeviceSchema]
    agents: list[AgentSchema]
    spaces: list[SpaceSchema]
    datasets: list[str]
    models: list[str]
    runtimes: list[str]


async def devices_page(client: Client) -> None:
    """All devices, and a form to add one."""
    form: AddForm | None = None
    spaces: list[SpaceSchema] = []
    datasets: list[str] = []
    models: list[str] = []
    runtimes: list[str] = []
    address = str(ui.context.client.request.base_url).rstrip("/")

    def fetch() -> DevicesSnapshot:
        nonlocal spaces, datasets, models, runtimes
        if form is None:
            spaces = client.spaces()
            datasets = [*client.datasets(), *(data.name for data in client.data_sets())]
            runtimes = [runtime.name for runtime in client.runtimes() if runtime.name != "command"]
            models = [model.name for model in client.models() if model.summary is not None]
        return DevicesSnapshot(client.devices(), client.agents(), spaces, datasets, models, runtimes)

    with page_layout(client, "Devices", "/devices") as shell:
        heading("Devices")
        text(
            "A device is a machine with a measuring protocol. Adding one measures a few dozen architectures on it and "
            "fits a latency predictor, whose card reports its accuracy.",
            "muted",
        )
        listing = MemoizedView(_draw_devices)
        form_box = div()

        def draw(snapshot: DevicesSnapshot) -> None:
            nonlocal form
            listing.show(snapshot.devices)
            if form is None:
                with form_box:
                    form = AddForm(
                        client, address, snapshot.spaces, snapshot.datasets, snapshot.models, snapshot.runtimes
                    )
            form.show_agents(snapshot.agents)

        await Poller(shell, fetch, draw, lambda _: True, _REFRESH_S).start()


def _draw_devices(devices: list[DeviceSchema]) -> None:
    if not devices:
        with div("card empty"):
            heading("No devices yet", 2)
            text("Add one with the form below: about a minute of measuring.", "muted")
        return
    with div("card flush"):
        for device in devices:
            with ui.link(target=f"/devices/{device.name}").classes("lrow"):
                _draw_device(device)


def _draw_device(device: DeviceSchema) -> None:
    with div():
        with div("flow"):
            text(device.name, "name", "span")
            badge(device.status)
            if device.stale:
                text("stale", "badge violated", "span")
        text(processor_text(device), "small muted")
        if device.agent is not None:
            text(agent_text(device.agent, datetime.now(UTC)), "small muted")
    with div("small"):
        _draw_progress(device)
    with div("small num").style("grid-column: span 2"):
        text("Runtime", "cap")
        text(runtime_text(device))
    with div("small num").style("grid-column: span 2"):
        text(formatting.counted(len(device.predictors), "predictor"))
        if errors := [card.mape for card in device.predictors if card.mape is not None]:
            text(f"mean error {min(errors):.1f} % on held-out architectures", "muted")


def _draw_progress(device: DeviceSchema) -> None:
    stage = formatting.active_stage(device)
    if device.status == "failed":
        text((device.error or "failed").splitlines()[0][:160]).style("color: var(--c-bad)")
    elif device.status == "queued":
        text(device.waiting or "waiting for a worker", "muted")
    elif device.status == "running" and stage is not None:
        done = f" {stage.done} of {stage.total} {stage.unit}" if stage.total else ""
        eta = f", about {formatting.duration(device.eta_s)} left" if device.eta_s is not None else ""
        text(f"{stage.name}{done}{eta}", "num")
        progress_bar(formatting.fraction(stage))
    elif device.finished_at is not None:
        text(f"ready, added {formatting.age(device.finished_at, datetime.now(UTC))}", "muted")
