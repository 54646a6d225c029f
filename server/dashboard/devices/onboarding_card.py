"""The onboardings of a device, and the changes that its owner can make: to them, and to its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from nicegui import ui

from nas.client import Client
from nas.core.access import Principal
from nas.core.lifecycle import ENDED, JobCommand, JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.devices import DeviceSchema, OnboardingSchema
from server.dashboard import formatting
from server.dashboard.actions import ONBOARDINGS, Action, ActionBar
from server.dashboard.dialogs import dialog_buttons, priority_dialog
from server.dashboard.elements import badge, div, heading, text
from server.dashboard.layout import PageShell
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.service_calls import call_service


@dataclass(frozen=True)
class OnboardingRow:
    """What the card shows of an onboarding. It is drawn again when one of these changes, so that no button moves under
    a click. ``detail``: what it waits for, or its error; ``may_change``: whether the reader may act on it."""

    id: str
    space: str
    status: JobStatus
    detail: str
    created_at: datetime
    owner: str
    priority: int
    may_change: bool

    @staticmethod
    def of(onboarding: OnboardingSchema, allowed: bool) -> OnboardingRow:
        """The row of an onboarding."""
        return OnboardingRow(
            id=onboarding.id,
            space=onboarding.spec.space.name,
            status=onboarding.status,
            detail=(onboarding.error or onboarding.waiting or "")[:200],
            created_at=onboarding.created_at,
            owner=onboarding.owner,
            priority=onboarding.priority,
            may_change=allowed,
        )


def may_change(principal: PrincipalSchema, owner: str) -> bool:
    """Whether the reader may change a device or an onboarding of ``owner``."""
    reader = Principal(principal.owner, frozenset(principal.scopes))
    return reader.has_scope("device") and reader.may_change(owner)


class OnboardingCard:
    """The onboardings of a device with their actions. ``refresh`` reads the service again."""

    def __init__(self, client: Client, shell: PageShell, refresh: Callable[[], Awaitable[None]]) -> None:
        self._client, self._shell, self._refresh = client, shell, refresh
        self._view = MemoizedView(self._draw)
        self._problem = problem_view("The service refused")

    def show(self, onboardings: Sequence[OnboardingSchema], device: DeviceSchema, principal: PrincipalSchema) -> None:
        """Draw the onboardings, newest first."""
        owns_device = may_change(principal, device.owner)
        self._view.show(tuple(OnboardingRow.of(o, owns_device or may_change(principal, o.owner)) for o in onboardings))

    def _draw(self, rows: tuple[OnboardingRow, ...]) -> None:
        if not rows:
            return
        with div("card stack"):
            heading("Onboardings", 2)
            with div("scroll"), div("plain", "table"):
                with div("", "tr"):
                    for title in ("Space", "Status", "Created", "Owner", "Priority", ""):
                        text(title, tag="th")
                for row in rows:
                    self._draw_row(row)

    def _draw_row(self, row: OnboardingRow) -> None:
        with div("", "tr"):
            with div("", "td"):
                text(row.space)
                text(row.id, "small muted mono")
            with div("", "td"):
                badge(row.status)
                if row.detail:
                    text(row.detail, "small muted")
            text(formatting.moment(row.created_at), tag="td")
            text(row.owner, tag="td")
            with div("", "td"):
                self._draw_priority(row)
            with div("right flow", "td"):
                if row.may_change:
                    bar = ActionBar(self._client, self._shell, self._after_action, self._problem.show, ONBOARDINGS)
                    never: tuple[JobCommand, ...] = ("delete",) if row.status == "succeeded" else ()
                    bar.draw({row.id: row.status}, without=never)

    def _draw_priority(self, row: OnboardingRow) -> None:
        if not row.may_change or row.status in ENDED:
            text(str(row.priority))
            return

        async def send(priority: int) -> None:
            await call_service(self._client.set_onboarding_priority, row.id, priority)
            await self._refresh()

        def ask() -> None:
            with self._shell.content:
                priority_dialog(row.owner, row.priority, send)

        ui.button(str(row.priority), icon="swap_vert", on_click=ask).props(
            'flat dense no-caps size=sm aria-label="change priority"'
        )

    async def _after_action(self, _action: Action) -> None:
        await self._refresh()


def draw_rename(client: Client, shell: PageShell, name: str) -> None:
    """A button to rename a device."""

    def ask_name() -> None:
        with shell.content:
            with ui.dialog() as dialog, div("card stack"):
                heading(f"Rename {name}", 2)
                text("Searches that have ended keep the name that they were run with.", "muted small")
                new_name = ui.input("New name", value=name).props("outlined dense")

                async def send() -> None:
                    device = await call_service(client.rename_device, name, new_name.value)
                    ui.navigate.to(f"/devices/{device.name}")

                dialog_buttons(dialog, "Rename", send)
            dialog.open()

    ui.button("Rename", icon="edit", on_click=ask_name).props("outline no-caps")
