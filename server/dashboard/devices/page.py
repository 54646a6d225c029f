"""``/devices/{name}``: one device with its profile, its onboarding, its predictors, and its drift."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from nicegui import ui

from nas.client import Client
from nas.core.device import DeviceProfile
from nas.core.drift import Drift
from nas.core.lifecycle import JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.agents import AgentSchema
from nas.schemas.devices import DeviceSchema, OnboardingSchema
from nas.schemas.predictors import PredictorVersionSchema
from server.dashboard import formatting
from server.dashboard.actions import DEVICES, Action, ActionBar
from server.dashboard.devices.compare_page import compare_url
from server.dashboard.devices.device_text import agent_text, processor_text, queue_entry_text
from server.dashboard.devices.history_cards import draw_drift, draw_versions
from server.dashboard.devices.onboarding_card import OnboardingCard, draw_rename, may_change
from server.dashboard.devices.predictor_card import draw_predictors
from server.dashboard.elements import badge, breadcrumbs, definition_list, div, heading, notice, text
from server.dashboard.job_stages import draw_stages
from server.dashboard.layout import PageShell, page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller

_REFRESH_S = 3.0  # each reads six resources
_ONBOARDINGS = 10  # the newest, which are shown


@dataclass(frozen=True)
class DeviceSnapshot:
    """A device, and the names of the ``comparable`` devices, which have predictors, too."""

    device: DeviceSchema
    onboardings: list[OnboardingSchema]
    principal: PrincipalSchema
    versions: list[PredictorVersionSchema]
    drift: Drift
    comparable: tuple[str, ...]


async def device_page(client: Client, name: str) -> None:
    """One device: its profile, its onboarding, the cards and versions of its predictors, and its drift."""

    def fetch() -> DeviceSnapshot:
        device = client.device(name)
        comparable = tuple(d.name for d in client.devices() if d.name != name and d.predictors)
        return DeviceSnapshot(
            device=device,
            onboardings=client.onboardings(name, limit=_ONBOARDINGS).items,
            principal=client.me(),
            versions=client.versions(name),
            drift=client.drift(name),
            comparable=comparable,
        )

    with page_layout(client, name, "/devices") as shell:
        refused = problem_view("The service refused")
        actions = ActionBar(client, shell, _leave, refused.show, DEVICES)
        header = MemoizedView(functools.partial(_draw_header, client, shell, actions))
        error = problem_view("Adding this device failed")
        warnings = MemoizedView(_draw_warnings)
        stale = MemoizedView(_draw_stale)
        agent = MemoizedView(_draw_agent)
        onboarding = MemoizedView(_draw_onboarding)
        onboardings = OnboardingCard(client, shell, lambda: poller.refresh())
        predictors = MemoizedView(draw_predictors)
        drift = MemoizedView(draw_drift)
        versions = MemoizedView(draw_versions)
        profile_card = MemoizedView(_draw_profile)

        def draw(snapshot: DeviceSnapshot) -> None:
            device, profile = snapshot.device, snapshot.device.profile
            comparable = snapshot.comparable if device.predictors else ()
            owns = may_change(snapshot.principal, device.owner)
            facts = f"{processor_text(device)}; owner {device.owner}"
            header.show(device.name, device.status, facts, bool(device.predictors), comparable, owns)
            error.show(device.error if device.status == "failed" else None)
            warnings.show(tuple(device.warnings))
            stale.show(tuple(device.stale))
            agent.show(device.agent)
            onboarding.show(device)
            onboardings.show(snapshot.onboardings, device, snapshot.principal)
            predictors.show(device.predictors, device.status)
            has_drift = device.predictors and (profile is None or profile.measurable)
            drift.show(snapshot.drift if has_drift else None)
            versions.show(snapshot.versions)
            profile_card.show(profile)

        def is_active(snapshot: DeviceSnapshot) -> bool:
            return formatting.is_moving(snapshot.device) or snapshot.device.agent is not None

        poller = Poller(shell, fetch, draw, is_active, _REFRESH_S)
        await poller.start()


async def _leave(_: Action) -> None:
    ui.navigate.to("/devices")


def _draw_header(
    client: Client,
    shell: PageShell,
    actions: ActionBar,
    name: str,
    status: JobStatus,
    facts: str,
    is_usable: bool,
    comparable: tuple[str, ...],
    may_change_it: bool,
) -> None:
    breadcrumbs(("Devices", "/devices"), (name, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(name)
        badge(status)
        div("grow")
        if comparable:
            ui.select(
                list(comparable),
                label="Compare with",
                on_change=lambda e: ui.navigate.to(compare_url(name, e.value)),
            ).props("outlined dense options-dense").style("min-width: 11rem")
        if is_usable:
            ui.button("New search", icon="add", on_click=lambda: ui.navigate.to(f"/submit?device={name}")).props(
                "outline no-caps"
            )
        if may_change_it:
            draw_rename(client, shell, name)
            actions.draw({name: None})
    text(facts, "small muted").style("margin-top: .4rem")


def _draw_warnings(warnings: tuple[str, ...]) -> None:
    if warnings:
        notice("warn", "Warnings", list(warnings))


def _draw_stale(changes: tuple[str, ...]) -> None:
    if changes:
        notice("warn", "The device has changed since it was profiled: add it again", list(changes))


def _draw_agent(agent: AgentSchema | None) -> None:
    if agent is None:
        return
    with div("card stack"):
        heading("Agent", 2)
        text(formatting.sentence(agent_text(agent, datetime.now(UTC))))
        versions = ", ".join(f"{name} {version}" for name, version in agent.versions.items())
        measuring = agent.measuring or formatting.MISSING
        definition_list([("name", agent.name), ("owner", agent.owner), ("measuring", measuring), ("runs on", versions)])
        if agent.queue:
            text("One measurement at a time. Waiting, in this order:", "small muted")
        for entry in agent.queue:
            text(formatting.sentence(queue_entry_text(entry)), "small")


def _draw_onboarding(device: DeviceSchema) -> None:
    if device.status == "queued":
        reason = device.waiting or "the device is measured once a worker is free"
        notice("info", "Waiting for a worker", formatting.sentence(reason))
    if not formatting.is_over(device) or device.status == "failed":
        draw_stages(tuple(device.stages), formatting.time_left(device), device.status)


def _draw_profile(profile: DeviceProfile | None) -> None:
    if profile is None:
        return
    with div("card stack"):
        heading("Profile", 2)
        fields = ((k, v) for k, v in asdict(profile).items() if v and not isinstance(v, dict | list | tuple))
        definition_list([("profile id", profile.id), *((k.replace("_", " "), str(v)) for k, v in fields)])
