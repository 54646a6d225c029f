"""The form for the limits of an owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from nas.client import Client
from nas.core.spec import parse_spec
from nas.schemas.administration import QuotaLimits, QuotaSchema
from server.dashboard.dialogs import dialog_buttons
from server.dashboard.elements import div, heading, text
from server.dashboard.layout import PageShell
from server.dashboard.service_calls import call_service


async def quota_dialog(
    client: Client, shell: PageShell, quota: QuotaSchema, after: Callable[[], Awaitable[None]]
) -> None:
    """Open a form with the present limits of an owner."""
    with shell.content, ui.dialog() as dialog, div("card stack"):
        heading(f"Limits of {quota.owner}", 2)
        text("Empty: no limit. Running searches continue.", "muted small")
        queued = ui.number("Most searches queued", value=quota.max_queued, min=0, precision=0)
        running = ui.number("Most searches running", value=quota.max_running, min=0, precision=0)
        hours = ui.number("GPU hours in all", value=quota.gpu_hours, min=0, format="%g")
        for field in (queued, running, hours):
            field.props("outlined dense clearable")

        async def send() -> None:
            record = {"max_queued": queued.value, "max_running": running.value, "gpu_hours": hours.value}
            await call_service(client.set_quota, quota.owner, parse_spec(QuotaLimits, record))
            await after()

        dialog_buttons(dialog, "Set limits", send)
    dialog.open()
