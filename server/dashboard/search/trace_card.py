"""How a differentiable search learns its mixture: its readings over epochs, and the mixture as it is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from nas.schemas.candidates import CellSchema
from nas.schemas.jobs import EventSchema
from server.dashboard import charts, formatting
from server.dashboard.candidate import cell_svg
from server.dashboard.elements import div, heading, kind_chip, stat, text
from server.dashboard.search.view_model import by_run

_LEGEND = "the strongest operation of every edge; the surer, the stronger its line"
_LEGEND_KEPT = f"{_LEGEND}. Dashed: edges that would be left out"


class TraceCard:
    """A small chart for every reading, and of one run (a seed's, or a part's) the cells as they are now and weights of
    operations by edge. Hidden while there are no readings."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._box.set_visibility(False)
        self._events: tuple[EventSchema, ...] = ()
        self._cells: tuple[CellSchema, ...] = ()
        self._derived: Mapping[str, Any] = {}
        self._run = ""
        self._made: tuple[object, ...] = ()
        self._charts: dict[str, ui.echart] = {}
        self._graphs: ui.html | None = None

    def show(self, events: tuple[EventSchema, ...], kinds: tuple[CellSchema, ...], derived: Mapping[str, Any]) -> None:
        """Draws the ``traced`` events of a search's runs over epochs, other readings have cards of their own; the cells
        of these kinds; and what of every run was ``derived`` in the end."""
        events = tuple(e for e in events if "epoch" in e.body["values"])
        if (events, kinds, derived) != (self._events, self._cells, self._derived):
            self._events, self._cells, self._derived = events, kinds, derived
            self._draw()

    def _draw(self) -> None:
        runs = by_run(self._events)
        self._box.set_visibility(bool(runs))
        if not runs:
            return
        if self._run not in runs:
            self._run = next(iter(runs))
        drawn = charts.traces(runs)
        last = runs[self._run][-1]
        drawn |= {"mixture": charts.mixture(last)} if last["table"] else {}
        graphs = [(kind, cell_svg.strongest(kind, last)) for kind in self._cells] if last["table"] else []
        made = (tuple(drawn), tuple(runs), len(graphs), self._derived)
        if made == self._made:
            if self._graphs is not None:
                self._graphs.set_content(cell_svg.figures(graphs))
            for name, options in drawn.items():
                self._charts[name].options.clear()
                self._charts[name].options.update(options)
                self._charts[name].update()
            return
        self._made = made
        self._box.clear()
        with self._box:
            self._draw_head(list(runs))
            _draw_derived(self._derived)
            with div("fit traces"):
                for name, options in drawn.items():
                    if name != "mixture":
                        self._add(name, options, "chart trace", f"{charts.trace_title(name)} by epoch")
            self._graphs = None
            if graphs:
                with div("flow").style("margin: 1rem 0 .5rem"):
                    heading("What is strongest now", 3)
                    text(_LEGEND if self._cells[0].inputs is None else _LEGEND_KEPT, "small muted", "span")
                self._graphs = ui.html(cell_svg.figures(graphs), sanitize=False)
            if "mixture" in drawn:
                self._add("mixture", drawn["mixture"], "chart mixture", "Weight of every operation on every edge")
                text("The mixture after the last epoch: weight of every operation on every edge.", "small muted")

    def _draw_head(self, runs: Sequence[str]) -> None:
        with div("card-head"):
            heading("How the mixture is learned", 2)
            kind_chip("trained")
            div("grow")
            if len(runs) > 1:
                ui.toggle(list(runs), value=self._run, on_change=self._choose).props(
                    "no-caps unelevated dense padding='2px 10px'"
                )

    def _choose(self, event: object) -> None:
        self._run = str(getattr(event, "value"))  # noqa: B009
        self._draw()

    def _add(self, name: str, options: charts.Options, classes: str, label: str) -> None:
        chart = ui.echart(options, renderer="svg").classes(classes).props(f'role="img" aria-label="{label}"')
        self._charts[name] = chart


def _draw_derived(derived: Mapping[str, Any]) -> None:
    """Validation accuracy of what each part has found; or each seed, with mean and deviation, nothing for a single
    seed."""
    if parts := derived.get("parts", []):
        with div("figures").style("margin-bottom: 1rem"):
            for i, p in enumerate(parts):
                note = "" if i else "validation accuracy of its network"
                stat(f"Part {p['part']}", formatting.quantity(p["val_accuracy"], "%"), "estimated", note)
        return
    seeds = [s for s in derived.get("seeds", []) if s["val_accuracy"] is not None]
    if len(seeds) < 2:
        return
    mean, deviation = derived["mean_val_accuracy"], derived["deviation_val_accuracy"]
    with div("figures").style("margin-bottom: 1rem"):
        note = "of the derived networks, mean and deviation"
        stat(f"Validation accuracy over {len(seeds)} seeds", formatting.spread(mean, deviation, "%"), "estimated", note)
        for s in seeds:
            stat(f"Seed {s['seed']}", formatting.quantity(s["val_accuracy"], "%"))
