"""The cards with a search's charts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui
from nicegui.events import EChartPointClickEventArguments

from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import charts
from server.dashboard.elements import div, heading, kind_chip, text
from server.dashboard.search.view_model import Shown, subnet_url


class FrontCard:
    """The Pareto chart. It is made anew only when what its axes mean changes; otherwise its data are replaced."""

    def __init__(self, search_id: str, choose: Callable[[str | None], Awaitable[None]]) -> None:
        self._search_id = search_id
        self._choose = choose
        self._shown: Shown | None = None
        self._focus = False
        self._evidence: charts.Evidence = "measured"
        self._x = ""
        self._box = div("part card")
        self._made: tuple[Any, ...] | None = None
        self._chart: ui.echart | None = None
        self._box.set_visibility(False)

    def show(self, shown: Shown) -> None:
        """Draws the fronts and points."""
        if self._shown == shown:
            return
        self._shown = shown
        if not shown.points:
            return
        self._box.set_visibility(True)
        self._draw()

    def _draw(self) -> None:
        shown = self._shown
        assert shown is not None
        options = charts.pareto(shown.front, shown.points, self._x, self._evidence, self._focus)
        axes = tuple(o.metric for o in shown.front.objectives)
        shape = (shown.front.final, self._evidence, self._x, shown.front.device, axes)
        if self._made == shape and self._chart is not None:
            self._chart.options.clear()
            self._chart.options.update(options)
            self._chart.update()
            return
        self._made = shape
        self._box.clear()
        with self._box:
            self._draw_head(shown.front, shown.search)
            label = "Accuracy over cost of every network found by the search and by random search"
            self._chart = (
                ui.echart(options, on_point_click=self._open, renderer="svg")
                .classes("chart pareto")
                .props(f'role="img" aria-label="{label}"')
            )
            text(_caption(shown.front, self._evidence), "small muted")

    def _draw_head(self, front: FrontSchema, search: SearchSchema) -> None:
        with div("card-head"):
            heading("Pareto front", 2)
            if not front.final:
                kind_chip("predicted")
                text("nothing here has been measured yet", "small muted", "span")
            div("grow")
            if search.fleet:
                worst = {"": "Worst case"} if None in search.spec.views else {}
                devices = worst | {m.device: m.device for m in search.fleet}
                ui.select(devices, value=front.device or "", on_change=lambda e: self._choose(e.value or None)).props(
                    "outlined dense aria-label='device'"
                )
            others = {o.objective: o.objective for o in front.objectives if o.objective != "accuracy"}
            if len(others) > 1:
                ui.toggle(others, value=self._x or next(iter(others)), on_change=lambda e: self._set(x=e.value)).props(
                    "no-caps unelevated dense padding='2px 10px'"
                )
            if front.final:
                ui.toggle(
                    {"measured": "Measured", "predicted": "As predicted"},
                    value=self._evidence,
                    on_change=lambda e: self._set(evidence=e.value),
                ).props("no-caps unelevated dense padding='2px 10px'")
            ui.switch("Zoom to fronts", value=self._focus, on_change=lambda e: self._set(focus=e.value)).props("dense")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, f"_{name}", value)
        self._draw()

    def _open(self, event: EChartPointClickEventArguments) -> None:
        if isinstance(event.data, dict) and "arch" in event.data:
            ui.navigate.to(subnet_url(self._search_id, event.data["arch"], event.data["origin"]))


def _caption(front: FrontSchema, evidence: str) -> str:
    if front.final and evidence == "measured":
        out = (
            "Solid: measured on the device and on test data, front members larger. Hollow: as the search had predicted."
        )
    elif front.final:
        out = "Every evaluated network where the search believed it to be; larger marks are on the final front."
    elif any(o.metric == "proxy_score" for o in front.objectives):
        out = "Latency is predicted; zero-cost scores say which networks are worth training, not how accurate they are."
    else:
        out = "Latency is predicted and accuracy estimated with shared weights; front members will be measured."
    extra = len(front.objectives) - 2
    if extra > 0:
        out += f" The front has {extra + 2} objectives: this is a projection on two of them."
    return f"{out} Click a point for its network."


class CurveCard:
    """Hypervolume of search and random baseline at equal evaluations."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._chart: ui.echart | None = None
        self._shown: tuple[Any, ...] = ()
        self._box.set_visibility(False)

    def show(self, search: SearchSchema, device: str | None) -> None:
        """Draws the history, of one device where each has a front."""
        seen = device or search.spec.views[0]
        history = tuple(h for h in search.hypervolume_history if h.device is None or h.device == seen)
        if history == self._shown:
            return
        self._shown = history
        self._box.set_visibility(bool(history))
        options = charts.hypervolume(history)
        if self._chart is not None:
            self._chart.options.clear()
            self._chart.options.update(options)
            self._chart.update()
            return
        with self._box:
            with div("card-head"):
                heading("Against random search", 2)
                kind_chip("estimated")
            self._chart = ui.echart(options, renderer="svg").classes("chart curve")
            text("Share of the ideal area that is dominated, after equally many evaluated networks.", "small muted")
