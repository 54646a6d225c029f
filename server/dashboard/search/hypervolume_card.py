"""Search against random search."""

from __future__ import annotations

from nicegui import ui

from nas.core.events import HypervolumeAt
from nas.schemas.searches import SearchSchema
from server.dashboard.chart_view import replace_options
from server.dashboard.charts.hypervolume import hypervolume_chart
from server.dashboard.elements import div, heading, kind_chip, text


class HypervolumeCard:
    """Hypervolume of search and random baseline at equal evaluations. Hidden before the first value."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._chart: ui.echart | None = None
        self._history: tuple[HypervolumeAt, ...] = ()
        self._box.set_visibility(False)

    def show(self, search: SearchSchema, device: str | None) -> None:
        """Draw the history; that of ``device`` if each device of the fleet has a front."""
        history = tuple(h for h in search.hypervolume_history if h.device is None or h.device == device)
        if history == self._history:
            return
        self._history = history
        self._box.set_visibility(bool(history))
        options = hypervolume_chart(history)
        if self._chart is not None:
            replace_options(self._chart, options)
            return
        with self._box:
            with div("card-head"):
                heading("Against random search", 2)
                kind_chip("estimated")
            self._chart = ui.echart(options, renderer="svg").classes("chart curve")
            text("Share of the objective space that is dominated, after equally many evaluations.", "small muted")
