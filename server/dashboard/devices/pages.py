"""``/devices`` and ``/devices/{name}``: the machines that latency is measured on, and their predictors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from nas.client import Client
from nas.schemas.agents import AgentSchema
from nas.schemas.devices import DeviceSchema, DriftSchema
from nas.schemas.predictors import EnergyAccuracySchema, PredictorCardSchema, PredictorVersionSchema
from nas.schemas.service import SpaceSchema
from server.dashboard import charts, formatting
from server.dashboard.devices.add_form import AddForm
from server.dashboard.devices.compare_page import compare_url
from server.dashboard.devices.history_cards import draw_drift, draw_versions
from server.dashboard.elements import (
    badge,
    breadcrumbs,
    definition_list,
    div,
    heading,
    kind_chip,
    notice,
    progress_bar,
    stat,
    text,
)
from server.dashboard.job_stages import draw_stages
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller


@dataclass(frozen=True)
class Found:
    """What the page of all devices shows."""

    devices: list[DeviceSchema]
    agents: list[AgentSchema]
    spaces: list[SpaceSchema]
    datasets: list[str]


async def devices_page(client: Client) -> None:
    """All devices, and a form to add one."""
    form: list[AddForm] = []

    address = str(ui.context.client.request.base_url).rstrip("/")

    def fetch() -> Found:
        return Found(client.devices(), client.agents(), client.spaces(), client.datasets())

    with page_layout(client, "Devices", "/devices") as shell:
        heading("Devices")
        text(
            "A device is a machine with a measuring protocol. Adding one measures a few dozen networks on it and fits "
            "a latency predictor, with a card that says how good it is.",
            "muted",
        )
        listing = MemoizedView(_draw_devices)
        place = div()

        def draw(found: Found) -> None:
            listing.show(found.devices)
            if not form:
                with place:
                    form.append(AddForm(client, address, found.spaces, found.datasets))
            form[0].show_agents(found.agents)

        await Poller(shell, fetch, draw, lambda found: True).start()


def _draw_devices(devices: list[DeviceSchema]) -> None:
    if not devices:
        with div("card empty"):
            heading("No devices yet", 2)
            text("Add one with the form below: about a minute of measuring.", "muted")
        return
    with div("card flush"):
        for device in devices:
            with ui.link(target=f"/devices/{device.name}").classes("lrow"):
                with div():
                    with div("flow"):
                        text(device.name, "name", "span")
                        badge(device.status)
                        if device.stale:
                            text("stale", "badge violated", "span")
                    text(_processor(device), "small muted")
                    if device.agent is not None:
                        text(_agent(device.agent), "small muted")
                with div("small"):
                    _draw_progress(device)
                with div("small num").style("grid-column: span 2"):
                    text("Runtime", "cap")
                    text(_runtime(device))
                with div("small num").style("grid-column: span 2"):
                    text(formatting.counted(len(device.predictors), "predictor"))
                    if device.predictors:
                        best = min(device.predictors, key=lambda c: c.mape)
                        text(f"mean error {best.mape:.1f} % on held-out networks", "muted")


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


def _agent(agent: AgentSchema) -> str:
    seen = f"agent last seen {formatting.age(agent.seen_at, datetime.now(UTC))}"
    queue = f"{formatting.counted(agent.waiting, 'network')} waiting" if agent.waiting else "nothing waiting"
    return f"{seen}, {queue}{', measuring' if agent.measuring else ''}"


def _processor(device: DeviceSchema) -> str:
    if device.profile is None:
        return "not profiled yet"
    return f"{device.profile['processor']}, {device.profile['cores']} cores"


def _runtime(device: DeviceSchema) -> str:
    return (
        formatting.NONE
        if device.profile is None
        else f"{device.profile['runtime']} {device.profile['runtime_version']}"
    )


@dataclass(frozen=True)
class FoundDevice:
    """What the page of a device shows, and the names of the others."""

    device: DeviceSchema
    versions: list[PredictorVersionSchema]
    drift: DriftSchema
    others: tuple[str, ...]


async def device_page(client: Client, name: str) -> None:
    """One device: its profile, its onboarding, its predictors' cards and versions, and how it was over time."""

    def fetch() -> FoundDevice:
        device = client.device(name)
        others = tuple(d.name for d in client.devices() if d.name != name and d.predictors)
        return FoundDevice(device, client.versions(name), client.drift(name), others)

    with page_layout(client, name, "/devices") as shell:
        head = MemoizedView(_draw_head)
        error = problem_view("Adding this device failed")
        warnings = MemoizedView(lambda lines: notice("warn", "You should know", list(lines)) if lines else None)
        stale = MemoizedView(lambda why: notice("warn", "Stale: add the device again", list(why)) if why else None)
        agent = MemoizedView(lambda shown: _draw_agent(shown) if shown is not None else None)
        stages = MemoizedView(_draw_onboarding)
        cards = MemoizedView(_draw_cards)
        drift = MemoizedView(lambda view: draw_drift(view) if view is not None else None)
        versions = MemoizedView(draw_versions)
        profile = MemoizedView(_draw_profile)

        def draw(found: FoundDevice) -> None:
            device = found.device
            head.show(device.name, device.status, _processor(device), found.others if device.predictors else ())
            error.show(device.error if device.status == "failed" else None)
            warnings.show(tuple(device.warnings))
            stale.show(tuple(device.stale))
            agent.show(device.agent)
            stages.show(device)
            cards.show(device.predictors, device.status)
            measurable = (device.profile or {}).get("source") not in ("table", "roofline")
            drift.show(found.drift if device.predictors and measurable else None)
            versions.show(found.versions)
            profile.show(device.profile, device.profile_id)

        await Poller(
            shell, fetch, draw, lambda found: formatting.is_moving(found.device) or found.device.agent is not None
        ).start()


