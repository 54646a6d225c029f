"""``/compare``: two devices side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from nicegui import ui

from nas.client import Client
from nas.core.errors import InvalidInput, NotFound
from nas.schemas.devices import DeviceComparisonSchema, ProfileDifferenceSchema
from nas.schemas.predictors import PredictorCardSchema
from server.dashboard import formatting
from server.dashboard.chart_view import labelled_chart
from server.dashboard.charts.comparison import comparison_chart
from server.dashboard.compare_links import draw_tabs
from server.dashboard.elements import breadcrumbs, div, heading, stat, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller


@dataclass(frozen=True)
class ComparisonSnapshot:
    """The devices that can be compared, and the comparison of two; ``problem``: why they cannot be compared."""

    names: tuple[str, ...]
    comparison: DeviceComparisonSchema | None
    problem: str = ""


def compare_url(first: str, second: str, space: str = "") -> str:
    """The page of two devices."""
    query = {"a": first, "b": second, "space": space}
    return f"/compare?{urlencode({k: v for k, v in query.items() if v})}"


async def compare_page(client: Client, first: str, second: str, space: str) -> None:
    """Latencies of the same architectures on both devices, predictor cards, versions and differences."""

    def fetch() -> ComparisonSnapshot:
        names = tuple(d.name for d in client.devices() if d.predictors)
        if not first or not second:
            return ComparisonSnapshot(names, None)
        try:
            return ComparisonSnapshot(names, client.compare(first, second, space or None))
        except (NotFound, InvalidInput) as error:
            return ComparisonSnapshot(names, None, str(error))

    def draw_selects(names: tuple[str, ...], spaces: tuple[str, ...]) -> None:
        _draw_selects(names, spaces, first, second, space)

    with page_layout(client, "Compare devices", "/devices") as shell:
        breadcrumbs(("Devices", "/devices"), ("Side by side", ""))
        heading("Two devices side by side")
        draw_tabs("Devices")
        selects = MemoizedView(draw_selects)
        problem = problem_view("These two devices cannot be compared")
        body = MemoizedView(_draw, "stack")

        def draw(snapshot: ComparisonSnapshot) -> None:
            comparison = snapshot.comparison
            selects.show(snapshot.names, tuple(comparison.spaces) if comparison is not None else ())
            problem.show(snapshot.problem)
            body.show(comparison)

        await Poller(shell, fetch, draw, lambda _: False).start()


def _draw_selects(names: tuple[str, ...], spaces: tuple[str, ...], first: str, second: str, space: str) -> None:
    if len(names) < 2:
        text("Comparing needs two devices with predictors: add another one.", "muted")
        return
    with div("flow"):
        a = ui.select(list(names), label="One device", value=first if first in names else None)
        b = ui.select(list(names), label="The other", value=second if second in names else None)

        def open_comparison() -> None:
            if a.value and b.value:
                ui.navigate.to(compare_url(a.value, b.value))

        for select in (a, b):
            select.props("outlined dense options-dense").style("min-width: 12rem")
            select.on_value_change(open_comparison)
        if len(spaces) > 1:
            ui.select(
                list(spaces),
                label="Space",
                value=space or spaces[0],
                on_change=lambda e: ui.navigate.to(compare_url(first, second, e.value)),
            ).props("outlined dense options-dense")


def _draw(comparison: DeviceComparisonSchema | None) -> None:
    if comparison is None:
        return
    with div("card stack"):
        heading("The same architectures on both", 2)
        text(formatting.sentence(_advice(comparison)))
        with div("fit"):
            labelled_chart(comparison_chart(comparison), "chart", "Latency on one device over latency on the other")
            with div("figures"):
                stat("Spearman rank correlation", formatting.share(comparison.spearman))
                interval = formatting.tau_interval(comparison.kendall_interval, len(comparison.pairs))
                stat("Kendall rank correlation", formatting.share(comparison.kendall), note=interval)
                ratio = f"{comparison.second} over {comparison.first}"
                stat(ratio, f"{comparison.ratio:.2f} times", note="median over architectures")
                total = f"of {len(comparison.pairs)} architectures"
                stat("Measured on both", str(comparison.both_measured), note=total)
    with div("cols even"):
        for name, card in zip((comparison.first, comparison.second), comparison.cards, strict=True):
            _draw_device(name, card, sum(v.device == name for v in comparison.versions))
    _draw_differences(comparison.first, comparison.second, comparison.differences)


def _draw_differences(first: str, second: str, differences: Sequence[ProfileDifferenceSchema]) -> None:
    with div("card stack"):
        heading("Differences", 2)
        if not differences:
            text("The two profiles differ in their names alone.", "muted")
            return
        with div("scroll"), div("plain differences", "table"):
            with div(tag="thead"), div(tag="tr"):
                for title in ("", first, second):
                    text(title, tag="th")
            with div(tag="tbody"):
                for difference in differences:
                    with div(tag="tr"):
                        for value in (difference.label, difference.first, difference.second):
                            text(value, tag="td")


def _advice(comparison: DeviceComparisonSchema) -> str:
    if comparison.spearman is None:
        return "all architectures have the same latency on one of them, so there is no order to compare"
    if comparison.spearman >= 0.98:
        return (
            "the two devices rank architectures almost alike; the front of one is approximately the front of the other"
        )
    low, high = comparison.kendall_interval or (-1.0, 1.0)
    if low <= 0.0 <= high:
        return f"{len(comparison.pairs)} architectures do not show whether the two devices rank alike"
    similarity = "similarly" if comparison.spearman >= 0.9 else "differently"
    return (
        f"the two devices rank architectures {similarity}; search for each of them: an architecture that is fast on "
        "one need not be fast on the other"
    )


def _draw_device(name: str, card: PredictorCardSchema, versions: int) -> None:
    with div("card stack"):
        with div("card-head").style("margin: 0"):
            with div(tag="h2"):
                ui.link(name, f"/devices/{name}")
            div("grow")
            text(f"{card.family}, version {card.number}", "small muted")
        with div("figures"):
            stat("Mean absolute error (MAPE)", formatting.figure(card.mape, ".1f", " %"))
            stat("Coverage of the 95 % bound", formatting.figure(card.coverage, ".1%"))
            stat("Spearman rank correlation", formatting.figure(card.spearman, ".3f"))
            stat("Versions", str(versions), note=f"fitted on {formatting.counted(card.n, 'architecture')}")
