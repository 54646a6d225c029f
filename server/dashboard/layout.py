"""What every page shares: the frame with navigation and banner, live refreshing, and small pieces to draw with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from nicegui import Client as Page
from nicegui import background_tasks, run, ui
from nicegui.elements.mixins.text_element import TextElement

from nas.client import Client
from nas.core.access import Scope
from nas.core.errors import HwnasError, NotFound
from nas.core.metrics import Kind
from nas.schemas.candidates import MetricSchema
from nas.schemas.service import HealthSchema
from server.dashboard import formatting

T = TypeVar("T")

_NAVIGATION = (("Searches", "/"), ("Devices", "/devices"), ("New search", "/submit"), ("Service", "/service"))
_GLYPHS = {
    "queued": "○",
    "running": "◐",
    "pausing": "◑",
    "paused": "‖",
    "succeeded": "✓",
    "failed": "✕",
    "cancelled": "–",
    "quarantined": "⊘",
    "verified": "✓",
    "violated": "▲",
    "unverified": "□",
}
_THEMES = {"auto": None, "light": False, "dark": True}
_PATIENCE_S = 0.7  # a page that takes longer to fetch is shown as a skeleton first
ACTIVE_S, IDLE_S = 1.5, 8.0  # how often a page asks while something runs, and otherwise

LOGO = (
    '<svg viewBox="0 0 24 24" width="22" height="22" fill="none" aria-hidden="true">'
    '<path d="M3 20V4M3 20h18" stroke="#8a96a5" stroke-width="2" stroke-linecap="round"/>'
    '<path d="M6 16c1-6 4-9 13-10" stroke="#0a84c9" stroke-width="2.2" stroke-linecap="round"/>'
    '<circle cx="7.6" cy="12" r="2.2" fill="#0a84c9"/><circle cx="12.5" cy="8" r="2.2" fill="#0a84c9"/>'
    '<circle cx="19" cy="6" r="2.2" fill="#e08a00"/></svg>'
)


class Frame:
    """One open page: its content, and its banner for when the service does not answer."""

    def __init__(self, client: Client, content: ui.element, banner: ui.element) -> None:
        self.client = client
        self.content = content
        self._banner = banner
        self._problem: str | None = None

    def problem(self, message: str | None) -> None:
        """Shows what is wrong above the page, or that nothing is."""
        if message == self._problem:
            return
        self._problem = message
        self._banner.clear()
        if message is not None:
            with self._banner:
                notice(
                    "bad", "The service does not answer as it should", f"{message.rstrip('.')}. This page keeps trying."
                )

    def not_found(self, message: str) -> None:
        """Replaces the page by one that says so."""
        self.problem(None)
        self.content.client.status_code = 404
        self.content.clear()
        with self.content:
            missing(message)


@contextmanager
def framed(client: Client, title: str, here: str) -> Iterator[Frame]:
    """Header, navigation, banner; the body is the page's content."""
    ui.page_title(f"{title} · hwnas")
    with div("top"), div("top-in"):
        with ui.link(target="/").classes("brand").props('aria-label="hwnas, all searches"'):
            ui.html(LOGO, sanitize=False)
            text("hwnas", "words")
        with div("navs", "nav"):
            for name, target in _NAVIGATION:
                link = ui.link(name, target).classes("nav" + (" here" if target == here else ""))
                if target == here:
                    link.props('aria-current="page"')
        div("grow")
        health = Part(_draw_health, "health")
        who = Part(_draw_who)
        _theme_button()
    with div("page"):
        banner = div()
        content = div("stack")
    frame = Frame(client, content, banner)

    async def look() -> None:
        try:
            health.show(await ask(client.health))
            me = await ask(client.me)
            who.show(me.owner, tuple(me.scopes), me.token)
        except HwnasError as error:
            health.show(None)
            frame.problem(str(error))

    with content:
        yield frame
    ui.timer(5.0, look)


async def ask(call: Callable[..., T], *args: Any) -> T:
    """Calls the service in a thread, so that no page waits for another's answer."""
    answer = await run.io_bound(call, *args)
    if answer is None:  # no call answers None: the server is stopping
        raise asyncio.CancelledError
    return answer