def _draw_head(name: str, status: str, processor: str, others: tuple[str, ...]) -> None:
    breadcrumbs(("Devices", "/devices"), (name, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(name)
        badge(status)
        div("grow")
        if others:
            ui.select(
                list(others),
                label="Compare with",
                on_change=lambda e: ui.navigate.to(compare_url(name, e.value)),
            ).props("outlined dense options-dense").style("min-width: 11rem")
        ui.button("Search for it", icon="add", on_click=lambda: ui.navigate.to(f"/submit?device={name}")).props(
            "outline no-caps"
        )
    text(processor, "small muted")


def _draw_agent(agent: AgentSchema) -> None:
    with div("card stack"):
        heading("Agent", 2)
        text(formatting.sentence(_agent(agent)))
        versions = ", ".join(f"{name} {version}" for name, version in agent.versions.items())
        definition_list(
            [("owner", agent.owner), ("measuring", agent.measuring or formatting.NONE), ("runs on", versions)]
        )


def _draw_onboarding(device: DeviceSchema) -> None:
    if device.status == "queued":
        notice(
            "info",
            "Waiting for a worker",
            formatting.sentence(device.waiting or "the device is measured once one is free"),
        )
    if not formatting.is_over(device) or device.status == "failed":
        draw_stages(tuple(device.stages), device.eta_s, device.status)


def _draw_cards(predictors: list[PredictorCardSchema], status: str) -> None:
    if not predictors:
        with div("card empty"):
            heading("No predictor yet", 2)
            text(
                "It is fitted at the end of the onboarding." if status != "failed" else "Add the device again.", "muted"
            )
        return
    with div("stack"):
        for card in predictors:
            _draw_card(card)


def _draw_card(card: PredictorCardSchema) -> None:
    with div("card stack"):
        with div("card-head").style("margin: 0"):
            heading(f"Predictor for {card.space_name}, version {card.number}", 2)
            if card.kind == "estimated":
                kind_chip(card.kind)
            text(card.id, "mono small muted", "span")
            div("grow")
            text(f"{card.family}, fitted {formatting.age(card.created_at, datetime.now(UTC))}", "small muted")
        text(
            "All figures are over networks whose latencies are estimates themselves: nobody has measured any of them."
            if card.kind == "estimated"
            else "All figures are over held-out networks that took no part in fitting or calibration.",
            "small muted",
        )
        with div("fit"):
            if card.measured_ms:
                ui.echart(charts.predictor(card), renderer="svg").classes("chart predictor").props(
                    'role="img" aria-label="Measured over predicted latency of held-out networks"'
                )
            _draw_quality(card)
        if card.energy is not None:
            _draw_energy(card.energy)
        with div("fold", "details"):
            text("Measuring protocol", tag="summary")
            definition_list([(k.replace("_", " "), str(v)) for k, v in card.protocol.items()])


def _draw_quality(card: PredictorCardSchema) -> None:
    low, high = card.range_ms
    with div("figures"):
        stat("Mean absolute error (MAPE)", f"{card.mape:.1f} %")
        stat("Coverage of the 95 % bound", f"{card.coverage * 100:.1f} %")
        stat("Spearman rank correlation", f"{card.spearman:.3f}")
        stat("Kendall rank correlation", f"{card.kendall:.3f}")
        stat("Held-out networks", str(card.held_out), note=f"fitted on {card.n}, calibrated on {card.calibration}")
        stat("Range", f"{formatting.significant(low)} to {formatting.significant(high)} ms")


def _draw_energy(energy: EnergyAccuracySchema) -> None:
    heading("Energy", 2)
    text("Predicted from the energies of the device's table; nothing measures it.", "small muted")
    with div("figures"):
        stat("Mean absolute error (MAPE)", f"{energy.mape:.1f} %")
        stat("Coverage of the 95 % bound", f"{energy.coverage * 100:.1f} %")
        stat("Spearman rank correlation", f"{energy.spearman:.3f}")
        stat("Held-out networks", str(energy.held_out), note=f"fitted on {energy.n}")


def _draw_profile(profile: dict[str, Any] | None, profile_id: str | None) -> None:
    if profile is None:
        return
    with div("card stack"):
        heading("Profile", 2)
        rows = [
            (k.replace("_", " "), str(v)) for k, v in profile.items() if not isinstance(v, dict | list | tuple) and v
        ]
        definition_list([("profile id", profile_id or formatting.NONE), *rows])
