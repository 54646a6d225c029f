"""``/compare``: two devices side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from nicegui import ui

from nas.client import Client
from nas.core.errors import InvalidInput, NotFound
from nas.schemas.devices import DeviceComparisonSchema
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from server.dashboard import charts, formatting
from server.dashboard.elements import breadcrumbs, div, heading, stat, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller


@dataclass(frozen=True)
class Found:
    """The devices that can be chosen, and what is known of the chosen two; ``problem``: why they cannot be compared."""

    names: tuple[str, ...]
    view: DeviceComparisonSchema | None
    problem: str = ""


def compare_url(first: str, second: str, space: str = "") -> str:
    """The page of two devices."""
    chosen = {"a": first, "b": second, "space": space}
    return f"/compare?{urlencode({k: v for k, v in chosen.items() if v})}"


async def compare_page(client: Client, first: str, second: str, space: str) -> None:
    """Latencies of the same networks on both, cards, versions and differences."""

    def fetch() -> Found:
        names = tuple(d.name for d in client.devices() if d.predictors)
        if not first or not second:
            return Found(names, None)
        try:
            return Found(names, client.compare(first, second, space or None))
        except (NotFound, InvalidInput) as error:
            return Found(names, None, str(error))

    with page_layout(client, "Compare devices", "/devices") as shell:
        breadcrumbs(("Devices", "/devices"), ("Side by side", ""))
        heading("Two devices side by side")
        choice = MemoizedView(lambda names, spaces: _draw_choice(names, spaces, first, second, space))
        problem = problem_view("These two cannot be compared")
        body = MemoizedView(lambda view: _draw(view) if view is not None else None, "stack")

        def draw(found: Found) -> None:
            choice.show(found.names, tuple(found.view.spaces) if found.view is not None else ())
            problem.show(found.problem)
            body.show(found.view)

        await Poller(shell, fetch, draw, lambda found: False).start()


def _draw_choice(names: tuple[str, ...], spaces: tuple[str, ...], first: str, second: str, space: str) -> None:
    if len(names) < 2:
        text("It takes two devices that have predictors: add another one.", "muted")
        return
    with div("flow"):
        a = ui.select(list(names), label="One device", value=first if first in names else None)
        b = ui.select(list(names), label="The other", value=second if second in names else None)
        for field in (a, b):
            field.props("outlined dense options-dense").style("min-width: 12rem")

        def go() -> None:
            if a.value and b.value:
                ui.navigate.to(compare_url(a.value, b.value))

        for field in (a, b):
            field.on_value_change(go)
        if len(spaces) > 1:
            ui.select(
                list(spaces),
                label="Space",
                value=space or spaces[0],
                on_change=lambda e: ui.navigate.to(compare_url(first, second, e.value)),
            ).props("outlined dense options-dense")


def _draw(view: DeviceComparisonSchema) -> None:
    with div("card stack"):
        heading("The same networks on both", 2)
        text(formatting.sentence(_said(view)))
        with div("fit"):
            ui.echart(charts.comparison(view), renderer="svg").classes("chart").props(
                'role="img" aria-label="Latency on one device over latency on the other"'
            )
            with div("figures"):
                stat("Spearman rank correlation", formatting.share(view.spearman))
                stat("Kendall rank correlation", formatting.share(view.kendall))
                stat(f"{view.second} over {view.first}", f"{view.ratio:.2f} times", note="median over networks")
                stat("Measured on both", str(view.both_measured), note=f"of {len(view.pairs)} networks")
    with div("cols even"):
        for name, card in zip((view.first, view.second), view.cards, strict=True):
            _draw_side(name, card, [v for v in view.versions if v.device == name])
    with div("card stack"):
        heading("Differences", 2)
        if not view.differences:
            text("The two profiles differ in their names alone.", "muted")
            return
        with div("scroll"), div("plain differences", "table"):
            with div(tag="thead"), div(tag="tr"):
                for head in ("", view.first, view.second):
                    text(head, tag="th")
            with div(tag="tbody"):
                for d in view.differences:
                    with div(tag="tr"):
                        for value in (d.what, d.first, d.second):
                            text(value, tag="td")


def _said(view: DeviceComparisonSchema) -> str:
    if view.spearman is None:
        return "all networks take the same time on one of them, so there is no order to compare"
    how = "almost alike" if view.spearman >= 0.98 else "much alike" if view.spearman >= 0.9 else "differently"
    advice = (
        "a front of one is about a front of the other"
        if view.spearman >= 0.98
        else "search for each of them: what is fast on one need not be on the other"
    )
    return f"the two rank networks {how}; {advice}"


def _draw_side(name: str, card: PredictorCardSchema, versions: Sequence[PredictorVersionSchema]) -> None:
    with div("card stack"):
        with div("card-head").style("margin: 0"):
            with div(tag="h2"):
                ui.link(name, f"/devices/{name}")
            div("grow")
            text(f"{card.family}, version {card.number}", "small muted")
        with div("figures"):
            stat("Mean absolute error (MAPE)", f"{card.mape:.1f} %")
            stat("Coverage of the 95 % bound", f"{card.coverage * 100:.1f} %")
            stat("Spearman rank correlation", f"{card.spearman:.3f}")
            stat("Versions", str(len(versions)), note=f"fitted on {card.n} networks")
