"""``/compare/searches``: several searches on one chart, what they took, and the keys in which their specs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import events, ui

from nas.client import Client
from nas.core.errors import NotFound
from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.chart_view import labelled_chart
from server.dashboard.charts.overlay import overlaid_fronts, overlaid_hypervolumes
from server.dashboard.compare.common_volume import SearchCost, common_metrics, search_costs
from server.dashboard.compare.spec_differences import spec_differences
from server.dashboard.compare_links import MOST_SEARCHES, draw_tabs, searches_url
from server.dashboard.elements import breadcrumbs, div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller
from server.dashboard.search.view_model import candidate_url

_LISTED = 100


@dataclass(frozen=True)
class SearchesSnapshot:
    """The chosen searches with their fronts, and the ids and names of those that can be chosen."""

    offered: tuple[tuple[str, str], ...]
    searches: tuple[SearchSchema, ...]
    fronts: tuple[FrontSchema, ...]
    problem: str = ""


async def compare_searches_page(client: Client, ids: str) -> None:
    """Compare the searches of these ids, separated by commas."""
    search_ids = [i for i in dict.fromkeys(ids.split(",")) if i][:MOST_SEARCHES]

    def fetch() -> SearchesSnapshot:
        offered = tuple((s.id, f"{s.name} ({s.spoken_name})") for s in client.searches("succeeded", _LISTED).items)
        try:
            searches = tuple(client.search(i) for i in search_ids)
        except NotFound as error:
            return SearchesSnapshot(offered, (), (), str(error))
        return SearchesSnapshot(offered, searches, tuple(client.front(i) for i in search_ids))

    with page_layout(client, "Compare searches", "/compare/searches") as shell:
        breadcrumbs(("Searches", "/"), ("Side by side", ""))
        heading("Searches side by side")
        draw_tabs("Searches")
        choice = MemoizedView(lambda offered: _draw_choice(offered, search_ids))
        problem = problem_view("These searches cannot be compared")
        body = MemoizedView(_draw, "stack")

        def draw(snapshot: SearchesSnapshot) -> None:
            choice.show(snapshot.offered)
            problem.show(snapshot.problem)
            body.show(snapshot.searches, snapshot.fronts)

        await Poller(shell, fetch, draw, lambda _: False).start()


def _draw_choice(offered: tuple[tuple[str, str], ...], search_ids: Sequence[str]) -> None:
    if len(offered) < 2:
        text("Comparing needs two searches that have succeeded.", "muted")
        return
    names = dict(offered) | {i: i for i in search_ids if i not in dict(offered)}
    with div("stack"):
        select = ui.select(names, multiple=True, value=list(search_ids), label="Searches")
        select.props(f"outlined dense use-chips max-values={MOST_SEARCHES}").classes("w-full")
        ui.button("Compare", on_click=lambda: ui.navigate.to(searches_url(select.value))).props("unelevated no-caps")


def _draw(searches: tuple[SearchSchema, ...], fronts: tuple[FrontSchema, ...]) -> None:
    if len(searches) < 2:
        return
    with_front = [(s, f) for s, f in zip(searches, fronts, strict=True) if f.members]
    with div("cols same"):
        with div("card"):
            heading("Fronts", 2)
            _draw_fronts([s for s, _ in with_front], [f for _, f in with_front])
        with div("card"):
            heading("Hypervolume over evaluations", 2)
            labelled_chart(
                overlaid_hypervolumes(searches), "chart curve", "Hypervolume of each search over evaluations"
            )
            text("Each against the reference of its own search; the table has a common one.", "small muted")
    _draw_costs(search_costs(searches, fronts))
    _draw_differences(searches)


def _draw_fronts(searches: Sequence[SearchSchema], fronts: Sequence[FrontSchema]) -> None:
    if common_metrics(fronts) is None:
        text("The fronts have no two axes in common, so no chart can hold them all.", "muted")
        return
    if len({len(front.objectives) for front in fronts}) > 1:
        text("Fronts of several objectives are projected on those that all have.", "small strong")
    chart = labelled_chart(overlaid_fronts(searches, fronts), "chart pareto", "The fronts of the searches")
    chart.on_point_click(_open_candidate)
    devices = dict.fromkeys(front.device or "the worst case of a fleet" for front in fronts)
    if len(devices) > 1:
        text(f"Latencies are on different devices: {', '.join(devices)}.", "small strong")
    if len({search.spec.precision for search in searches}) > 1:
        text(
            "Latency and quality are those of the models of each search's own precision; with devices on one machine "
            "and runtime, its fronts can be compared.",
            "small strong",
        )
    text("Lines join the members of a front that no other member of it beats. Click a mark to open it.", "small muted")


def _open_candidate(event: events.EChartPointClickEventArguments) -> None:
    if isinstance(event.data, dict) and "arch" in event.data:
        ui.navigate.to(candidate_url(event.data["search"], event.data["arch"], "search"))


def _per_hour(cost: SearchCost) -> str:
    return formatting.MISSING if cost.volume_per_hour is None else formatting.significant(cost.volume_per_hour)


def _draw_costs(costs: Sequence[SearchCost]) -> None:
    titles = (
        "Search",
        "Device",
        "Precision",
        "Front",
        "Verified",
        "Hypervolume",
        "Evaluations",
        "On workers",
        "Per hour",
    )
    with div("card stack"):
        heading("What it took", 2)
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in titles:
                    text(title, tag="th")
            for cost in costs:
                search = cost.search
                with div("", "tr"):
                    with div("", "td"):
                        ui.link(search.name, f"/searches/{search.id}")
                    for value in (
                        ", ".join(search.spec.devices),
                        search.spec.precision,
                        str(search.front_size),
                        str(search.verified),
                        formatting.share(cost.volume),
                        formatting.count(search.evaluations),
                        formatting.duration(search.busy_seconds),
                        formatting.MISSING
                        if cost.volume_per_hour is None
                        else formatting.significant(cost.volume_per_hour),
                    ):
                        text(value, "num", "td")
        text(
            "Hypervolumes are shares of one box that holds the members of all these fronts: they can be compared with "
            "each other, and with nothing else. Per hour: hypervolume over the time on workers, training included.",
            "small muted",
        )


def _draw_differences(searches: Sequence[SearchSchema]) -> None:
    differences = spec_differences([search.spec for search in searches])
    with div("card stack"):
        heading("Specs, where they differ", 2)
        if not differences:
            text("The specs differ in nothing but their names.", "muted")
            return
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("Key", *(search.name for search in searches)):
                    text(title, tag="th")
            for key, values in differences:
                with div("", "tr"):
                    text(key, "mono", "td")
                    for value in values:
                        text(value, tag="td")
