"""API tokens for administrators: who holds one, a form for a new one, and its revocation."""

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

_SCOPES: dict[Scope, str] = {
    "read": "see own searches",
    "submit": "submit, pause, cancel and delete searches",
    "device": "add devices",
    "admin": "everything, for all owners",
}
_LIFETIMES = {7: "a week", 30: "a month", 90: "three months", 365: "a year", None: "until revoked"}
_DEFAULT_DAYS = 90


class TokenCard:
    """All tokens. ``refresh`` looks at the service again."""

    def __init__(self, client: Client, shell: PageShell, refresh: Callable[[], Awaitable[None]]) -> None:
        self._client, self._shell, self._refresh = client, shell, refresh
        self._part = MemoizedView(self._draw)
        self._trouble = ""

    def show(self, tokens: tuple[TokenSchema, ...], owners: tuple[str, ...]) -> None:
        """Draws the tokens; ``owners`` are suggested for a new one."""
        self._part.show(tokens, owners, self._trouble)

    def _draw(self, tokens: tuple[TokenSchema, ...], owners: tuple[str, ...], trouble: str) -> None:
        with div("card stack tokens"):
            with div("flow"):
                heading("Tokens", 2).classes("grow")
                ui.button("New token", icon="add", on_click=lambda: self._create(owners)).props("outline no-caps")
            if trouble:
                notice("bad", "The service refused", trouble)
            if not tokens:
                text("No token yet. Whoever is not at this machine needs one.", "muted")
                return
            now = datetime.now(UTC)
            with div("scroll"), div("plain", "table"):
                with div("", "tr"):
                    for name in ("Owner", "Name", "May", "Expires", "Last used", ""):
                        text(name, tag="th")
                for token in sorted(tokens, key=lambda t: (_ended(t, now) != "", -t.created_at.timestamp())):
                    self._draw_token(token, now)

    def _draw_token(self, token: TokenSchema, now: datetime) -> None:
        ended = _ended(token, now)
        with div("muted" if ended else "", "tr"):
            text(token.owner, tag="td")
            with div("", "td"):
                text(token.name)
                text(token.id, "small muted mono")
            text(", ".join(token.scopes), tag="td")
            text(ended or (f"{token.expires_at:%Y-%m-%d}" if token.expires_at else "never"), tag="td")
            text(formatting.age(token.last_used_at, now) if token.last_used_at else "never", tag="td")
            with div("right", "td"):
                if not ended:
                    ui.button("Revoke", on_click=lambda: self._revoke(token)).props(
                        "flat dense no-caps color=negative size=sm"
                    )

    async def _revoke(self, token: TokenSchema) -> None:
        with self._shell.content:
            what = f"Whoever uses “{token.name}” of {token.owner} is refused from now on. It cannot be taken back."
            if not await confirm("Revoke this token?", what, "Revoke token"):
                return
            try:
                await call_service(_revoke, self._client, token.id)
                self._trouble = ""
            except HwnasError as error:
                self._trouble = str(error)
            await self._refresh()

    def _create(self, owners: tuple[str, ...]) -> None:
        with self._shell.content, ui.dialog().props("persistent") as dialog, div("card") as card:
            form = div("stack")
            with form:
                heading("New token", 2)
                owner = ui.input("Owner", autocomplete=list(owners)).props("outlined dense")
                name = ui.input("Name").props("outlined dense hint='what it is for, such as: laptop'")
                with div("stack tight"):
                    text("May", "small muted")
                    boxes = {
                        scope: ui.checkbox(f"{scope}: {_SCOPES[scope]}", value=scope in ("read", "submit")).props(
                            "dense"
                        )
                        for scope in SCOPES
                    }
                days = ui.select(_LIFETIMES, value=_DEFAULT_DAYS, label="Valid for").props("outlined dense")
                problem = problem_view("Not accepted")

                async def send() -> None:
                    button.props("loading")
                    try:
                        scopes = [scope for scope, box in boxes.items() if box.value]
                        missing = [
                            what for what, given in (("an owner", owner.value), ("a name", name.value)) if not given
                        ]
                        if missing or not scopes:
                            raise InvalidInput(f"expected {' and '.join([*missing, *([] if scopes else ['a scope'])])}")
                        expires = None if days.value is None else datetime.now(UTC) + timedelta(days=days.value)
                        token = await call_service(self._client.create_token, owner.value, name.value, scopes, expires)
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
    """The only time that a secret is on a screen."""
    with div("stack"):
        heading(f"Token for {token.owner}", 2)
        text("Copy it now: it is shown only this once, and the service does not keep it.")
        text(token.secret, "code mono secret", "pre")
        with div("flow"):
            copy_button(lambda: token.secret)
            div("grow")
            ui.button("Done", on_click=dialog.delete).props("unelevated no-caps")


def _revoke(client: Client, token_id: str) -> bool:
    client.revoke_token(token_id)
    return True


def _ended(token: TokenSchema, now: datetime) -> str:
    """Why a token is worth nothing any more, or nothing while it is valid."""
    if token.revoked_at is not None:
        return f"revoked {token.revoked_at:%Y-%m-%d}"
    if token.expires_at is not None and token.expires_at <= now:
        return f"expired {token.expires_at:%Y-%m-%d}"
    return ""
