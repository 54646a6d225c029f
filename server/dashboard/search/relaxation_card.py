"""The continuous relaxation of a gradient search: its readings over epochs, and the operations as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import ui

from nas.core.cells import CellGraph
from nas.core.events import Traced
from server.dashboard import formatting
from server.dashboard.candidate import cell_svg
from server.dashboard.chart_view import labelled_chart, replace_options
from server.dashboard.charts.relaxation import by_run, operation_weights_chart, reading_charts, reading_title
from server.dashboard.elements import div, heading, kind_chip, stat, text
from server.dashboard.search.discretization import DiscretizationSummary

_WEIGHTS = "operation weights"
_LEGEND = "the strongest operation of every edge; the larger its weight, the darker its line"
_LEGEND_WITH_FAINT = f"{_LEGEND}. Dashed: edges that discretisation would remove"


@dataclass(frozen=True)
class _CardIdentity:
    """The parts of the card; as long as they are the same, only their data are replaced."""

    charts: tuple[str, ...]
    runs: tuple[str, ...]
    has_cells: bool
    summary: DiscretizationSummary


class RelaxationCard:
    """A small chart for every reading, and of one run (a seed or a subspace) the cells as they are now and the weights
    of operations by edge. Hidden while there are no readings."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._box.set_visibility(False)
        self._traces: tuple[Traced, ...] = ()
        self._cells: tuple[CellGraph, ...] = ()
        self._summary = DiscretizationSummary()
        self._run = ""
        self._identity: _CardIdentity | None = None
        self._charts: dict[str, ui.echart] = {}
        self._cell_drawing: ui.html | None = None

    def show(self, traces: tuple[Traced, ...], cells: tuple[CellGraph, ...], summary: DiscretizationSummary) -> None:
        """Draw the ``traces`` by epoch (others have cards of their own), the ``cells``, and the result."""
        traces = tuple(t for t in traces if "epoch" in t.values)
        if (traces, cells, summary) != (self._traces, self._cells, self._summary):
            self._traces, self._cells, self._summary = traces, cells, summary
            self._draw()

    def _draw(self) -> None:
        runs = by_run(self._traces)
        self._box.set_visibility(bool(runs))
        if not runs:
            return
        if self._run not in runs:
            self._run = next(iter(runs))
        latest = runs[self._run][-1]
        charts = reading_charts(runs)
        charts |= {_WEIGHTS: operation_weights_chart(latest)} if latest.table else {}
        drawing = ""
        if latest.table and self._cells:
            drawing = cell_svg.side_by_side([(cell, cell_svg.strongest(cell, latest)) for cell in self._cells])
        identity = _CardIdentity(tuple(charts), tuple(runs), bool(drawing), self._summary)
        if identity == self._identity:
            if self._cell_drawing is not None:
                self._cell_drawing.set_content(drawing)
            for name, options in charts.items():
                replace_options(self._charts[name], options)
            return
        self._identity = identity
        self._box.clear()
        with self._box:
            self._draw_head(list(runs))
            _draw_summary(self._summary)
            with div("fit traces"):
                for name, options in charts.items():
                    if name != _WEIGHTS:
                        label = f"{reading_title(name)} by epoch"
                        self._charts[name] = labelled_chart(options, "chart trace", label)
            self._cell_drawing = self._draw_cells(drawing) if drawing else None
            if _WEIGHTS in charts:
                label = "Weight of every operation on every edge"
                self._charts[_WEIGHTS] = labelled_chart(charts[_WEIGHTS], "chart mixture", label)
                text("Weight of every operation on every edge after the last epoch.", "small muted")

    def _draw_head(self, runs: Sequence[str]) -> None:
        with div("card-head"):
            heading("Continuous relaxation", 2)
            kind_chip("trained")
            div("grow")
            if len(runs) > 1:
                toggle = ui.toggle(list(runs), value=self._run).props("no-caps unelevated dense padding='2px 10px'")
                toggle.on_value_change(lambda e: self._select_run(e.value))

    def _draw_cells(self, drawing: str) -> ui.html:
        with div("flow").style("margin: 1rem 0 .5rem"):
            heading("Strongest operations now", 3)
            text(_LEGEND if self._cells[0].inputs is None else _LEGEND_WITH_FAINT, "small muted", "span")
        return ui.html(drawing, sanitize=False)

    def _select_run(self, run: str) -> None:
        self._run = run
        self._draw()


def _draw_summary(summary: DiscretizationSummary) -> None:
    """Validation accuracies by subspace; or by seed with mean and deviation, nothing for a single seed."""
    if summary.subspaces:
        with div("figures").style("margin-bottom: 1rem"):
            for i, result in enumerate(summary.subspaces):
                note = "" if i else "validation accuracy of its architecture"
                stat(f"Subspace {result.subspace}", _accuracy(result.val_accuracy), "estimated", note)
        return
    seeds = [s for s in summary.seeds if s.val_accuracy is not None]
    mean, deviation = summary.mean_val_accuracy, summary.deviation_val_accuracy
    if len(seeds) < 2 or mean is None or deviation is None:
        return
    with div("figures").style("margin-bottom: 1rem"):
        title = f"Validation accuracy over {len(seeds)} seeds"
        note = "of the discretised architectures, mean and deviation"
        stat(title, formatting.spread(mean, deviation, "%"), "estimated", note)
        for seed in seeds:
            stat(f"Seed {seed.seed}", _accuracy(seed.val_accuracy))


def _accuracy(value: float | None) -> str:
    return formatting.MISSING if value is None else formatting.quantity(value, "%")