class Live(Generic[T]):
    """Fetches in a thread and draws, at once and then every so often: oftener while the result is ``active``.

    ``draw`` is called in the page's context and changes only what has changed. Make it after the page's parts and
    handlers, then ``await live.start()`` last: a page that answers quickly is complete on its first paint, a slow one
    shows a skeleton first.
    """

    def __init__(
        self, frame: Frame, fetch: Callable[[], T], draw: Callable[[T], None], active: Callable[[T], bool]
    ) -> None:
        self._frame, self._fetch, self._draw, self._active = frame, fetch, draw, active
        self._page: Page = ui.context.client
        self._loading = div("stack").props('aria-label="loading" role="status"')
        with self._loading:
            for _ in range(3):
                div("skeleton")
        self._interval = ACTIVE_S
        self._timer: ui.timer | None = None
        self._gone = False
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Fetches and draws for the first time, waiting a moment at most, then keeps refreshing.

        Raises what drawing raises, so that a broken page is an error and not a skeleton.
        """
        first = background_tasks.create(self.refresh(), name="first fetch")
        await asyncio.wait({first}, timeout=_PATIENCE_S)
        if first.done():
            first.result()
        if not self._gone:  # a timer sends the page off to the browser, so it comes last
            self._timer = ui.timer(self._interval, self.refresh, immediate=False)

    async def refresh(self) -> None:
        """Fetches and draws now."""
        async with self._one_at_a_time:
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            view = await ask(self._fetch)
        except NotFound as error:
            self._gone = True
            if self._timer is not None:
                self._timer.cancel()
            if not self._page.is_deleted:
                self._frame.not_found(str(error))
            return
        except HwnasError as error:
            if not self._page.is_deleted:
                self._loading.set_visibility(False)
                self._frame.problem(str(error))
            return
        if self._page.is_deleted:
            return
        with self._frame.content:
            self._frame.problem(None)
            self._loading.set_visibility(False)
            self._draw(view)
            self._interval = ACTIVE_S if self._active(view) else IDLE_S
            if self._timer is not None:
                self._timer.interval = self._interval


class Part:
    """A piece of a page that is drawn again only when what it shows has changed, so that nothing flickers."""

    def __init__(self, draw: Callable[..., None], classes: str = "") -> None:
        self.box = div(f"part {classes}")
        self._draw = draw
        self._shown: tuple[Any, ...] | None = None

    def show(self, *values: Any) -> None:
        """Draws ``values`` unless they are what is shown already."""
        if self._shown == values:
            return
        self._shown = values
        self.box.clear()
        with self.box:
            self._draw(*values)

    def forget(self) -> None:
        """Draws again next time, whatever is shown then."""
        self._shown = None


# Pieces


def div(classes: str = "", tag: str = "div") -> ui.element:
    """An element with classes of the style sheet."""
    return ui.element(tag).classes(classes)


def text(content: str, classes: str = "", tag: str = "div") -> TextElement:
    """Text in an element; always escaped."""
    return TextElement(tag=tag, text=content).classes(classes)


def heading(content: str, level: int = 1) -> ui.element:
    """A heading of the page (1) or of a card (2)."""
    return text(content, tag=f"h{level}")


def badge(status: str) -> ui.element:
    """A status by glyph, word and colour."""
    return text(f"{_GLYPHS.get(status, '')} {status}", f"badge {status}", "span")


def kind_chip(kind: Kind) -> ui.element:
    """What kind of evidence a value is; each kind has its own outline."""
    return text(kind, f"kind {kind}", "span")


def figure(name: str, value: str, kind: Kind | None = None, note: str = "") -> None:
    """One headline value with its name, and its kind if it is a metric."""
    with div("figure"):
        text(value, "value")
        with div("name"):
            text(name, tag="span")
            if kind is not None:
                kind_chip(kind)
        if note:
            text(note, "muted small")


def metric_figure(name: str, view: MetricSchema, note: str = "") -> None:
    """A metric as a headline value."""
    figure(formatting.label(name), formatting.quantity(view.value, view.unit), view.kind, note)


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    with div("facts"):
        for name, value in rows:
            text(name)
            text(value)


def bar(fraction: float, classes: str = "") -> None:
    """A horizontal bar filled to ``fraction``."""
    with div("bar"):
        div(classes).style(f"width: {max(0.0, min(1.0, fraction)) * 100:.1f}%")


def notice(tone: str, title: str, message: str | list[str] = "") -> None:
    """A message box; ``tone`` is bad, warn, good or info."""
    with div(f"banner {tone}").props('role="alert"' if tone == "bad" else 'role="status"'):
        text({"bad": "✕", "warn": "!", "good": "✓", "info": "…"}[tone], "strong", "span")
        with div("grow"):
            text(title, "strong")
            if isinstance(message, str):
                text(message, "small")
            else:
                with div("small", "ul"):
                    for line in message:
                        text(line, tag="li")


def missing(message: str) -> None:
    """The page for something that does not exist."""
    with div("card empty"):
        heading("Not found")
        text(message, "muted")
        with div("flow"):
            ui.link("All searches", "/")
            ui.link("All devices", "/devices")


def code(content: str) -> None:
    """Text set in a fixed-width font, with a button that copies it."""
    text(content, "code mono", "pre")


def crumbs(*steps: tuple[str, str]) -> None:
    """The way back: names and targets; the last is the page itself."""
    with div("crumbs", "nav").props('aria-label="breadcrumb"'):
        for i, (name, target) in enumerate(steps):
            if i:
                text("/", tag="span")
            if target:
                ui.link(name, target)
            else:
                text(name, tag="span")


def copy_button(content: Callable[[], str]) -> None:
    """Copies what ``content`` gives when clicked."""

    def copy() -> None:
        ui.clipboard.write(content())
        ui.notify("Copied")

    ui.button("Copy", icon="content_copy", on_click=copy).props("flat dense no-caps size=sm")


def _draw_health(view: HealthSchema | None) -> None:
    if view is None:
        text("● service away", "strong").style("color: var(--c-bad)")
        return
    colour = "var(--c-good)" if view.status == "ok" and view.workers else "var(--warn)"
    with div("flow").style("gap: .45rem"):
        text("●", tag="span").style(f"color: {colour}")
        workers = f"{view.workers} worker{'' if view.workers == 1 else 's'}"
        text(f"{workers} · {view.running} running · {view.queued} queued", "words", "span")
    waiting = "Ready." if view.workers else "No worker is connected: searches wait in the queue."
    ui.tooltip(f"hwnas {view.version}, {view.database}. {view.detail or waiting}")


def _draw_who(owner: str, scopes: tuple[Scope, ...], token: str | None) -> None:
    """Whom the service takes the reader for; the way out where a token let them in."""
    button = ui.button(icon="account_circle").props(f'flat round dense size=sm aria-label="you are {owner}"')
    with button, ui.menu(), div("who stack tight"):
        text(owner, "strong")
        text(f"May: {', '.join(scopes)}", "small muted")
        if token is not None:
            text(f"Token {token}", "small muted mono")
            ui.link("Log out", "/logout")
        else:
            text("No token needed at this address", "small muted")


def _theme_button() -> None:
    """Auto (the system's), light, dark; remembered in a cookie so that a page is right from its first paint."""
    request = ui.context.client.request
    chosen = request.cookies.get("theme", "auto")
    state = {"theme": chosen if chosen in _THEMES else "auto"}
    mode = ui.dark_mode(_THEMES[state["theme"]])
    icons = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}

    def turn() -> None:
        names = list(_THEMES)
        state["theme"] = names[(names.index(state["theme"]) + 1) % len(names)]
        mode.value = _THEMES[state["theme"]]
        button.props(f'icon={icons[state["theme"]]} aria-label="theme: {state["theme"]}"')
        tip.text = f"Theme: {state['theme']}"
        ui.run_javascript(f"document.cookie = 'theme={state['theme']}; path=/; max-age=31536000; samesite=lax'")

    button = ui.button(icon=icons[state["theme"]], on_click=turn).props(
        f'flat round dense size=sm aria-label="theme: {state["theme"]}"'
    )
    with button:
        tip = ui.tooltip(f"Theme: {state['theme']}")
