"""The addresses of the pages that compare, and the links between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

from nicegui import ui

from server.dashboard.elements import div

MOST_SEARCHES = 6


def searches_url(ids: Iterable[str]) -> str:
    """The page of several searches."""
    return f"/compare/searches?{urlencode({'ids': ','.join(ids)})}"


def networks_url(first: str, second: str) -> str:
    """The page of two networks, each as ``SEARCH/ARCHITECTURE``."""
    return f"/compare/networks?{urlencode({'a': first, 'b': second})}"


def draw_tabs(active: str) -> None:
    """Links to what else can be compared."""
    tabs: Sequence[tuple[str, str]] = (
        ("Searches", "/compare/searches"),
        ("Networks", "/compare/networks"),
        ("Devices", "/compare"),
    )
    with div("flow tabs", "nav").props('aria-label="compare"'):
        for name, target in tabs:
            link = ui.link(name, target).classes("tab" + (" here" if name == active else ""))
            if name == active:
                link.props('aria-current="page"')
