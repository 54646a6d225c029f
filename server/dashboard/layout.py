"""The layout of all pages: header with navigation and state of the service, banner, content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from nas.client import Client
from nas.core.access import Scope
from nas.core.errors import HwnasError
from nas.schemas.service import HealthSchema
from server.dashboard.elements import div, not_found_card, notice, text
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.service_calls import call_service

HEADER_REFRESH_S = 5.0
_NAVIGATION = (
    *(("Searches", "/"), ("Devices", "/devices"), ("Data", "/data"), ("Models", "/models")),
    *(("Compare", "/compare/searches"), ("New search", "/submit"), ("Service", "/service")),
)
_THEMES = {"auto": None, "light": False, "dark": True}
_THEME_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}

LOGO = (
    '<svg viewBox="0 0 24 24" width="22" height="22" fill="none" aria-hidden="true">'
    '<path d="M3 20V4M3 20h18" stroke="#8a96a5" stroke-width="2" stroke-linecap="round"/>'
    '<path d="M6 16c1-6 4-9 13-10" stroke="#0a84c9" stroke-width="2.2" stroke-linecap="round"/>'
    '<circle cx="7.6" cy="12" r="2.2" fill="#0a84c9"/><circle cx="12.5" cy="8" r="2.2" fill="#0a84c9"/>'
    '<circle cx="19" cy="6" r="2.2" fill="#e08a00"/></svg>'
)


class PageShell:
    """One open page: its content, and its banner for a service that does not answer."""

    def __init__(self, client: Client, content: ui.element, banner: ui.element) -> None:
        self.client = client
        self.content = content
        self._banner = banner
        self._problem: str | None = None

    def show_problem(self, message: str | None) -> None:
        """Show an error above the content, or remove it (None)."""
        if message == self._problem:
            return
        self._problem = message
        self._banner.clear()
        if message is not None:
            with self._banner:
                notice("bad", "The service does not answer", f"{message.rstrip('.')}. This page retries by itself.")

    def show_not_found(self, message: str) -> None:
        """Replace the content by a message that its subject does not exist, with status 404."""
        self.show_problem(None)
        self.content.client.status_code = 404
        self.content.clear()
        with self.content:
            not_found_card(message)


@contextmanager
def page_layout(client: Client, title: str, active_path: str) -> Iterator[PageShell]:
    """Draw header, navigation and banner; the body of the ``with`` statement draws the content."""
    ui.page_title(f"{title} · hwnas")
    with div("top"), div("top-in"):
        with ui.link(target="/").classes("brand").props('aria-label="hwnas, all searches"'):
            ui.html(LOGO, sanitize=False)
            text("hwnas", "words")
        with div("navs", "nav"):
            for name, target in _NAVIGATION:
                is_active = target == active_path
                link = ui.link(name, target).classes("nav" + (" here" if is_active else ""))
                if is_active:
                    link.props('aria-current="page"')
        div("grow")
        health = MemoizedView(_draw_health, "health")
        account = MemoizedView(_draw_account)
        _theme_button()
    with div("page"):
        banner = div()
        content = div("stack")
    shell = PageShell(client, content, banner)

    async def refresh_header() -> None:
        try:
            health.show(await call_service(client.health))
            me = await call_service(client.me)
            account.show(me.owner, tuple(me.scopes), me.token)
        except HwnasError as error:
            health.show(None)
            shell.show_problem(str(error))

    with content:
        yield shell
    ui.timer(HEADER_REFRESH_S, refresh_header)


def _draw_health(health: HealthSchema | None) -> None:
    if health is None:
        text("● no answer from the service", "strong").style("color: var(--c-bad)")
        return
    colour = "var(--c-good)" if health.status == "ok" and health.workers else "var(--warn)"
    with div("flow").style("gap: .45rem"):
        text("●", tag="span").style(f"color: {colour}")
        workers = f"{health.workers} worker{'' if health.workers == 1 else 's'}"
        text(f"{workers} · {health.running} running · {health.queued} queued", "words", "span")
    state = "Ready." if health.workers else "No worker is connected: searches wait in the queue."
    ui.tooltip(f"hwnas {health.version}, {health.database}. {health.detail or state}")


def _draw_account(owner: str, scopes: tuple[Scope, ...], token: str | None) -> None:
    """The authenticated owner, and the link to log out if a token authenticates them."""
    button = ui.button(icon="account_circle").props(f'flat round dense size=sm aria-label="you are {owner}"')
    with button, ui.menu(), div("who stack tight"):
        text(owner, "strong")
        text(f"Scopes: {', '.join(scopes)}", "small muted")
        if token is not None:
            text(f"Token {token}", "small muted mono")
            ui.link("Log out", "/logout")
        else:
            text("No token needed at this address", "small muted")


def _theme_button() -> None:
    """Auto (the system's), light, dark; stored in a cookie so that a page is right from its first paint."""
    cookie = ui.context.client.request.cookies.get("theme", "auto")
    theme = cookie if cookie in _THEMES else "auto"
    mode = ui.dark_mode(_THEMES[theme])

    def show(theme: str) -> None:
        button.props(f'icon={_THEME_ICONS[theme]} aria-label="theme: {theme}"')
        tooltip.text = f"Theme: {theme}"

    def switch() -> None:
        nonlocal theme
        names = list(_THEMES)
        theme = names[(names.index(theme) + 1) % len(names)]
        mode.value = _THEMES[theme]
        show(theme)
        ui.run_javascript(f"document.cookie = 'theme={theme}; path=/; max-age=31536000; samesite=lax'")

    button = ui.button(icon=_THEME_ICONS[theme], on_click=switch).props("flat round dense size=sm")
    with button:
        tooltip = ui.tooltip("")
    show(theme)
