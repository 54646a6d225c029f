"""Elements of pages: text, headings, badges, statistics, notices. Each creates NiceGUI elements in the current slot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from nas.core.measures import MetricKind
from nas.schemas.candidates import MetricSchema
from server.dashboard import formatting

Tone = Literal["bad", "warn", "good", "info"]

_STATUS_GLYPHS = {
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
    "fallback": "◪",
}
_TONE_GLYPHS: dict[Tone, str] = {"bad": "✕", "warn": "!", "good": "✓", "info": "…"}


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
    return text(f"{_STATUS_GLYPHS.get(status, '')} {status}", f"badge {status}", "span")


def kind_chip(kind: MetricKind) -> ui.element:
    """The kind of evidence of a value; each kind has its own outline."""
    return text(kind, f"kind {kind}", "span")


def stat(name: str, value: str, kind: MetricKind | None = None, note: str = "") -> None:
    """A headline value with its name, and its kind if it is a metric."""
    with div("figure"):
        text(value, "value")
        with div("name"):
            text(name, tag="span")
            if kind is not None:
                kind_chip(kind)
        if note:
            text(note, "muted small")


def metric_stat(name: str, metric: MetricSchema, note: str = "") -> None:
    """A metric as a headline value."""
    stat(formatting.label(name), formatting.quantity(metric.value, metric.unit), metric.kind, note)


def definition_list(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    with div("facts"):
        for name, value in rows:
            text(name)
            text(value)


def progress_bar(fraction: float, classes: str = "") -> None:
    """A horizontal bar filled to ``fraction``, clipped to 0 to 1."""
    with div("bar"):
        div(classes).style(f"width: {max(0.0, min(1.0, fraction)) * 100:.1f}%")


def notice(tone: Tone, title: str, message: str | list[str] = "") -> None:
    """A message box."""
    with div(f"banner {tone}").props('role="alert"' if tone == "bad" else 'role="status"'):
        text(_TONE_GLYPHS[tone], "strong", "span")
        with div("grow"):
            text(title, "strong")
            if isinstance(message, str):
                text(message, "small")
            else:
                with div("small", "ul"):
                    for line in message:
                        text(line, tag="li")


def not_found_card(message: str) -> None:
    """The content of a page whose subject does not exist."""
    with div("card empty"):
        heading("Not found")
        text(message, "muted")
        with div("flow"):
            ui.link("All searches", "/")
            ui.link("All devices", "/devices")


def code_block(content: str) -> None:
    """Text in a fixed-width font."""
    text(content, "code mono", "pre").props('tabindex="0" role="region" aria-label="code"')  # it scrolls by keyboard


def breadcrumbs(*steps: tuple[str, str]) -> None:
    """Links to the pages above this one: names and targets; the last step is this page and has no target."""
    with div("crumbs", "nav").props('aria-label="breadcrumb"'):
        for i, (name, target) in enumerate(steps):
            if i:
                text("/", tag="span")
            if target:
                ui.link(name, target)
            else:
                text(name, tag="span")


def copy_button(content: Callable[[], str]) -> None:
    """A button that copies the result of ``content`` to the clipboard."""

    def copy() -> None:
        ui.clipboard.write(content())
        ui.notify("Copied")

    ui.button("Copy", icon="content_copy", on_click=copy).props("flat dense no-caps size=sm")
