"""API tokens for administrators: the list, a form for a new one, and revocation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from nicegui import ui

from nas.client import Client
from nas.core.access import SCOPES, Scope
from nas.core.errors import HwnasError, InvalidInput
from nas.schemas.administration import CreatedTokenSchema, TokenSchema
from server.dashboard import formatting
from server.dashboard.dialogs import confirm
from server.dashboard.elements import copy_button, div, heading, notice, text
from server.dashboard.layout import PageShell
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.service_calls import call_service

_SCOPE_LABELS: dict[Scope, str] = {
    "read": "see own searches",
    "submit": "submit, pause, cancel and delete searches",
    "device": "add devices",
    "agent": "measure on one device, and nothing else",
    "admin": "everything, for all owners",
}
_LIFETIMES = {7: "a week", 30: "a month", 90: "three months", 365: "a year", None: "until revoked"}
_DEFAULT_DAYS = 90


class TokenCard:
    """All tokens. ``refresh`` reads the service again."""

    def __init__(self, client: Client, shell: PageShell, refresh: Callable[[], Awaitable[None]]) -> None:
        self._client, self._shell, self._refresh = client, shell, refresh
        self._view = MemoizedView(self._draw)
        self._problem = ""

    def show(self, tokens: tuple[TokenSchema, ...], owners: tuple[str, ...]) -> None:
        """Draw the tokens; ``owners`` are suggested for a new one."""
        self._view.show(tokens, owners, self._problem)

    def _draw(self, tokens: tuple[TokenSchema, ...], owners: tuple[str, ...], problem: str) -> None:
        with div("card stack tokens"):
            with div("flow"):
                heading("Tokens", 2).classes("grow")
                ui.button("New token", icon="add", on_click=lambda: self._create(owners)).props("outline no-caps")
            if problem:
                notice("bad", "The service refused", problem)
            if not tokens:
                text("No token yet. Access from other machines needs one.", "muted")
                return
            now = datetime.now(UTC)
            with div("scroll"), div("plain", "table"):
                with div("", "tr"):
                    for name in ("Owner", "Name", "Scopes", "Expires", "Last used", ""):
                        text(name, tag="th")
                for token in sorted(tokens, key=lambda t: (_invalid_reason(t, now) != "", -t.created_at.timestamp())):
                    self._draw_token(token, now)

    def _draw_token(self, token: TokenSchema, now: datetime) -> None:
        reason = _invalid_reason(token, now)
        with div("muted" if reason else "", "tr"):
            text(token.owner, tag="td")
            with div("", "td"):
                text(token.name)
                text(token.id, "small muted mono")
            text(", ".join(token.scopes) + (f" of {token.device}" if token.device is not None else ""), tag="td")
            text(reason or (f"{token.expires_at:%Y-%m-%d}" if token.expires_at else "never"), tag="td")
            text(formatting.age(token.last_used_at, now) if token.last_used_at else "never", tag="td")
            with div("right", "td"):
                if not reason:
                    ui.button("Revoke", on_click=lambda: self._revoke(token)).props(
                        "flat dense no-caps color=negative size=sm"
                    )

    async def _revoke(self, token: TokenSchema) -> None:
        with self._shell.content:
            consequence = (
                f"Requests with “{token.name}” of {token.owner} are refused from now on. This cannot be undone."
            )
            if not await confirm("Revoke this token?", consequence, "Revoke token"):
                return
            try:
                await call_service(_revoke, self._client, token.id)
                self._problem = ""
            except HwnasError as error:
                self._problem = str(error)
            await self._refresh()

    def _create(self, owners: tuple[str, ...]) -> None:
        with self._shell.content, ui.dialog().props("persistent") as dialog, div("card") as card:
            form = div("stack")
            with form:
                heading("New token", 2)
                owner = ui.input("Owner", autocomplete=list(owners)).props("outlined dense")
                name = ui.input("Name").props("outlined dense hint='its purpose, such as: laptop'")
                with div("stack tight"):
                    text("Scopes", "small muted")
                    boxes = {
                        scope: ui.checkbox(f"{scope}: {_SCOPE_LABELS[scope]}", value=scope in ("read", "submit")).props(
                            "dense"
                        )
                        for scope in SCOPES
                    }
                    device = ui.input("Device of the agent").props("outlined dense")
                    device.bind_visibility_from(boxes["agent"], "value")
                days = ui.select(_LIFETIMES, value=_DEFAULT_DAYS, label="Valid for").props("outlined dense")
                problem = problem_view("Not accepted")

                async def send() -> None:
                    button.props("loading")
                    try:
                        scopes = [scope for scope, box in boxes.items() if box.value]
                        fields = (("an owner", owner.value), ("a name", name.value), ("a scope", scopes))
                        missing = [label for label, value in fields if not value]
                        if missing:
                            raise InvalidInput(f"expected {' and '.join(missing)}")
                        expires = None if days.value is None else datetime.now(UTC) + timedelta(days=days.value)
                        bound_to = device.value or None if "agent" in scopes else None
                        token = await call_service(
                            self._client.create_token, owner.value, name.value, scopes, expires, bound_to
                        )
                    except HwnasError as error:
                        problem.show(str(error))
                        return
                    finally:
                        button.props(remove="loading")
                    form.delete()
                    with card:
                        _show_secret(dialog, token)
                    await self._refresh()

                with div("flow"):
                    div("grow")
                    ui.button("Close", on_click=dialog.close).props("flat no-caps")
                    button = ui.button("Create token", on_click=send).props("unelevated no-caps")
        dialog.open()


def _show_secret(dialog: ui.dialog, token: CreatedTokenSchema) -> None:
    """Show the secret, for the only time."""
    with div("stack"):
        heading(f"Token for {token.owner}", 2)
        text("Copy it now: it is shown only this once, and the service does not store it.")
        text(token.secret, "code mono secret", "pre")
        with div("flow"):
            copy_button(lambda: token.secret)
            div("grow")
            ui.button("Done", on_click=dialog.delete).props("unelevated no-caps")


def _revoke(client: Client, token_id: str) -> bool:
    client.revoke_token(token_id)
    return True


def _invalid_reason(token: TokenSchema, now: datetime) -> str:
    """Why a token is not valid any more; empty while it is valid."""
    if token.revoked_at is not None:
        return f"revoked {token.revoked_at:%Y-%m-%d}"
    if token.expires_at is not None and token.expires_at <= now:
        return f"expired {token.expires_at:%Y-%m-%d}"
    return ""
