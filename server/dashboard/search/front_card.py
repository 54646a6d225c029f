"""The card of the Pareto front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from nicegui import events, ui

from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema, FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard.chart_view import labelled_chart, replace_options
from server.dashboard.charts.axes import ChartAxes, ChartSettings, Evidence, chart_axes, metric_kinds
from server.dashboard.charts.pareto import pareto_chart
from server.dashboard.elements import div, heading, kind_chip, text
from server.dashboard.front_text import front_caption, limit_text
from server.dashboard.search.view_model import candidate_url

_TOGGLE_PROPS = "no-caps unelevated dense padding='2px 10px'"


@dataclass(frozen=True)
class _ChartIdentity:
    """What the axes mean: a chart with another meaning is created anew, otherwise its data are replaced."""

    device: str | None
    axes: ChartAxes
    log: tuple[bool, bool]


class FrontCard:
    """The Pareto chart. Hidden before the first candidate. ``select_device`` reads the front of another device."""

    def __init__(self, search_id: str, select_device: Callable[[str | None], Awaitable[None]]) -> None:
        self._search_id = search_id
        self._select_device = select_device
        self._search: SearchSchema | None = None
        self._front: FrontSchema | None = None
        self._candidates: tuple[CandidateSchema, ...] = ()
        self._settings = ChartSettings()
        self._identity: _ChartIdentity | None = None
        self._chart: ui.echart | None = None
        self._box = div("part card")
        self._box.set_visibility(False)

    def show(self, search: SearchSchema, front: FrontSchema, candidates: tuple[CandidateSchema, ...]) -> None:
        """Draw fronts and candidates, unless they are those that are drawn already."""
        if (self._front, self._candidates) == (front, candidates):
            return
        self._search, self._front, self._candidates = search, front, candidates
        if candidates:
            self._box.set_visibility(True)
            self._draw()

    def _draw(self) -> None:
        search, front, settings = self._search, self._front, self._settings
        assert search is not None
        assert front is not None
        test = search.data.splits.get("test") if search.data is not None else None
        options = pareto_chart(front, self._candidates, settings, test.images if test is not None else None)
        axes = chart_axes(front, self._candidates, settings)
        identity = _ChartIdentity(front.device, axes, (settings.log_x, settings.log_y))
        if identity == self._identity and self._chart is not None:
            replace_options(self._chart, options)
            self._limit_text.set_text(limit_text(front, axes, settings.limit))
            return
        self._identity = identity
        self._box.clear()
        with self._box:
            self._draw_head(search, front, axes)
            label = f"{axes.y.title} over {axes.x.title} of the candidates of the search and of random search"
            self._chart = labelled_chart(options, "chart pareto", label)
            self._chart.on_point_click(self._open_candidate)
            text(front_caption(front, axes, settings), "small muted")
            self._draw_options(axes)

    def _draw_head(self, search: SearchSchema, front: FrontSchema, axes: ChartAxes) -> None:
        settings = self._settings
        with div("card-head"):
            heading("Pareto front", 2)
            if not front.final:
                kind_chip("predicted")
                text("no candidate has been measured yet", "small muted", "span")
            div("grow")
            if search.fleet:
                self._draw_device_select(search, front)
            costs = {o.objective: o.objective for o in front.costs}
            if len(costs) > 1:
                objective = settings.x_objective or next(iter(costs))
                objectives = ui.toggle(costs, value=objective).props(_TOGGLE_PROPS)
                objectives.on_value_change(lambda e: self._change(x_objective=e.value, x_metric="", limit=None))
            if front.final:
                evidence = ui.toggle(_evidence_names(front), value=settings.evidence).props(_TOGGLE_PROPS)
                evidence.on_value_change(lambda e: self._change(evidence=e.value, x_metric="", y_metric=""))
            focus = ui.switch("Zoom to fronts", value=settings.focus).props("dense")
            focus.on_value_change(lambda e: self._change(focus=e.value))

    def _draw_options(self, axes: ChartAxes) -> None:
        """Other metrics on the axes, logarithms, and a bound to try."""
        settings = self._settings
        names = {name: METRICS[name].label for name in metric_kinds(self._candidates)}
        with div("fold", "details") as fold:
            if axes.custom or settings.limit is not None or settings.log_x or settings.log_y:
                fold.props("open")
            text("Axes and bound", tag="summary")
            with div("flow controls"):
                for label, field, metric in (("Across", "x_metric", axes.x.metric), ("Up", "y_metric", axes.y.metric)):
                    choice = ui.select(names, value=metric if metric in names else None, label=label)
                    choice.props("outlined dense").classes("decision")
                    choice.on_value_change(lambda e, field=field: self._change(**{field: e.value}))
                for label, field, on in (
                    ("Log across", "log_x", settings.log_x),
                    ("Log up", "log_y", settings.log_y),
                ):
                    switch = ui.switch(label, value=on).props("dense")
                    switch.on_value_change(lambda e, field=field: self._change(**{field: e.value}))
                if axes.x.goal == "min":
                    bound = ui.number(
                        f"Try a bound ({axes.x.unit or 'count'})", value=settings.limit, min=0, format="%g"
                    )
                    bound.props("outlined dense clearable debounce=400").classes("decision")
                    bound.on_value_change(lambda e: self._change(limit=e.value or None))
        assert self._front is not None
        self._limit_text = text(limit_text(self._front, axes, settings.limit), "small strong").props('role="status"')

    def _draw_device_select(self, search: SearchSchema, front: FrontSchema) -> None:
        worst_case = {"": "Worst case"} if None in search.spec.views else {}
        devices = worst_case | {m.device: m.device for m in search.fleet}
        ui.select(devices, value=front.device or "", on_change=lambda e: self._select_device(e.value or None)).props(
            "outlined dense aria-label='device'"
        )

    def _change(self, **fields: str | bool | float | None) -> None:
        settings = replace(self._settings, **fields)  # type: ignore[arg-type]
        if settings != self._settings:
            self._settings = settings
            self._draw()

    def _open_candidate(self, event: events.EChartPointClickEventArguments) -> None:
        if isinstance(event.data, dict) and "arch" in event.data:
            ui.navigate.to(candidate_url(self._search_id, event.data["arch"], event.data["origin"]))


def _evidence_names(front: FrontSchema) -> dict[Evidence, str]:
    """What can be shown of a final front; nothing is called measured where only figures of the device are known."""
    measured = any(o.objective == "latency" and o.kind == "measured" for o in front.objectives)
    tested = "Measured" if measured else "Tested"
    return {"measured": tested, "validation": "By validation", "predicted": "As predicted"}
