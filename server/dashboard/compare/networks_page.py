"""``/compare/networks``: two networks side by side, of one search or of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import ui

from nas.client import Client
from nas.core.errors import InvalidInput, NotFound
from nas.core.metrics import METRICS
from nas.core.spoken_names import spoken_name
from nas.schemas.candidates import CandidateDetailSchema
from server.dashboard import formatting
from server.dashboard.candidate.architecture_svg import architecture_svg, blocks, choice_text
from server.dashboard.compare_links import draw_tabs, networks_url
from server.dashboard.elements import badge, breadcrumbs, div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller
from server.dashboard.search.view_model import candidate_url

_LISTED = 20


@dataclass(frozen=True)
class ComparedNetwork:
    """A network with the search that it comes from."""

    search_id: str
    search_name: str
    detail: CandidateDetailSchema

    @property
    def key(self) -> str:
        """As the address of the page names it."""
        return f"{self.search_id}/{self.detail.candidate.arch}"

    @property
    def title(self) -> str:
        """Its spoken name."""
        return self.detail.candidate.name or spoken_name(self.detail.candidate.arch)


@dataclass(frozen=True)
class NetworksSnapshot:
    """Two networks, or none, and the members of fronts that can be chosen: keys with their labels."""

    offered: tuple[tuple[str, str], ...]
    networks: tuple[ComparedNetwork, ...]
    problem: str = ""


async def compare_networks_page(client: Client, first: str, second: str) -> None:
    """Compare two networks, each given as ``SEARCH/ARCHITECTURE``."""
    keys = [key for key in (first, second) if key]

    def fetch() -> NetworksSnapshot:
        offered = _offered(client, keys)
        try:
            return NetworksSnapshot(offered, tuple(_network(client, key) for key in keys))
        except (NotFound, InvalidInput) as error:
            return NetworksSnapshot(offered, (), str(error))

    with page_layout(client, "Compare networks", "/compare/searches") as shell:
        breadcrumbs(("Searches", "/"), ("Networks side by side", ""))
        heading("Two networks side by side")
        draw_tabs("Networks")
        choice = MemoizedView(lambda offered: _draw_choice(offered, first, second))
        problem = problem_view("These networks cannot be compared")
        body = MemoizedView(_draw, "stack")

        def draw(snapshot: NetworksSnapshot) -> None:
            choice.show(snapshot.offered)
            problem.show(snapshot.problem)
            body.show(snapshot.networks)

        await Poller(shell, fetch, draw, lambda _: False).start()


def _network(client: Client, key: str) -> ComparedNetwork:
    search_id, slash, arch = key.partition("/")
    if not slash or not arch:
        raise InvalidInput(f"expected SEARCH/ARCHITECTURE, got {key!r}")
    return ComparedNetwork(search_id, client.search(search_id).name, client.candidate(search_id, arch))


def _offered(client: Client, keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The front members of the searches that are named, or of the newest ones."""
    named = dict.fromkeys(key.partition("/")[0] for key in keys)
    searches = {s.id: s.name for s in client.searches("succeeded", _LISTED).items if not named or s.id in named}
    return tuple(
        (f"{search_id}/{c.arch}", f"{spoken_name(c.arch)}, {name}")
        for search_id, name in searches.items()
        for c in client.front(search_id).members
    )


def _draw_choice(offered: tuple[tuple[str, str], ...], first: str, second: str) -> None:
    if len(offered) < 2:
        text("Comparing needs two members of fronts.", "muted")
        return
    names = {key: key for key in (first, second) if key} | dict(offered)
    with div("flow"):
        selects = [
            ui.select(names, label=label, value=value or None, with_input=True)
            .props("outlined dense")
            .classes("decision")
            for label, value in (("One network", first), ("The other", second))
        ]

        def open_comparison() -> None:
            if all(select.value for select in selects):
                ui.navigate.to(networks_url(selects[0].value, selects[1].value))

        for select in selects:
            select.on_value_change(open_comparison)


def _draw(networks: tuple[ComparedNetwork, ...]) -> None:
    if len(networks) < 2:
        return
    one, other = networks
    _draw_metrics(one, other)
    with div("stack"):
        for network in networks:
            detail = network.detail
            with div("card"):
                with div("card-head"):
                    with div("", "h2"):
                        ui.link(network.title, candidate_url(network.search_id, detail.candidate.arch, "search"))
                    text(network.search_name, "small muted", "span")
                    badge(detail.candidate.status)
                with div("scroll").props('tabindex="0" role="region" aria-label="architecture"'):
                    if detail.layers:
                        drawing = architecture_svg(blocks(detail.layers, detail.choices), detail.input_shape)
                        ui.html(drawing, sanitize=False)
    _draw_choices(one, other)


def _draw_metrics(one: ComparedNetwork, other: ComparedNetwork) -> None:
    first, second = one.detail.candidate.metrics, other.detail.candidate.metrics
    with div("card stack"):
        heading("Metrics", 2)
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("", one.title, other.title, "Difference"):
                    text(title, tag="th")
            for name in (n for n in METRICS if n in first or n in second):
                with div("", "tr"):
                    text(f"{formatting.label(name)} ({METRICS[name].kind})", tag="td")
                    text(formatting.metric(first, name), "num", "td")
                    text(formatting.metric(second, name), "num", "td")
                    text(_difference(name, one, other), "num", "td")


def _difference(name: str, one: ComparedNetwork, other: ComparedNetwork) -> str:
    """By how much the other differs: in points for percentages, else in percent."""
    first, second = (network.detail.candidate.metrics.get(name) for network in (one, other))
    if first is None or second is None:
        return formatting.MISSING
    if first.unit == "%":
        return f"{second.value - first.value:+.2f} points"
    return f"{100 * (second.value / first.value - 1):+.1f} %" if first.value else formatting.MISSING


def _draw_choices(one: ComparedNetwork, other: ComparedNetwork) -> None:
    first, second = one.detail.choices, other.detail.choices
    different = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
    with div("card stack"):
        heading("Choices, where they differ", 2)
        if not different:
            text("All choices are the same.", "muted")
            return
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("Decision", one.title, other.title):
                    text(title, tag="th")
            for name in different:
                with div("", "tr"):
                    text(name, "mono", "td")
                    for choices in (first, second):
                        text(choice_text(choices[name]) if name in choices else formatting.MISSING, "num", "td")
