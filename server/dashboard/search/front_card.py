"""The card of the Pareto front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from nicegui import ui
from nicegui.events import EChartPointClickEventArguments

from nas.core.tasks import task_of_objective
from nas.schemas.candidates import CandidateSchema, FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard.chart_view import labelled_chart, replace_options
from server.dashboard.charts.pareto import Evidence, pareto_chart
from server.dashboard.elements import div, heading, kind_chip, text
from server.dashboard.front_text import membership_note
from server.dashboard.search.view_model import candidate_url

_TOGGLE_PROPS = "no-caps unelevated dense padding='2px 10px'"


@dataclass(frozen=True)
class ChartSettings:
    """The reader's choices: the objective of the horizontal axis (empty: the first), evidence, and framing."""

    x_objective: str = ""
    evidence: Evidence = "measured"
    focus: bool = False


@dataclass(frozen=True)
class _ChartIdentity:
    """What the axes mean: a chart with another meaning is created anew, otherwise its data are replaced."""

    final: bool
    device: str | None
    metrics: tuple[str, ...]
    x_objective: str
    evidence: Evidence


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
        options = pareto_chart(front, self._candidates, settings.x_objective, settings.evidence, settings.focus)
        metrics = tuple(o.metric for o in front.objectives)
        identity = _ChartIdentity(front.final, front.device, metrics, settings.x_objective, settings.evidence)
        if identity == self._identity and self._chart is not None:
            replace_options(self._chart, options)
            return
        self._identity = identity
        self._box.clear()
        with self._box:
            self._draw_head(search, front)
            label = "Accuracy over cost of the candidates of the search and of random search"
            self._chart = labelled_chart(options, "chart pareto", label)
            self._chart.on_point_click(self._open_candidate)
            text(_caption(front, settings.evidence), "small muted")

    def _draw_head(self, search: SearchSchema, front: FrontSchema) -> None:
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
                objectives.on_value_change(lambda e: self._change(replace(self._settings, x_objective=e.value)))
            if front.final:
                names = {"measured": "Measured", "validation": "By validation", "predicted": "As predicted"}
                evidence = ui.toggle(names, value=settings.evidence).props(_TOGGLE_PROPS)
                evidence.on_value_change(lambda e: self._change(replace(self._settings, evidence=e.value)))
            focus = ui.switch("Zoom to fronts", value=settings.focus).props("dense")
            focus.on_value_change(lambda e: self._change(replace(self._settings, focus=e.value)))

    def _draw_device_select(self, search: SearchSchema, front: FrontSchema) -> None:
        worst_case = {"": "Worst case"} if None in search.spec.views else {}
        devices = worst_case | {m.device: m.device for m in search.fleet}
        ui.select(devices, value=front.device or "", on_change=lambda e: self._select_device(e.value or None)).props(
            "outlined dense aria-label='device'"
        )

    def _change(self, settings: ChartSettings) -> None:
        self._settings = settings
        self._draw()

    def _open_candidate(self, event: EChartPointClickEventArguments) -> None:
        if isinstance(event.data, dict) and "arch" in event.data:
            ui.navigate.to(candidate_url(self._search_id, event.data["arch"], event.data["origin"]))


def _title(front: FrontSchema) -> str:
    """The task's quality for people: ``accuracy``."""
    task = task_of_objective(front.quality.objective)
    return task.quality.title if task is not None else front.quality.objective


def _caption(front: FrontSchema, evidence: Evidence) -> str:
    if front.final and evidence == "measured":
        caption = (
            "Filled marks: measured on the device and on test data, with the 95 % interval of the latency; front "
            "members are larger. Hollow circles: the search's predictions."
        )
    elif front.final and evidence == "validation":
        caption = (
            f"Measured costs over the {_title(front)} that members are chosen by: no member is dominated in all "
            "objectives."
        )
    elif front.final:
        caption = "All candidates as the search predicted them; larger marks are on the final front."
    elif any(o.metric == "proxy_score" for o in front.objectives):
        caption = (
            "Latency is predicted. Zero-cost scores rank architectures for training; they are no estimates of "
            f"{_title(front)}."
        )
    else:
        caption = (
            f"Latency is predicted and {_title(front)} estimated with shared weights; front members will be measured."
        )
    if front.final and evidence == "measured" and (note := membership_note(front)):
        caption += f" {note}"
    if len(front.objectives) > 2:
        caption += f" The front has {len(front.objectives)} objectives; this is a projection on two of them."
    return f"{caption} Click a mark to open its candidate."
